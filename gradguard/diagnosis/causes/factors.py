"""Causes of a gradient that is wrong by one factor."""

from gradguard.diagnosis.causes.symptoms import Diagnosis, Symptoms
from gradguard.diagnosis.explain import diagnosis_of_factor, uncertain
from gradguard.report import Verdict


def known_factor(tensor: Symptoms) -> Diagnosis | None:
    """The factor is a known number: a constant of the training, a product of two, a size, or a plain number."""
    factors = tensor.factors
    if not factors:
        return None
    labels = [factor.label for factor in factors if not factor.is_plain]
    is_what = f"; {uncertain(factors[0].value)} is {' or '.join(labels)}" if labels else ""
    if tensor.verdict is Verdict.sign:
        factors = factors[:1]  # the sign comes first in the cause, and one factor behind it is enough
    return diagnosis_of_factor(
        tensor,
        key=" or ".join(factor.key for factor in factors),
        cause=", or ".join(factor.meaning for factor in factors),
        is_what=is_what,
    )


TENSOR_CAUSES = (known_factor,)
