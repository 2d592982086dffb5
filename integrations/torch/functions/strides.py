"""Functions whose kernels ignore the strides of what they receive: found by the same call in another memory layout."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gradguard.integrations.torch.distributed.alone import alone
from gradguard.integrations.torch.functions.calls import FunctionCall
from gradguard.integrations.torch.functions.layout import can_be_relaid
from gradguard.integrations.torch.functions.products import check_call
from gradguard.integrations.torch.replay.forwards import output_tolerance, relative_distance
from gradguard.report import listed, percent

UPSTREAM = "the upstream gradient"


def fault_of_strides(call: FunctionCall) -> str:
    """Whose strides a wrong call ignores, in a clause; "" where it is wrong with contiguous copies too.

    Args:
        call: A call whose gradients are wrong.
    """
    strided = [i for i in _floating(call) if not call.args[i].is_contiguous()]
    upstream = not all(it is None or it.is_contiguous() for it in call.cotangents)
    if not strided and not upstream:
        return ""
    contiguous = call.relaid(strided).with_relaid_cotangents() if upstream else call.relaid(strided)
    names = [call.names[i] for i in strided]
    off = _distance(contiguous, call)
    if off:
        return _of_forward(names, off)
    is_right = check_call(contiguous).verdict.is_bug is False
    return _of_backward([*names, *([UPSTREAM] if upstream else [])]) if is_right else ""


def _floating(call: FunctionCall) -> list[int]:
    return [i for i, arg in enumerate(call.args) if isinstance(arg, Tensor) and can_be_relaid(arg)]


def _distance(contiguous: FunctionCall, other: FunctionCall) -> float:
    """The largest relative distance of an output from that for contiguous inputs; 0 where kernels explain it."""
    with torch.no_grad():
        pairs = zip(_floating_outputs(contiguous), _floating_outputs(other), strict=True)
        distances = [(relative_distance(one, two), output_tolerance(one.dtype)) for one, two in pairs]
    return max((off for off, tolerance in distances if off > tolerance), default=0.0)


def _floating_outputs(call: FunctionCall) -> list[Tensor]:
    with alone(), call.autocast.enter_again():
        return [output for output in call.outputs() if isinstance(output, Tensor) and output.is_floating_point()]


def _of_forward(names: Sequence[str], off: float) -> str:
    return (
        f"its forward pass ignores the strides of {listed(names)}: for contiguous copies it returns something else, "
        f"off by {percent(off)}"
    )


def _of_backward(names: Sequence[str]) -> str:
    return f"its backward pass ignores the strides of {listed(names)}: with contiguous copies its gradients are right"
