"""JAX 0.10 or newer: `JaxGuard` checks the gradients of a pure loss, hand-written derivative rules included."""

from gradguard.integrations.jax.functions import check_function
from gradguard.integrations.jax.guard import JaxGuard
from gradguard.integrations.jax.tap import gradient_tap

__all__ = ["JaxGuard", "check_function", "gradient_tap"]
