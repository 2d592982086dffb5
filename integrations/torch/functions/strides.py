"""Functions whose kernels ignore the strides of what they receive: found by the same call in another memory layout."""

import torch
from torch import Tensor

from gradguard.integrations.torch.functions.calls import FunctionCall
from gradguard.integrations.torch.functions.layout import shares_memory
from gradguard.integrations.torch.functions.products import check_call
from gradguard.integrations.torch.replay.forwards import output_tolerance, relative_distance
from gradguard.report import Report, listed, percent

UPSTREAM = "the upstream gradient"


def fault_of_strides(call: FunctionCall, report: Report) -> str:
    """Whose strides a call ignores, in a clause; "" where none is known.

    Args:
        call: The call.
        report: The check of its gradients. It is of contiguous copies of inputs whose entries share memory.
    """
    if not report.verdict.is_bug and not any(shares_memory(leaf) for leaf in call.leaves.values()):
        return ""
    strided = [i for i, arg in enumerate(call.args) if isinstance(arg, Tensor) and not arg.is_contiguous()]
    upstream = [UPSTREAM] if any(it is not None and not it.is_contiguous() for it in call.cotangents) else []
    names = [call.names[i] for i in strided]
    if not names and not upstream:
        return ""
    contiguous = call.contiguous()
    off = _distance(contiguous, call) if names else 0.0
    if off:
        return (
            f"its forward pass ignores the strides of {listed(names)}: for contiguous copies it returns something "
            f"else, off by {percent(off)}"
        )
    if report.verdict.is_bug and check_call(contiguous).verdict.is_bug is False:
        ignored = listed([*names, *upstream])
        return f"its backward pass ignores the strides of {ignored}: with contiguous copies its gradients are right"
    return ""


def _distance(contiguous: FunctionCall, other: FunctionCall) -> float:
    """The largest relative distance of an output from that for contiguous inputs; 0 where kernels explain it."""
    with torch.no_grad():
        pairs = zip(_floating_outputs(contiguous), _floating_outputs(other), strict=True)
        distances = [(relative_distance(one, two), output_tolerance(one.dtype)) for one, two in pairs]
    return max((off for off, tolerance in distances if off > tolerance), default=0.0)


def _floating_outputs(call: FunctionCall) -> list[Tensor]:
    with call.autocast.enter_again():
        return [output for output in call.outputs() if isinstance(output, Tensor) and output.is_floating_point()]
