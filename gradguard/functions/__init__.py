"""Single functions with a backward pass of their own: checked, and named where the gradient of a tensor is wrong."""

from gradguard.functions.culprits import CallsFunctions, with_functions
from gradguard.functions.handwritten import check_backward
from gradguard.functions.single import merged, unchecked
from gradguard.functions.traced import BackwardTrace, trace_backward

__all__ = [
    "BackwardTrace",
    "CallsFunctions",
    "check_backward",
    "merged",
    "trace_backward",
    "unchecked",
    "with_functions",
]
