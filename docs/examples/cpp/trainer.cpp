// A trainer of the LSTM in lstm.hpp that runs under guard from Python: its table for gradguard, its own loop, and the
// steps of that loop as functions, for a loop that is written in Python.
#include "lstm.hpp"

#include <gradguard.h>

static const Real RATE = static_cast<Real>(0.5);
static std::mt19937 dice;
static Lstm model(dice);
static Batch batch = draw(dice);

static double loss(void *) { return model.loss(batch); }

static gradguard_table table;

gradguard_table *gradguard_describe() {
    static const gradguard_constant constants[] = {{"timesteps", TIMESTEPS}};
    static std::vector<gradguard_tensor> rows;
    rows.clear();
    for (Tensor *tensor : model.tensors()) {
        Array &w = tensor->values, &g = tensor->gradients;
        rows.push_back({tensor->name, w.data.data(), w.data.size(), g.data.data(), g.data.size(), w.shape.data(),
                        w.shape.size(), sizeof(Real) == 4 ? GRADGUARD_FLOAT : GRADGUARD_DOUBLE});
    }
    table = {GRADGUARD_ABI_VERSION, rows.size(), rows.data(), 1, constants, loss, nullptr, nullptr};
    return &table;
}

extern "C" {

// Starts again, with the bug or without; the new model is copied into the old one, whose addresses are in the table.
void start(unsigned seed, int averages) {
    dice.seed(seed);
    const Lstm fresh(dice);
    model = fresh;
    model.averages = averages != 0;
}

// The trainer's own loop; returns the number of steps that it took.
int train(int steps) {
    for (int step = 0; step < steps; ++step) {
        batch = draw(dice);
        model.backward(batch);
        if (gradguard_after_backward(&table, step)) return step;
        model.update(RATE);
    }
    return steps;
}

// The steps of the loop, for a loop in Python.
void next_batch() { batch = draw(dice); }
void backward() { model.backward(batch); }
void update() { model.update(RATE); }
const Batch *current_batch() { return &batch; }

}
