"""Functions with a backward pass written by hand, checked as a training calls them."""

from gradguard.functions.traced.recorded import WrongCall
from gradguard.functions.traced.trace import BackwardTrace, trace_backward

__all__ = ["BackwardTrace", "WrongCall", "trace_backward"]
