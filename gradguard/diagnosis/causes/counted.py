"""Causes of a gradient of which some contributions are counted once where they come several times."""

import numpy as np

from gradguard.diagnosis.causes.shared import is_unnamed
from gradguard.diagnosis.causes.symptoms import Diagnosis, Model, Symptoms
from gradguard.report import Verdict, listed

MAX_TIMES = 20  # the largest whole number n/g that counts contributions
MIN_SUPPORT = 4.0  # powers of ten by which it is excluded that all ratios are whole by chance
MIN_RIGHT = 2  # tensors that agree, beside which one that is wrong stands out
MAX_LISTED = 4  # whole numbers that a sentence names


def overwritten(tensor: Symptoms) -> Diagnosis | None:
    """Several different whole numbers n/g: equal contributions overwrite each other where they should be added."""
    if tensor.verdict is not Verdict.structure:
        return None
    entries = tensor.evidence.entries.where(tensor.evidence.entries.resolvable)
    if not entries.size:
        return None
    times = entries.n / entries.g
    whole = np.round(times)
    error = np.maximum(entries.deviation / np.abs(entries.g), np.finfo(float).eps)
    off = np.abs(times - whole)
    several = whole > 1
    is_whole = (off <= 3 * error).all() and (whole >= 1).all() and (whole <= MAX_TIMES).all()
    found = np.unique(whole[several])
    if not is_whole or found.size < 2:
        return None
    support = -float(np.log10(np.minimum(1.0, 2 * np.maximum(off, error)[several])).sum())
    if support < MIN_SUPPORT:
        return None
    numbers = listed([f"{number:g}" for number in np.unique(whole)[:MAX_LISTED]])
    return Diagnosis(
        key="overwritten",
        explanation=f"numerical/backprop is a whole number at all {entries.size} resolved entries, such as {numbers}",
        cause=(
            "contributions that should be added overwrite each other: `=` instead of `+=`, or an index that repeats "
            "(np.add.at, index_add)"
        ),
    )


def only_one_wrong(model: Model) -> Diagnosis | None:
    """One tensor is wrong, by no factor, and all others agree: its own contributions are not added up right."""
    if len(model.wrong) != 1 or model.unclear or len(model.right) < MIN_RIGHT or not is_unnamed(model.wrong[0]):
        return None
    (wrong,), names = model.wrong, list(model.tensors)
    place = names.index(wrong.name)
    above = (
        f"; or, if the tensors are in forward order, the error enters between it and {names[1]}" if place == 0 else ""
    )
    return Diagnosis(
        key="only_one_wrong",
        explanation=f"Only {wrong.name} is wrong",
        cause=(
            "look at how its own gradient is formed: a repeated index or row (use np.add.at), a shared tensor (add up "
            f"all its uses), `=` instead of `+=`, or inputs of another step or layer{above}"
        ),
    )


TENSOR_CAUSES = (overwritten,)
HINTS = (only_one_wrong,)
