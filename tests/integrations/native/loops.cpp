// The documented trainer with loops that go wrong, or otherwise, and a loss that is interrupted.
#include "trainer.cpp"

#include <csignal>
#include <thread>

static int evaluations_left = -1;

static double interrupted_loss(void *) {
    if (evaluations_left-- == 0) std::raise(SIGINT);
    return model.loss(batch);
}

extern "C" {

// Ctrl-C, so to speak, during the evaluation after that many.
void interrupt_after(int evaluations) {
    evaluations_left = evaluations;
    table.loss = interrupted_loss;
}

// Ctrl-C during a backward pass.
int train_interrupted_at(int steps, int at) {
    for (int step = 0; step < steps; ++step) {
        model.backward(batch);
        if (step == at) std::raise(SIGINT);
        if (gradguard_after_backward(&table, step)) return step;
    }
    return steps;
}

int train_and_ignore_the_answer(int steps) {
    for (int step = 0; step < steps; ++step) {
        model.backward(batch);
        gradguard_after_backward(&table, step);
        model.update(RATE);
    }
    return steps;
}

int train_without_calling(int steps) { return steps; }

int train_in_a_thread(int steps) {
    int taken = 0;
    std::thread([&] { taken = train(steps); }).join();
    return taken;
}

// Divides the softmax layer's gradient by a number that is another one at each step.
int train_with_windows(int steps) {
    gradguard_constant window[] = {{"timesteps", TIMESTEPS}, {"window", 0}};
    table.constants = window;
    table.constant_count = 2;
    for (int step = 0; step < steps; ++step) {
        window[1].value = step % 2 ? 7 : 39;
        model.backward(batch);
        for (Real &gradient : model.V.gradients.data) gradient /= static_cast<Real>(window[1].value);
        if (gradguard_after_backward(&table, step)) return step;
    }
    return steps;
}

}
