"""Penalties on the weights that only one of loss and gradient has: weight decay (L2) and L1."""

from collections.abc import Iterator

import numpy as np

from gradguard.arrays import Float64
from gradguard.diagnosis.causes.fields.fit import Fit, Prediction, fitted
from gradguard.diagnosis.causes.fields.values import is_unexplained, values_at
from gradguard.diagnosis.causes.symptoms import Diagnosis, Symptoms
from gradguard.diagnosis.explain import uncertain

MIN_COEFFICIENT = 5.0  # standard errors that the coefficient of a penalty is from 0


def weight_penalty(tensor: Symptoms) -> Diagnosis | None:
    """The error is a multiple of the weights (weight decay), or of their signs (L1)."""
    weights = tensor.surroundings.params.get(tensor.evidence.name)
    if weights is None or not is_unexplained(tensor):
        return None
    at_entries = values_at(weights, tensor.evidence.index)
    found = [
        (key, words, fit)
        for key, words, field in (
            ("weight_decay", "the weights", at_entries),
            ("l1_penalty", "the signs of the weights", np.sign(at_entries)),
        )
        for fit in _fits(tensor, field)
    ]
    if not found:
        return None
    key, words, fit = found[0]
    also = f", or {found[1][1]}" if len(found) > 1 and found[1][0] != key else ""
    return _diagnosis(tensor, key, words + also, fit)


def _fits(tensor: Symptoms, field: Float64) -> Iterator[Fit]:
    """The fits of n = g + c field that convince; where there are none, those of n = k g + c field."""
    entries = tensor.evidence.entries
    if not field.any() or not np.isfinite(field).all() or _is_constant(tensor):
        return
    column = field[:, None]
    for fixed, columns in (
        (entries.g, column),
        (np.zeros(entries.size), np.hstack([column, entries.g[:, None]])),
    ):
        fit = fitted(entries, Prediction(fixed, columns, entries.rounding), tensor.evidence.rules)
        if fit is not None and fit.is_convincing and abs(fit.coefficients[0]) > MIN_COEFFICIENT * fit.errors[0]:
            yield fit
            return


def _is_constant(tensor: Symptoms) -> bool:
    """Whether n - g is one number: then it is a multiple of any weights that are alike, and says nothing of them."""
    entries = tensor.evidence.entries
    constant = Prediction(entries.g, np.ones((entries.size, 1)), entries.rounding)
    fit = fitted(entries, constant, tensor.evidence.rules)
    return fit is not None and fit.explains


def _diagnosis(tensor: Symptoms, key: str, words: str, fit: Fit) -> Diagnosis:
    c, error = float(fit.coefficients[0]), float(fit.errors[0])
    has_factor = fit.coefficients.size > 1
    factor = f"{uncertain(float(fit.coefficients[1]), float(fit.errors[1]))} x " if has_factor else ""
    size = f"{abs(c):.3g}"
    known = [one.label for one in tensor.history.names_of(abs(c), error) if one.is_named_by_user]
    is_what = f"; {size} is {' or '.join(known)}" if known else ""
    kind = "weight decay (an L2 penalty)" if key == "weight_decay" else "an L1 penalty"
    where = (
        "the loss has it and the gradient does not, or has too little of it"
        if c > 0
        else "the gradient has it and the loss does not, or has too little of it"
    )
    return Diagnosis(
        key=key,
        explanation=f"numerical - {factor}backprop = {uncertain(c, error)} x {words}{is_what}",
        cause=f"{kind} of {size} in only one of loss and gradient: {where}",
    )
