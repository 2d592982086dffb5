"""Causes of a gradient that is wrong by one factor."""

from collections.abc import Mapping, Sequence

from gradguard.diagnosis.causes.shared import share_one_factor
from gradguard.diagnosis.causes.symptoms import Diagnosis, Model, Symptoms
from gradguard.diagnosis.explain import diagnosis_of_factor, too_small_or_large, uncertain, unnamed_factor
from gradguard.diagnosis.known_factors import KnownFactor
from gradguard.report import TensorReport, Verdict


def known_factor(tensor: Symptoms) -> Diagnosis | None:
    """The factor is a known number: a constant of the training, a product of two, a size, or a plain number."""
    factors = tensor.factors
    if not factors:
        return None
    labels = [factor.label for factor in factors if not factor.is_plain]
    verb = "may be" if any(factor.is_size for factor in factors) else "is"
    is_what = f"; {uncertain(factors[0].value)} {verb} {' or '.join(labels)}" if labels else ""
    if tensor.verdict is Verdict.sign:
        factors = factors[:1]  # the sign comes first in the cause, and one factor behind it is enough
    return diagnosis_of_factor(
        tensor, key=" or ".join(factor.key for factor in factors), cause=_meaning(tensor, factors), is_what=is_what
    )


def _meaning(tensor: Symptoms, factors: Sequence[KnownFactor]) -> str:
    """What the factors say of the backward pass: a statement where one is sure, else possibilities."""
    meanings = [factor.meaning for factor in factors]
    if factors[0].is_sure or factors[0].is_plain:
        return meanings[0]
    ratio = tensor.evidence.factor
    _, size = too_small_or_large(ratio.value, ratio.error)
    return f"{size}; perhaps {', or perhaps '.join(meanings)}"


def size_of_all(model: Model) -> Mapping[str, Diagnosis]:
    """Several tensors have one factor that was named after a size of each: all of them must have that length."""
    by_size = [tensor for tensor in model.wrong if tensor.verdict is Verdict.scale and _is_named_by_size(tensor)]
    found: dict[str, Diagnosis] = {}
    for tensor in by_size:
        alike = [
            other
            for other in model.wrong
            if other is not tensor and other.verdict is Verdict.scale and share_one_factor([tensor, other])
        ]
        if alike:
            found[tensor.name] = _of_common_size(tensor, alike)
    return found


def _of_common_size(tensor: TensorReport, alike: Sequence[TensorReport]) -> Diagnosis:
    """What is said of a tensor, the factor of which others have too."""
    length = round(max(tensor.ratio, 1 / tensor.ratio))
    key, cause = unnamed_factor(tensor.ratio, tensor.ratio_error)
    if all(length in other.shape for other in (tensor, *alike)):
        divides = "the backward pass" if tensor.ratio > 1 else "the loss"
        _, size = too_small_or_large(tensor.ratio, tensor.ratio_error)
        cause = f"{size}; perhaps {divides} alone divides by {length}, the length of an axis in each of these tensors"
    return Diagnosis(key, f"numerical = {uncertain(tensor.ratio, tensor.ratio_error)} x backprop", cause)


def _is_named_by_size(tensor: TensorReport) -> bool:
    sizes = ("axis", "size")
    return tensor.cause_key.startswith(
        tuple(f"{verb}:{size}" for verb in ("divided_by", "not_divided_by") for size in sizes)
    )


TENSOR_CAUSES = (known_factor,)
MODEL_CAUSES = (size_of_all,)
