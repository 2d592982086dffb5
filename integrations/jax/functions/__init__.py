"""Single functions with a derivative rule of their own, each checked on what a training step hands to it."""

from gradguard.integrations.jax.functions.checks import check_function
from gradguard.integrations.jax.functions.step import TrainingStep

__all__ = ["TrainingStep", "check_function"]
