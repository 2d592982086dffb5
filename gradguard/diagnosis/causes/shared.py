"""What several wrong tensors have in common, as a hint where to look."""

import math
import re
from collections.abc import Sequence

from gradguard.diagnosis.causes.symptoms import Diagnosis, Model
from gradguard.report import TensorReport, Verdict, listed

EQUAL_RATIOS = 4.0  # standard errors, within which two ratios are one factor
SAME_FACTOR_WITH_MORE = 0.2  # relative distance of a pooled ratio from a factor that is in it, with more on top
RECURRENT_CONSTANT = re.compile("time_?steps?|bptt|unroll|recurr", re.IGNORECASE)
RECURRENT_NAME = re.compile(r"lstm|(?<![a-z])gru|rnn|recurr|(?:\b|_|w|u)hh(?:\b|_|\d)", re.IGNORECASE)
GATES = ({"i", "f", "o"}, {"input", "forget", "output"}, {"z", "r"}, {"update", "reset"})
MIN_FACTOR = 0.05  # distance of a factor from 1, below which other tensors come near it by chance


def share_one_factor(tensors: Sequence[TensorReport]) -> bool:
    """Whether the ratios of some tensors are equal, each within its error."""
    best = min(tensors, key=lambda tensor: tensor.ratio_error)
    return all(
        abs(tensor.ratio - best.ratio) <= EQUAL_RATIOS * math.hypot(tensor.ratio_error, best.ratio_error)
        for tensor in tensors
    )


def one_factor_everywhere(model: Model) -> Diagnosis | None:
    """Every tensor is wrong by the same factor."""
    scaled = _of(Verdict.scale, model)
    if model.right or len(scaled) < 2 or len(scaled) < len(model.wrong) or not share_one_factor(scaled):
        return None
    return Diagnosis(
        key="one_factor_everywhere",
        explanation=f"All tensors {'that this check can judge ' if model.unclear else ''}are wrong by the same factor",
        cause="look at normalisation, loss scale or accumulation, not at a term of the chain rule",
    )


def factor_with_more_on_top(model: Model) -> Diagnosis | None:
    """The factor of one tensor is in the pooled ratio of others, in which something else is wrong as well."""
    for tensor in _of(Verdict.scale, model):
        others = [
            other
            for other in _of(Verdict.structure, model)
            if abs(other.ratio / tensor.ratio - 1) < SAME_FACTOR_WITH_MORE
        ]
        if others and abs(tensor.ratio - 1) > MIN_FACTOR:
            names = listed([other.name for other in others])
            return Diagnosis(
                key="factor_with_more_on_top",
                explanation=f"The factor {tensor.ratio:.4g} of {tensor.name} is in {names} too, with more on top",
            )
    return None


def carry_through_time(model: Model) -> Diagnosis | None:
    """Several tensors are wrong by no factor, one that is known to be recurrent among them, and others agree."""
    structural = _of(Verdict.structure, model)
    if not model.right or len(structural) < 2 or structural[0].faulty_block:
        return None
    if not any(_is_recurrent(tensor) and not _has_right_bias(tensor, model) for tensor in structural):
        return None
    return Diagnosis(
        key="carry_through_time",
        explanation="The recurrence is wrong, and other parts are right",
        cause=(
            "look at the carry through time (slope of the cell's tanh, carried dc and dh, transpose of the recurrent "
            "matrix, truncation, `=` instead of `+=`) and at the slopes of the gates' activations"
        ),
    )


def error_enters(model: Model) -> Diagnosis | None:
    """All tensors up to some layer are wrong by no factor, and all above it agree."""
    wrong = _of(Verdict.structure, model)
    if len(wrong) < 2 or len(wrong) < len(model.wrong) or model.unclear or not all(map(is_unnamed, wrong)):
        return None
    edge = _edge(list(model.tensors.values()))
    if edge is None:
        return None
    below, above = (tensor.name for tensor in edge)
    return Diagnosis(
        key="error_enters",
        explanation=(f"If the tensors are in forward order, the error enters between {below} and {above}"),
        cause=(
            f"look at how the backward pass carries the gradient from {above} to {below}, or from one use of a layer "
            "to the next (transposed matrix, slope of the activation, recomputed random numbers, constants)"
        ),
    )


def every_tensor_wrong(model: Model) -> Diagnosis | None:
    """No tensor agrees, those of the output layer included, and no factor explains the errors."""
    wrong = _of(Verdict.structure, model)
    if len(wrong) < max(2, len(model.tensors)) or not all(tensor.cause_key == "chain_rule" for tensor in wrong):
        return None
    return Diagnosis(
        key="every_tensor_wrong",
        explanation="Every tensor is wrong, and not by a single factor",
        cause=(
            "backprop may belong to another loss (momentum buffer, average, accumulated steps, another batch or hidden "
            "state, last step only, a penalty), or the derivative of the loss itself is wrong"
        ),
    )


def _of(verdict: Verdict, model: Model) -> list[TensorReport]:
    return [tensor for tensor in model.wrong if tensor.verdict is verdict]


def is_unnamed(tensor: TensorReport) -> bool:
    """Whether nothing but the place of its error is known."""
    return tensor.cause_key.startswith(("chain_rule", "wrong_slice"))


def _edge(tensors: Sequence[TensorReport]) -> tuple[TensorReport, TensorReport] | None:
    """The last wrong and the first right tensor where the wrong ones come first; None in any other order.

    Biases may be listed apart from the matrices, and each kind is then in order by itself. Where the bias of a wrong
    matrix is right, what the layer receives is right, and the error does not come from above.
    """
    whole = _split(tensors)
    if whole is not None:
        below, above = whole[0][-1], whole[1][0]
        return None if is_vector(above) and math.prod(above.shape) in below.shape else (below, above)
    vectors = [tensor for tensor in tensors if is_vector(tensor)]
    right = sum(not tensor.verdict.is_bug for tensor in vectors)
    matrices = _split([tensor for tensor in tensors if not is_vector(tensor)])
    if matrices is None or right > len(matrices[1]) or not (right in (0, len(vectors)) or _split(vectors)):
        return None
    return matrices[0][-1], matrices[1][0]


def _split(tensors: Sequence[TensorReport]) -> tuple[Sequence[TensorReport], Sequence[TensorReport]] | None:
    """The wrong tensors and the right ones, where all wrong ones come first; None elsewhere."""
    count = sum(bool(tensor.verdict.is_bug) for tensor in tensors)
    wrong, right = tensors[:count], tensors[count:]
    return (wrong, right) if wrong and right and all(tensor.verdict.is_bug for tensor in wrong) else None


def is_vector(tensor: TensorReport) -> bool:
    """Whether it is a bias by its shape: a vector, a row or a column."""
    return math.prod(tensor.shape) == max(tensor.shape, default=1)


def _is_recurrent(tensor: TensorReport) -> bool:
    """Whether it is known to be the matrix of a recurrence: a shape alone may be that of any square layer.

    A recurrent matrix is (H, H), or (H, kH) with k fused gates. The user shows that it is one by a constant such as
    `timesteps`, by blocks with the names of gates, or by its name.
    """
    if len(tensor.shape) != 2 or min(tensor.shape) < 1:
        return False
    short, long = sorted(tensor.shape)
    is_shown = any(map(RECURRENT_CONSTANT.search, tensor.constants)) or RECURRENT_NAME.search(tensor.name)
    return long in (short, 3 * short, 4 * short) and bool(is_shown or _has_gates(tensor))


def _has_gates(tensor: TensorReport) -> bool:
    """Whether its blocks have the names of the gates of an LSTM or a GRU, whole or their first letters."""
    names = {name.lower() for name in tensor.blocks}
    return any(gates <= names for gates in GATES)


def _has_right_bias(tensor: TensorReport, model: Model) -> bool:
    """Whether a bias of its layer agrees, by its size: then what the layer receives through time is right."""
    return any(is_vector(other) and math.prod(other.shape) == max(tensor.shape) for other in model.right)


HINTS = (one_factor_everywhere, factor_with_more_on_top, carry_through_time, error_enters, every_tensor_wrong)
