"""Causes that predict the numerical gradient from arrays at hand: the weights, and the gradients of all tensors.

Each is a hypothesis about n at the entries that were measured. It is named only where it explains all of them within
their error bars, and where so many entries speak for it that chance does not.
"""

from gradguard.diagnosis.causes.fields.axes import axis_in_another_order
from gradguard.diagnosis.causes.fields.order import in_another_order
from gradguard.diagnosis.causes.fields.other_tensors import of_another_tensor, written_twice
from gradguard.diagnosis.causes.fields.penalty import weight_penalty

TENSOR_CAUSES = (weight_penalty, written_twice, in_another_order, of_another_tensor, axis_in_another_order)

KEYS = (
    "weight_decay",
    "l1_penalty",
    "transposed",
    "reversed",
    "interleaved",
    "shifted",
    "permuted",
    "of_another_tensor",
    "written_twice",
)

__all__ = ["KEYS", "TENSOR_CAUSES"]
