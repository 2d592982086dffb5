/* How a trainer in C (C11) or C++ (C++17) describes itself to gradguard: its parameters, their gradients, its loss.
 *
 * The trainer is built as a shared library and defines gradguard_describe(). It does not link with gradguard: outside
 * of Python nothing calls gradguard_describe(), and `after_backward` stays null.
 */
#ifndef GRADGUARD_H
#define GRADGUARD_H

#include <stddef.h>
#include <stdint.h>

#define GRADGUARD_ABI_VERSION 1

#define GRADGUARD_FLOAT 1
#define GRADGUARD_DOUBLE 2

#if defined(_WIN32)
#define GRADGUARD_EXPORT __declspec(dllexport)
#else
#define GRADGUARD_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* One parameter tensor: dense, in C order, in the host's memory. */
typedef struct gradguard_tensor {
    const char *name;      /* UTF-8; the name in reports */
    void *values;          /* perturbed while a check evaluates the loss, then restored bit for bit */
    size_t value_count;    /* number of entries at `values` */
    void *gradients;       /* those that the optimizer is about to use; dtype and shape of `values`; only read */
    size_t gradient_count; /* number of entries at `gradients` */
    const size_t *shape;   /* `ndim` lengths */
    size_t ndim;
    int32_t dtype; /* GRADGUARD_FLOAT or GRADGUARD_DOUBLE */
} gradguard_tensor;

/* A number of the training, such as {"timesteps", 39}, by which a wrong factor may be explained. */
typedef struct gradguard_constant {
    const char *name;
    double value;
} gradguard_constant;

/* The whole description. Names do not change; pointers, shapes and constants are read again at every check. */
typedef struct gradguard_table {
    int32_t abi_version; /* GRADGUARD_ABI_VERSION */
    size_t tensor_count;
    const gradguard_tensor *tensors;
    size_t constant_count; /* may be 0 */
    const gradguard_constant *constants;
    /* The loss on the current batch, at the current values. It is deterministic: it draws no random numbers and changes
     * no state that the training or the next evaluation reads. It does not throw. A loss that is summed in double is
     * less noisy than one in float, and shows smaller errors. */
    double (*loss)(void *user);
    void *user; /* the argument of `loss` */
    /* Set by gradguard while Python runs the trainer's own loop under guard; null otherwise. */
    int (*after_backward)(int64_t step);
} gradguard_table;

/* The trainer defines this. The table lives as long as the library. */
GRADGUARD_EXPORT gradguard_table *gradguard_describe(void);

/* For the trainer's loop, after each backward pass and before the update. 0: continue. Anything else: return to Python
 * without the update; an exception will be raised there. Steps never go backwards. */
static inline int gradguard_after_backward(const gradguard_table *table, int64_t step) {
    return table->after_backward ? table->after_backward(step) : 0;
}

#ifdef __cplusplus
}
#endif

#endif
