// The network of gradguard's motivating example: an LSTM with a softmax layer, in float, with hand-written gradients.
// It does not use gradguard.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <random>
#include <utility>
#include <vector>

#ifndef REAL
#define REAL float
#endif
using Real = REAL;  // -DREAL=double builds the same network in double

constexpr std::size_t INPUTS = 5, HIDDEN = 5, OUTPUTS = 5, GATES = 4 * HIDDEN, TIMESTEPS = 39;

// Numbers in C order: a vector or a matrix.
struct Array {
    std::vector<std::size_t> shape;
    std::vector<Real> data;

    explicit Array(std::vector<std::size_t> lengths) : shape(std::move(lengths)) {
        std::size_t size = 1;
        for (std::size_t length : shape) size *= length;
        data.assign(size, 0);
    }
    Real &operator[](std::size_t i) { return data[i]; }
    Real &operator()(std::size_t row, std::size_t column) { return data[row * shape[1] + column]; }
};

struct Tensor {
    const char *name;
    Array values, gradients;

    Tensor(const char *called, const std::vector<std::size_t> &shape) : name(called), values(shape), gradients(shape) {}
};

// One sequence: the input symbols, and the symbols to predict.
struct Batch {
    int x[TIMESTEPS], y[TIMESTEPS];
};

// Random symbols; the network predicts each of them one step later.
inline Batch draw(std::mt19937 &random) {
    Batch batch;
    for (std::size_t t = 0; t < TIMESTEPS; ++t) {
        batch.x[t] = static_cast<int>(random() % INPUTS);
        batch.y[t] = batch.x[t ? t - 1 : 0];
    }
    return batch;
}

class Lstm {
public:
    // The columns of Wx, Wh and b are the gates: input, forget, output, candidate.
    Tensor Wx{"Wx", {INPUTS, GATES}}, Wh{"Wh", {HIDDEN, GATES}}, b{"b", {GATES}};
    Tensor V{"V", {HIDDEN, OUTPUTS}}, c{"c", {OUTPUTS}};
    bool averages = false;  // the bug of the example: the LSTM's gradients are averaged over the timesteps

    explicit Lstm(std::mt19937 &random) {
        for (Tensor *tensor : {&Wx, &Wh, &V})
            for (Real &weight : tensor->values.data) weight = static_cast<Real>(random() / 4294967296.0 * 1.6 - 0.8);
        for (std::size_t j = 0; j < HIDDEN; ++j) b.values[HIDDEN + j] = 1;  // the forget gates start open
    }

    std::vector<Tensor *> tensors() { return {&Wx, &Wh, &b, &V, &c}; }

    // The mean cross-entropy over the timesteps, in nats.
    Real loss(const Batch &batch) {
        Real sum = 0;
        for (std::size_t t = 0; t < TIMESTEPS; ++t) {
            step(t, batch.x[t]);
            sum += cross_entropy(t, batch.y[t]);
        }
        return sum / TIMESTEPS;
    }

    // Backpropagation through time; overwrites the gradients.
    void backward(const Batch &batch) {
        loss(batch);
        for (Tensor *tensor : tensors()) std::fill(tensor->gradients.data.begin(), tensor->gradients.data.end(), Real(0));
        Real dh_next[HIDDEN] = {}, dc_next[HIDDEN] = {};
        for (std::size_t t = TIMESTEPS; t-- > 0;) {
            Real dh[HIDDEN], da[GATES];
            through_softmax(t, batch.y[t], dh_next, dh);
            through_gates(t, dh, dc_next, da);
            through_weights(t, batch.x[t], da, dh_next);
        }
        if (averages)
            for (Tensor *tensor : {&Wx, &Wh, &b})
                for (Real &gradient : tensor->gradients.data) gradient /= TIMESTEPS;
    }

    // Plain gradient descent.
    void update(Real rate) {
        for (Tensor *tensor : tensors())
            for (std::size_t i = 0; i < tensor->values.data.size(); ++i)
                tensor->values[i] -= rate * tensor->gradients[i];
    }

private:
    // What the backward pass needs of a forward pass. h[t] and C[t] enter step t, h[t + 1] and C[t + 1] leave it.
    Real gates[TIMESTEPS][GATES], C[TIMESTEPS + 1][HIDDEN] = {}, tanh_C[TIMESTEPS][HIDDEN], h[TIMESTEPS + 1][HIDDEN] = {};
    Real softmax[TIMESTEPS][OUTPUTS];

    void step(std::size_t t, int symbol) {
        for (std::size_t q = 0; q < GATES; ++q) {
            Real a = Wx.values(symbol, q) + b.values[q];
            for (std::size_t j = 0; j < HIDDEN; ++j) a += h[t][j] * Wh.values(j, q);
            gates[t][q] = q < 3 * HIDDEN ? 1 / (1 + std::exp(-a)) : std::tanh(a);
        }
        const Real *i = gates[t], *f = i + HIDDEN, *o = f + HIDDEN, *g = o + HIDDEN;
        for (std::size_t j = 0; j < HIDDEN; ++j) {
            C[t + 1][j] = f[j] * C[t][j] + i[j] * g[j];
            tanh_C[t][j] = std::tanh(C[t + 1][j]);
            h[t + 1][j] = o[j] * tanh_C[t][j];
        }
    }

    Real cross_entropy(std::size_t t, int target) {
        Real logits[OUTPUTS], total = 0;
        for (std::size_t k = 0; k < OUTPUTS; ++k) {
            logits[k] = c.values[k];
            for (std::size_t j = 0; j < HIDDEN; ++j) logits[k] += h[t + 1][j] * V.values(j, k);
        }
        const Real largest = *std::max_element(logits, logits + OUTPUTS);
        for (std::size_t k = 0; k < OUTPUTS; ++k) total += softmax[t][k] = std::exp(logits[k] - largest);
        for (Real &probability : softmax[t]) probability /= total;
        return std::log(total) + largest - logits[target];
    }

    // The gradient from the mean loss to the hidden state that leaves step t.
    void through_softmax(std::size_t t, int target, const Real *dh_next, Real *dh) {
        std::copy(dh_next, dh_next + HIDDEN, dh);
        for (std::size_t k = 0; k < OUTPUTS; ++k) {
            const Real dlogit = (softmax[t][k] - (static_cast<int>(k) == target)) / TIMESTEPS;
            c.gradients[k] += dlogit;
            for (std::size_t j = 0; j < HIDDEN; ++j) {
                V.gradients(j, k) += h[t + 1][j] * dlogit;
                dh[j] += V.values(j, k) * dlogit;
            }
        }
    }

    // The gradients of the gates of step t before their nonlinearity, and of the cell state that enters.
    void through_gates(std::size_t t, const Real *dh, Real *dc_next, Real *da) {
        const Real *i = gates[t], *f = i + HIDDEN, *o = f + HIDDEN, *g = o + HIDDEN;
        for (std::size_t j = 0; j < HIDDEN; ++j) {
            const Real dc = dh[j] * o[j] * (1 - tanh_C[t][j] * tanh_C[t][j]) + dc_next[j];
            da[j] = dc * g[j] * i[j] * (1 - i[j]);
            da[HIDDEN + j] = dc * C[t][j] * f[j] * (1 - f[j]);
            da[2 * HIDDEN + j] = dh[j] * tanh_C[t][j] * o[j] * (1 - o[j]);
            da[3 * HIDDEN + j] = dc * i[j] * (1 - g[j] * g[j]);
            dc_next[j] = dc * f[j];
        }
    }

    // Adds step t to the gradients of the LSTM, and computes the gradient of the hidden state that enters.
    void through_weights(std::size_t t, int symbol, const Real *da, Real *dh_next) {
        std::fill(dh_next, dh_next + HIDDEN, Real(0));
        for (std::size_t q = 0; q < GATES; ++q) {
            Wx.gradients(symbol, q) += da[q];
            b.gradients[q] += da[q];
            for (std::size_t j = 0; j < HIDDEN; ++j) {
                Wh.gradients(j, q) += h[t][j] * da[q];
                dh_next[j] += Wh.values(j, q) * da[q];
            }
        }
    }
};
