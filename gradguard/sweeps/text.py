"""A sweep in words, and as a table."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from gradguard.diagnosis import History
from gradguard.report import printable
from gradguard.sweeps.curves import MAJORITY, MAX_EXCESS, UNRESOLVED_FLOOR, Curve, SweepCurves

RATIO_TOLERANCE = 0.05  # relative change of n/g from step to step up to which a sentence calls it the same
MAX_NAMES_IN_SENTENCE = 8  # tensors; the others are counted

NONDETERMINISTIC = (
    "The loss differs between two evaluations at the same parameters (fresh dropout masks, a carried hidden state, a "
    "count of calls), so these numbers mean nothing.\nPass what restores the state: "
    "snapshot=snapshot_rng(generator) or snapshot=snapshot_attributes(model, 'hidden')."
)
DETACHED = (
    "The loss does not change, whichever entry is moved and by whatever step: the arrays in params are not the ones "
    "that the loss reads (a copy, or rebound since), or the loss returns a stored value."
)
SPURIOUS = "the loss depends on it by no more than noise, and backprop is not zero"
MISSING = "backprop is zero and numerical is not"
STRUCTURE = "no single factor explains it"
NOT_MENDED = (
    "No step size removes this: it is not rounding error but a bug, or a kink of the loss; gradguard.check tells which."
)

Curves = Mapping[str, Curve]
Cells = Sequence[str]


def explanation(curves: SweepCurves, quantum: float, constants: Mapping[str, float]) -> str:
    """Where the loss stops changing, which step is best, and whether the discrepancy there is rounding and truncation.

    Args:
        curves: The curves of the sweep.
        quantum: The distance from the loss to the next number that its dtype has.
        constants: Numbers of the training, to identify a ratio with.
    """
    if curves.loss_changes:
        sentences = [_where_loss_is_unchanged(curves, quantum), _best_step(curves)]
        return " ".join([*sentences, *_conclusion(curves.tensors, constants)])
    if curves.explained is False:
        return DETACHED
    what = "the gradient is zero too" if curves.explained else "this says nothing about the gradient"
    return f"The loss does not change at any of these steps (up to {curves.steps[-1]:.3g}), and {what}."


def _where_loss_is_unchanged(whole: Curve, quantum: float) -> str:
    last = whole.loss_unchanged_up_to
    if last is None:
        return f"The loss changes at every step for most entries; its values are {quantum:.2g} apart."
    where = f"At steps of {last:.3g} and below, the loss does not change for most entries"
    share = f"{whole.loss_unchanged[0]:.0%} of them at {whole.steps[0]:.3g}"
    if whole.step_rounded_away[whole.steps == last].item() > MAJORITY:
        return f"{where} ({share}): the dtype of the parameters rounds the step away."
    return f"{where} ({share}): the change is less than the distance between values of the loss, {quantum:.2g}."


def _best_step(whole: Curve) -> str:
    at = whole.best
    end = ", the end of the sweep" if at in (0, len(whole.steps) - 1) else ""
    return (
        f"The best step is {whole.best_step:.3g}{end}: d is {whole.discrepancy[at]:.1e} there; rounding and truncation "
        f"account for {whole.floor[at]:.1e} (noise {whole.noise[at]:.1e}, truncation {whole.truncation[at]:.1e})."
    )


def _conclusion(tensors: Curves, constants: Mapping[str, float]) -> list[str]:
    wrong = {name: curve for name, curve in tensors.items() if curve.explained is False}
    unclear = {name: curve for name, curve in tensors.items() if curve.explained is None}
    explained = {name: curve for name, curve in tensors.items() if curve.explained}
    sentences = [_wrong_tensors(kind, group, constants) for kind, group in _grouped(wrong, _kind_of_error)]
    sentences += [NOT_MENDED] if wrong else []
    sentences += [f"No verdict on {_listed(group)}: {why}." for why, group in _grouped(unclear, _why_unclear)]
    return sentences + ([_explained_tensors(explained, bool(wrong or unclear))] if explained else [])


def _explained_tensors(tensors: Curves, with_names: bool) -> str:
    """That float precision explains the discrepancy, and the largest error of a whole gradient that it would hide.

    A relative error e of a whole gradient makes a discrepancy of e / 2.
    """
    floors = (curve.floor[curve.best] for curve in tensors.values() if curve.loss_changes)
    hidden = 2 * MAX_EXCESS * max(floors, default=0.0)
    whose = f" of {_listed(tensors)}" if with_names else ""
    hides = f", and would hide a gradient error below {100 * hidden:.2g} %" if hidden < 1 else ""
    return f"Rounding and truncation account for the rest{whose}{hides}."


def _grouped(tensors: Curves, key: Callable[[Curve], str]) -> Iterable[tuple[str, Curves]]:
    groups: dict[str, dict[str, Curve]] = {}
    for name, curve in tensors.items():
        groups.setdefault(key(curve), {})[name] = curve
    return groups.items()


def _wrong_tensors(kind: str, group: Curves, constants: Mapping[str, float]) -> str:
    worst = max(group.values(), key=lambda curve: curve.discrepancy[curve.best])
    at = worst.best
    discrepancy = f"d is {worst.discrepancy[at]:.2g} where rounding and truncation account for {worst.floor[at]:.1e}"
    if kind == SPURIOUS:
        return f"{_listed(group)}: {kind}."
    why = kind if kind in (MISSING, STRUCTURE) else _common_factor(list(group.values()), constants)
    return f"{_listed(group)}: {discrepancy}, and {why}."


def _kind_of_error(curve: Curve) -> str:
    """What is wrong; the same string for tensors with the same error."""
    k = curve.ratio[curve.best]
    if curve.floor[curve.best] > UNRESOLVED_FLOOR:
        return SPURIOUS
    if not np.isfinite(k):
        return MISSING
    is_factor = curve.scaled_discrepancy[curve.best] <= MAX_EXCESS * curve.floor[curve.best]
    return f"{k:.2g}" if is_factor else STRUCTURE


def _common_factor(curves: Sequence[Curve], constants: Mapping[str, float]) -> str:
    """The most precise factor of some curves, the constants it may be, and the steps at which all curves show it."""
    sharpest = min(curves, key=lambda curve: curve.ratio_error[curve.best] / abs(curve.ratio[curve.best]))
    k, error = float(sharpest.ratio[sharpest.best]), float(sharpest.ratio_error[sharpest.best])
    names = [name.label for name in History(constants).names_of(k, error)]
    known = f" ({' or '.join(names)})" if names else ""
    ranges = [_steps_of_same_ratio(curve) for curve in curves]
    first, last = max(steps[0] for steps in ranges), min(steps[1] for steps in ranges)
    return f"numerical = {k:.4g} x backprop{known} at every step from {first:.3g} to {last:.3g}"


def _steps_of_same_ratio(curve: Curve) -> tuple[float, float]:
    """The first and last step of the range around the best step in which the ratio stays the same."""
    k = curve.ratio[curve.best]
    differs = np.flatnonzero(~(np.abs(curve.ratio - k) <= RATIO_TOLERANCE * np.abs(k)))
    before, after = differs[differs < curve.best], differs[differs > curve.best]
    first = before[-1] + 1 if before.size else 0
    last = after[0] - 1 if after.size else len(curve.steps) - 1
    return float(curve.steps[first]), float(curve.steps[last])


def _why_unclear(curve: Curve) -> str:
    if not np.isfinite(curve.discrepancy[curve.best]):
        return "its gradient contains nan or inf"
    if not curve.loss_changes:
        return "moving it does not change the loss at any step"
    return "at every step, the loss is too noisy or too kinked to show its slope"


def _listed(names: Iterable[str]) -> str:
    shown = [printable(name) for name in names]
    more = len(shown) - MAX_NAMES_IN_SENTENCE
    shown = [*shown[:MAX_NAMES_IN_SENTENCE], f"{more} more"] if more > 1 else shown
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def table(curves: SweepCurves) -> str:
    """All entries together at each step, the best marked; then each tensor at its own best step."""
    return f"{aligned(rows_of_steps(curves))}\n\n{aligned(rows_of_tensors(curves.tensors))}"


def rows_of_steps(whole: Curve) -> list[Cells]:
    """A heading, and the numbers of all entries together at each step."""
    heading = ("", "step", "d", "floor", "noise", "truncation", "unchanged")
    return [heading, *(_row_of_step(whole, j) for j in range(whole.steps.size))]


def _row_of_step(whole: Curve, j: int) -> Cells:
    parts = (whole.discrepancy[j], whole.floor[j], whole.noise[j], whole.truncation[j])
    mark = "best" if j == whole.best else ""
    return mark, f"{whole.steps[j]:.3g}", *(f"{part:.1e}" for part in parts), f"{whole.loss_unchanged[j]:.0%}"


def rows_of_tensors(tensors: Curves) -> list[Cells]:
    """A heading, and the numbers of each tensor at its best step."""
    heading = ("tensor", "best step", "d", "floor", "n/g")
    return [heading, *(_row_of_tensor(name, curve) for name, curve in tensors.items())]


def _row_of_tensor(name: str, curve: Curve) -> Cells:
    at = curve.best
    numbers = (f"{curve.discrepancy[at]:.1e}", f"{curve.floor[at]:.1e}", f"{curve.ratio[at]:.5g}")
    return printable(name), f"{curve.best_step:.3g}", *numbers


def aligned(rows: Sequence[Cells]) -> str:
    """A table with its first column aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )
