"""What words say of the numbers beside them: that these are numerical, by backprop, or something else."""

import enum
import re
from collections.abc import Sequence


class Role(enum.Enum):
    """What numbers are."""

    numeric = enum.auto()
    analytic = enum.auto()
    error = enum.auto()  # the error bar of the numerical derivative
    tensor = enum.auto()  # the name of a tensor
    other = enum.auto()  # something that a diagnosis does not need


# Pieces of words, in any compound: numericalGrad, grad_approx.
NUMERIC = re.compile(r"numer\w*|approx\w*|fd|finite|central|centered|estimated?|perturbed|empirical")
ANALYTIC = re.compile(
    r"analy\w*|backprop\w*|bprop|auto(?:grad|diff|matic)|symbolic|theor\w*|computed?|manual|handwritten"
)
COMPARISONS = re.compile(r"(?:rel|abs)?(?:err|diff)\w*|distance|ratio|discrepancy|threshold|tol\w*")
QUANTITIES = re.compile(r"loss|cost|score|norm|max|min|mean|index|idx|iter\w*|epoch|step|eps\w*|vals?|row")
# Whole words, which mean this only where nothing but the gradient is spoken of beside them.
SHORT_NUMERIC = {"n", "num", "nd", "ng", "fd", "ngrad", "dnum"}
SHORT_ANALYTIC = {"g", "a", "d", "ad", "ag", "an", "ana", "anal", "bp", "agrad", "backward", "hand", "mine"}
JOINED_NUMERIC = re.compile(r"(?:num|n|fd|approx)(?:grads?|gradients?)|(?:grads?|gradients?)(?:num|approx|fd)\w*")
PARAMETER = re.compile(r"d[a-z]{1,3}\d?")  # dW, dWx, dx: a gradient of a parameter, by its name
SAID = (Role.numeric, Role.analytic, Role.error)
GRADIENT = {"grad", "grads", "gradient", "gradients", "derivative", "derivatives", "deriv", "jacobian", "slope"}
MODIFIERS = {"relative", "rel", "absolute", "abs", "max"}  # alone, of an error
ERROR_BARS = {("error",), ("error", "bar"), ("error", "bars"), ("sigma",), ("std",), ("uncertainty",)}
TENSORS = {"tensor", "param", "parameter", "name", "layer", "variable"}
FILLERS = {
    *("the", "a", "an", "and", "or", "vs", "versus", "of", "for", "at", "in", "to", "is", "are", "be", "this", "these"),
    *("here", "which", "where", "with", "wrt", "respect", "your", "my", "our", "value", "values", "number", "numbers"),
    *("result", "results", "table", "column", "columns", "left", "right", "param", "parameter", "tensor", "double"),
    *(
        "float",
        "const",
        "check",
        "checks",
        "checking",
        "gradcheck",
        "test",
        "testing",
        "comparing",
        "comparison",
        "ans",
    ),
    *("comparing", "evaluates", "passed", "failed", "pass", "fail", "ok", "info", "debug", "warning", "error"),
}
MAX_WORDS_OF_NAME = 3  # a longer line without numbers is prose


def role_of(words: Sequence[str]) -> Role | None:
    """What the numbers beside these words are; None if the words do not say."""
    pieces = [piece for word in words for piece in pieces_of(word)]
    if tuple(pieces) in ERROR_BARS:
        return Role.error
    if "finite" in pieces or "central" in pieces:
        pieces = [piece for piece in pieces if not piece.startswith("diff")]
    if any(COMPARISONS.fullmatch(piece) for piece in pieces) or (pieces and MODIFIERS.issuperset(pieces)):
        return Role.other
    return _gradient_role(words, pieces)


def _gradient_role(words: Sequence[str], pieces: Sequence[str]) -> Role | None:
    is_numeric = any(NUMERIC.fullmatch(piece) or JOINED_NUMERIC.fullmatch(piece) for piece in pieces)
    is_analytic = any(ANALYTIC.fullmatch(piece) for piece in pieces)
    if is_numeric != is_analytic:
        return Role.numeric if is_numeric else Role.analytic
    if is_numeric or not pieces:
        return None
    if any(QUANTITIES.fullmatch(word.casefold()) for word in words):
        return Role.other
    return _short_role([piece for word in words for piece in word.casefold().split("_") if piece])


def _short_role(pieces: Sequence[str]) -> Role | None:
    telling = [piece for piece in pieces if piece not in GRADIENT]
    named = [piece for piece in telling if not PARAMETER.fullmatch(piece)] if len(telling) > 1 else telling
    is_compound = pieces[-1] == "num" or ("num" in telling and len(telling) < len(pieces))  # W1_num, num_grad_W1
    if (len(named) == 1 and named[0] in SHORT_NUMERIC) or is_compound:
        return Role.numeric
    if not telling or (len(named) == 1 and named[0] in SHORT_ANALYTIC):
        return Role.analytic
    return Role.tensor if len(pieces) == 1 and pieces[0] in TENSORS else None


def pieces_of(word: str) -> list[str]:
    """The words of a compound in lower case: numericalGrad and numerical_grad are both numerical, grad."""
    return [piece.casefold() for piece in re.findall(r"[^\W\d_a-z]+(?![a-z])|[^\W\d_a-z]?[a-z]+", word)]


def name_in(words: Sequence[str]) -> str:
    """The name of a tensor among the words, such as W1 in "numerical gradient of W1"; "" if there is none."""
    left = [name for word in words if (name := _without_role(word.strip("'-/.")))]
    return " ".join(left) if len(left) <= MAX_WORDS_OF_NAME else ""


def _without_role(word: str) -> str:
    """The word without what it says of numbers: dW1 of dW1_num; "" where nothing else is in it."""
    folded = word.casefold()
    if folded in FILLERS or folded in GRADIENT or role_of([word]) is Role.other:
        return ""
    parts = re.split(r"[_.]", word)
    kept = [part for part in parts if part.casefold() not in GRADIENT and role_of([part]) not in SAID]
    return word if len(kept) == len(parts) else "_".join(kept)
