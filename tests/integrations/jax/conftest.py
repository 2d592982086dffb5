import os

# Before JAX is imported: programs of this size take longer to optimize than to run.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
