/* A table in plain C that a test may spoil: every part of it is exported. */
#include <gradguard.h>

static float w[6] = {1, 2, 3, 4, 5, 6}, dw[6] = {2, 4, 6, 8, 10, 12};
static double b[3] = {1, 2, 3}, db[3] = {2, 4, 6};
static const size_t matrix[] = {2, 3}, vector[] = {3};

static double loss(void *user) {
    const gradguard_tensor *rows = (const gradguard_tensor *)user;
    const float *first = (const float *)rows[0].values;
    const double *second = (const double *)rows[1].values;
    double sum = 0;
    for (size_t i = 0; i < rows[0].value_count; ++i) sum += (double)first[i] * first[i];
    for (size_t i = 0; i < rows[1].value_count; ++i) sum += second[i] * second[i];
    return sum;
}

GRADGUARD_EXPORT gradguard_tensor rows[] = {
    {"w", w, 6, dw, 6, matrix, 2, GRADGUARD_FLOAT},
    {"b", b, 3, db, 3, vector, 1, GRADGUARD_DOUBLE},
};
GRADGUARD_EXPORT gradguard_constant constants[] = {{"timesteps", 39}, {"batch", 4}};
GRADGUARD_EXPORT gradguard_table table = {GRADGUARD_ABI_VERSION, 2, rows, 2, constants, loss, rows, NULL};
GRADGUARD_EXPORT gradguard_table *answer = &table;

gradguard_table *gradguard_describe(void) { return answer; }
