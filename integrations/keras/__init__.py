"""Keras 3 on PyTorch or JAX: `GradGuardCallback` checks the gradients of a model while it is fitted."""

from gradguard.integrations.keras.callback import GradGuardCallback

__all__ = ["GradGuardCallback"]
