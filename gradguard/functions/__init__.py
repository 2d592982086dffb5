"""Single functions with a backward pass of their own: checked, and named where the gradient of a tensor is wrong."""

from gradguard.functions.culprits import CallsFunctions, with_functions

__all__ = ["CallsFunctions", "with_functions"]
