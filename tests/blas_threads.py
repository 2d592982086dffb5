"""One BLAS thread in each process: workers that share a processor would wait for each other's threads.

It must be imported before NumPy; processes that tests start inherit it.
"""

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
