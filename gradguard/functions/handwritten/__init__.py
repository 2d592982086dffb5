"""Functions whose backward pass is a second function, written by hand: one call, one layer, a step unrolled."""

from gradguard.functions.handwritten.call import Call, CheckedCall
from gradguard.functions.handwritten.layer import check_backward
from gradguard.functions.handwritten.pair import Gradients, Pair
from gradguard.functions.handwritten.structure import Inputs, copied, copied_array, input_names
from gradguard.functions.handwritten.where import MAX_CALLS, checked_with_outputs, evenly_chosen, merged, notes_of

__all__ = [
    "MAX_CALLS",
    "Call",
    "CheckedCall",
    "Gradients",
    "Inputs",
    "Pair",
    "check_backward",
    "checked_with_outputs",
    "copied",
    "copied_array",
    "evenly_chosen",
    "input_names",
    "merged",
    "notes_of",
]
