"""A sweep in words, and as a table."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from gradguard.diagnosis.known_factors import History
from gradguard.report.text import printable
from gradguard.sweeps.curves import TOO_FAR, UNRESOLVED, Curve

SAME = 0.05  # relative change of a ratio from step to step that leaves it the same
LISTED = 8  # names; the others are only counted

UNSTEADY = (
    "The loss differs between two evaluations at the same parameters (fresh dropout masks, a hidden state carried "
    "over, a count of calls), so that none of these numbers means anything: pass what puts it back, "
    "snapshot=snapshot_rng(generator) or snapshot=snapshot_attributes(model, 'hidden')."
)
DETACHED = (
    "The loss does not move at all, whichever entry is moved and at whatever step: the arrays given as params are not "
    "the ones that the loss reads (a copy, or rebound since), or the loss is a value kept from before."
)
SPURIOUS = "the loss does not depend on it beyond its noise, and g is not zero"
MISSING = "g is zero and n is not"
STRUCTURE = "no one factor n/g explains that"
NOT_MENDED = (
    "No step size mends that: it is not float precision but a bug, or a kink of the loss; gradguard.check tells which."
)

Curves = Mapping[str, Curve]
Cells = Sequence[str]


def explanation(whole: Curve, tensors: Curves, quantum: float, constants: Mapping[str, float]) -> str:
    """Where the loss stops moving, which step is best, and whether float precision explains what is left there.

    Args:
        whole: The curve of all entries together.
        tensors: That of each tensor, by name.
        quantum: The distance from the loss to the next number that its dtype has.
        constants: Numbers of the training, to name a ratio after.
    """
    if whole.moves:
        return " ".join([_stillness(whole, quantum), _best(whole), *_conclusion(tensors, constants)])
    if whole.explained is False:
        return DETACHED
    tells = "the gradient is zero too" if whole.explained else "that tells nothing of the gradient"
    return f"The loss does not move at any of these steps, the longest of which is {whole.steps[-1]:.3g}, and {tells}."


def _stillness(whole: Curve, quantum: float) -> str:
    last = whole.still_step
    if last is None:
        return f"The loss moves at every step, for most entries; its quantum is {quantum:.2g}."
    where = f"At steps of {last:.3g} and below the loss does not move at all for most entries"
    share = f"{whole.still[0]:.0%} of them at {whole.steps[0]:.3g}"
    if whole.stuck[whole.steps == last].item() > 0.5:
        return f"{where} ({share}): their own dtype rounds the step away."
    return f"{where} ({share}): the step changes it by less than its quantum, {quantum:.2g}."


def _best(whole: Curve) -> str:
    at = whole.best
    end = ", the end of the sweep" if at in (0, len(whole.steps) - 1) else ""
    return (
        f"The best step is {whole.best_step:.3g}{end}: float precision explains a discrepancy of {whole.floor[at]:.1e} "
        f"there (noise {whole.noise[at]:.1e}, truncation {whole.truncation[at]:.1e}), and d is "
        f"{whole.discrepancy[at]:.1e}."
    )


def _conclusion(tensors: Curves, constants: Mapping[str, float]) -> list[str]:
    wrong = {name: curve for name, curve in tensors.items() if curve.explained is False}
    unclear = {name: curve for name, curve in tensors.items() if curve.explained is None}
    right = {name: curve for name, curve in tensors.items() if curve.explained}
    told = [_wrong(kind, group, constants) for kind, group in _grouped(wrong, _kind)]
    told += [NOT_MENDED] if wrong else []
    told += [f"Nothing can be told of {_listed(group)}: {why}." for why, group in _grouped(unclear, _why_unclear)]
    return told + ([_right(right, bool(wrong or unclear))] if right else [])


def _right(tensors: Curves, named: bool) -> str:
    """That float precision explains it, and which error of a whole gradient would not have shown."""
    hidden = 2 * TOO_FAR * max((curve.floor[curve.best] for curve in tensors.values() if curve.moves), default=0.0)
    whose = f" of {_listed(tensors)}" if named else ""
    hides = f", and would hide an error of the gradient below {100 * hidden:.2g} %" if hidden < 1 else ""
    return f"Float precision explains what is left{whose}{hides}."


def _grouped(tensors: Curves, of: Callable[[Curve], str]) -> Iterable[tuple[str, Curves]]:
    groups: dict[str, dict[str, Curve]] = {}
    for name, curve in tensors.items():
        groups.setdefault(of(curve), {})[name] = curve
    return groups.items()


def _wrong(kind: str, group: Curves, constants: Mapping[str, float]) -> str:
    furthest = max(group.values(), key=lambda curve: curve.discrepancy[curve.best])
    at = furthest.best
    explained = f"d is {furthest.discrepancy[at]:.2g} where float precision explains {furthest.floor[at]:.1e}"
    if kind == SPURIOUS:
        return f"{_listed(group)}: {kind}."
    why = kind if kind in (MISSING, STRUCTURE) else _factor(list(group.values()), constants)
    return f"{_listed(group)}: {explained}, and {why}."


def _kind(curve: Curve) -> str:
    """What is wrong: the same for tensors that are wrong alike."""
    k = curve.ratio[curve.best]
    if curve.floor[curve.best] > UNRESOLVED:
        return SPURIOUS
    if not np.isfinite(k):
        return MISSING
    is_factor = curve.left[curve.best] <= TOO_FAR * curve.floor[curve.best]
    return f"{k:.2g}" if is_factor else STRUCTURE


def _factor(alike: Sequence[Curve], constants: Mapping[str, float]) -> str:
    """The factor of the curve that tells it best, its name, and the steps at which all of them show it."""
    sharpest = min(alike, key=lambda curve: curve.ratio_error[curve.best] / abs(curve.ratio[curve.best]))
    k, error = float(sharpest.ratio[sharpest.best]), float(sharpest.ratio_error[sharpest.best])
    names = [name.label for name in History(constants).names_of(k, error)]
    known = f" ({' or '.join(names)})" if names else ""
    reaches = [_same_ratio(curve) for curve in alike]
    first, last = max(reach[0] for reach in reaches), min(reach[1] for reach in reaches)
    return f"n = {k:.4g} x g{known} at every step from {first:.3g} to {last:.3g}"


def _same_ratio(curve: Curve) -> tuple[float, float]:
    """From which step to which the ratio stays what it is at the best one."""
    k = curve.ratio[curve.best]
    differs = np.flatnonzero(~(np.abs(curve.ratio - k) <= SAME * np.abs(k)))
    before, after = differs[differs < curve.best], differs[differs > curve.best]
    first = before[-1] + 1 if before.size else 0
    last = after[0] - 1 if after.size else len(curve.steps) - 1
    return float(curve.steps[first]), float(curve.steps[last])


def _why_unclear(curve: Curve) -> str:
    if not np.isfinite(curve.discrepancy[curve.best]):
        return "its gradient holds nan or inf"
    if not curve.moves:
        return "the loss does not move with it at any step"
    return "at every step the loss is too noisy, or too kinked, for its slope"


def _listed(names: Iterable[str]) -> str:
    shown = [printable(name) for name in names]
    more = len(shown) - LISTED
    shown = [*shown[:LISTED], f"{more} more"] if more > 1 else shown
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def table(whole: Curve, tensors: Curves) -> str:
    """All entries together at each step, the best marked; then each tensor at its own best step."""
    return f"{aligned(rows_of_steps(whole))}\n\n{aligned(rows_of_tensors(tensors))}"


def rows_of_steps(whole: Curve) -> list[Cells]:
    """A heading, and the numbers of all entries together at each step."""
    return [
        ("", "step", "d", "floor", "noise", "truncation", "still"),
        *(_at(whole, j) for j in range(whole.steps.size)),
    ]


def _at(whole: Curve, j: int) -> Cells:
    parts = (whole.discrepancy[j], whole.floor[j], whole.noise[j], whole.truncation[j])
    mark = "best" if j == whole.best else ""
    return mark, f"{whole.steps[j]:.3g}", *(f"{part:.1e}" for part in parts), f"{whole.still[j]:.0%}"


def rows_of_tensors(tensors: Curves) -> list[Cells]:
    """A heading, and the numbers of each tensor at its best step."""
    return [("tensor", "best step", "d", "floor", "n/g"), *(_of(name, curve) for name, curve in tensors.items())]


def _of(name: str, curve: Curve) -> Cells:
    at = curve.best
    numbers = (f"{curve.discrepancy[at]:.1e}", f"{curve.floor[at]:.1e}", f"{curve.ratio[at]:.5g}")
    return printable(name), f"{curve.best_step:.3g}", *numbers


def aligned(rows: Sequence[Cells]) -> str:
    """A table in columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )
