"""Verdict and cause, from the measured derivatives of one tensor.

Three tests are needed, since each sees what the others miss: single derivatives, the norm of all of them, and the
pooled ratio. A verdict of bug wants one of them far outside what rounding and truncation explain.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gradguard import agreement
from gradguard.agreement import Ratio
from gradguard.differences import FourPoint
from gradguard.naming import names_of
from gradguard.parameters import Float64
from gradguard.report import BlockReport, Entry, TensorReport
from gradguard.thresholds import Thresholds
from gradguard.verdict import Verdict

ALARM = 6.0  # standard deviations; on correct gradients single probes reached 5.4 in 127,790
BEYOND_FLOOR = 2.0  # discrepancy in floors; on correct gradients it reached 1.8
PURE = 3.0  # reduced chi^2 of n - k g; one factor gave up to 1.6, wrong structure 6 and more
BLIND = 10.0  # floors above this many discrepancy thresholds tell nothing


@dataclass(frozen=True, slots=True)
class Pairs:
    """Derivatives of one tensor along m entries or directions; arrays of shape (m,).

    Attributes:
        n: Numerical.
        g: Backprop.
        error: The error bar of n.
        rounding: Backprop's own rounding error, in the units of g.
        z: How far n is from g in standard deviations, what truncation explains taken off.
    """

    n: Float64
    g: Float64
    error: Float64
    rounding: Float64
    z: Float64

    @classmethod
    def measured(cls, points: FourPoint, sigma: float, rounding: Float64 | float, moved: Float64) -> Self:
        """The pairs of four-point differences.

        Args:
            points: The differences.
            sigma: The noise of the loss.
            rounding: Backprop's own rounding error along each probe.
            moved: How far n moved beyond the noise at other steps; 0 where it was not measured there.
        """
        error = np.hypot(points.bar(sigma), moved)
        return cls(points.n, points.g, error, rounding + np.zeros_like(error), points.evidence(sigma, rounding, moved))

    def where(self, chosen: NDArray[np.bool_]) -> "Pairs":
        """Some of the pairs."""
        return Pairs(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))

    def plus(self, other: "Pairs") -> "Pairs":
        """These pairs and then the others."""
        names = [field.name for field in dataclasses.fields(self)]
        return Pairs(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in names))

    @property
    def floor(self) -> float:
        """The discrepancy that the error bars alone would give."""
        return agreement.floor(self.n, self.g, self.error, self.rounding)

    @property
    def discrepancy(self) -> float:
        """||n - g|| / (||n|| + ||g||)."""
        return agreement.discrepancy(self.n, self.g)

    @property
    def ratio(self) -> Ratio:
        """n / g, pooled."""
        return agreement.ratio(self.n, self.g, self.error, self.rounding)


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was measured of one tensor.

    Attributes:
        name: The tensor.
        entries: Its sampled entries that a step suited.
        index: Their places in the tensor.
        directions: Directions through it.
        unresolved: Entries left out because no step suited them.
        coverage: The share of ||g||^2 that the sampled entries hold.
        step_size: The usual step of the entries.
        noise: sigma of the loss.
        blocks: For each named block, which of the sampled entries it holds.
        deep: Whether this is a deep check: only that may speak of a bug.
    """

    name: str
    entries: Pairs
    index: tuple[tuple[int, ...], ...]
    directions: Pairs
    unresolved: int
    coverage: float
    step_size: float
    noise: float
    blocks: Mapping[str, NDArray[np.bool_]]
    deep: bool = True

    @property
    def shown(self) -> Pairs:
        """What discrepancy and floor are of: the entries, joined by the directions where there are few."""
        return self.entries if self.deep and self.entries.n.size else self.entries.plus(self.directions)


def significance(pairs: Pairs) -> float:
    """How many standard deviations the most telling of the three tests is from a correct gradient."""
    if not pairs.n.size:
        return 0.0
    return max(float(np.abs(pairs.z).max()), _of_norm(pairs), _of_ratio(pairs))


def _of_norm(pairs: Pairs) -> float:
    if pairs.discrepancy <= BEYOND_FLOOR * pairs.floor:
        return 0.0
    return math.sqrt(2 * float(np.sum(pairs.z**2))) - math.sqrt(2 * pairs.z.size - 1)


def _of_ratio(pairs: Pairs) -> float:
    ratio = pairs.ratio
    return abs(ratio.value - 1) / ratio.error if math.isfinite(ratio.error) and ratio.error > 0 else 0.0


def is_suspect(evidence: Evidence) -> bool:
    """Whether a tensor's gradient is further from its differences than float precision explains."""
    return max(significance(evidence.entries), significance(evidence.directions)) > ALARM


def diagnose_tensor(evidence: Evidence, constants: Mapping[str, float], thresholds: Thresholds) -> TensorReport:
    """Verdict, cause and the numbers behind them, for one tensor."""
    pairs = evidence.entries.plus(evidence.directions)
    shown = evidence.shown
    wrong = evidence.deep and is_suspect(evidence)
    verdict = _kind_of_bug(pairs) if wrong else _without_bug(evidence, thresholds)
    blocks = {name: _block(name, evidence.entries.where(mask), thresholds) for name, mask in evidence.blocks.items()}
    explanation, cause = _words(verdict, evidence, pairs, blocks, constants, thresholds)
    ratio = pairs.ratio
    entries = evidence.entries
    signs = agreement.signs(entries.n, entries.g, entries.error, entries.rounding)
    clear = agreement.resolvable(entries.n, entries.g, entries.error, entries.rounding)
    return TensorReport(
        name=evidence.name,
        verdict=verdict,
        cause=cause,
        explanation=explanation,
        discrepancy=shown.discrepancy,
        floor=shown.floor,
        ratio=ratio.value,
        ratio_error=ratio.error,
        sign_agreement=signs.share,
        sign_interval=signs.interval,
        resolvable=signs.resolvable,
        sampled=entries.n.size + evidence.unresolved,
        unresolved=evidence.unresolved,
        coverage=evidence.coverage,
        step_size=evidence.step_size,
        noise=evidence.noise,
        smallest_visible=smallest_visible(pairs),
        deep=evidence.deep,
        blocks=blocks,
        worst=_worst(evidence),
        ratios=tuple(float(k) for k in entries.n[clear] / entries.g[clear]),
    )


def smallest_visible(pairs: Pairs) -> float:
    """The smallest relative error of the whole gradient that would have alarmed; inf where none would."""
    information = float(np.sum((pairs.n / np.hypot(pairs.error, pairs.rounding)) ** 2)) if pairs.n.size else 0.0
    return ALARM / math.sqrt(information) if information > 0 else math.inf


def _worst(evidence: Evidence, count: int = 5) -> tuple[Entry, ...]:
    entries = evidence.entries
    order = np.argsort(-np.abs(entries.z), kind="stable")[:count]
    return tuple(
        Entry(evidence.index[i], float(entries.g[i]), float(entries.n[i]), float(entries.error[i])) for i in order
    )


def _kind_of_bug(pairs: Pairs) -> Verdict:
    if _negligible(pairs.g, pairs.n):
        return Verdict.missing
    if not (np.abs(pairs.n) > 3 * np.hypot(pairs.error, pairs.rounding)).any():
        return Verdict.spurious
    ratio = pairs.ratio
    pure = ratio.purity <= PURE and ratio.worst <= ALARM
    told = min(abs(ratio.value - 1), abs(ratio.value)) > 3 * ratio.error
    if not (pure and told):
        return Verdict.structure
    return Verdict.sign if ratio.value < 0 else Verdict.scale


def _negligible(small: Float64, large: Float64) -> bool:
    return float(np.abs(small).max(initial=0.0)) <= 1e-9 * float(np.abs(large).max(initial=0.0))


def _without_bug(evidence: Evidence, thresholds: Thresholds) -> Verdict:
    shown = evidence.shown
    measured = evidence.entries.n.size + evidence.unresolved
    if evidence.unresolved > 0.2 * measured or _is_blind(shown, thresholds):
        return Verdict.inconclusive
    return Verdict.float_precision if shown.discrepancy > thresholds.discrepancy else Verdict.ok


def _is_blind(pairs: Pairs, thresholds: Thresholds) -> bool:
    if not pairs.n.any() and not pairs.g.any():
        return False
    return pairs.floor > BLIND * thresholds.discrepancy


def _block(name: str, entries: Pairs, thresholds: Thresholds) -> BlockReport:
    signs = agreement.signs(entries.n, entries.g, entries.error, entries.rounding)
    if significance(entries) > ALARM:
        verdict = _kind_of_bug(entries)
    elif not entries.n.size or _is_blind(entries, thresholds):
        verdict = Verdict.inconclusive
    else:
        verdict = Verdict.float_precision if entries.discrepancy > thresholds.discrepancy else Verdict.ok
    ratio = entries.ratio
    return BlockReport(
        name=name,
        verdict=verdict,
        discrepancy=entries.discrepancy,
        floor=entries.floor,
        ratio=ratio.value,
        ratio_error=ratio.error,
        sign_agreement=signs.share,
        resolvable=signs.resolvable,
        sampled=entries.n.size,
    )


def _words(
    verdict: Verdict,
    evidence: Evidence,
    pairs: Pairs,
    blocks: Mapping[str, BlockReport],
    constants: Mapping[str, float],
    thresholds: Thresholds,
) -> tuple[str, str]:
    """The explanation and the cause."""
    shown = evidence.shown
    d, reach = shown.discrepancy, BEYOND_FLOOR * shown.floor
    match verdict:
        case Verdict.ok if not shown.n.any() and not shown.g.any():
            return "the loss does not depend on it, and its gradient is zero", ""
        case Verdict.ok:
            return f"d = {d:.1e}, float precision explains up to {reach:.1e} at this step size", ""
        case Verdict.float_precision:
            return (
                f"d = {d:.1e} is over the threshold {thresholds.discrepancy:g}, and float precision explains up to "
                f"{reach:.1e} at this step size",
                "",
            )
        case Verdict.inconclusive:
            return _inconclusive(evidence, pairs, d, reach)
        case Verdict.scale | Verdict.sign:
            return _factor(verdict, pairs.ratio, blocks, constants)
        case Verdict.missing:
            return (
                f"g is zero and n is not (|n| up to {np.abs(pairs.n).max():.2g})",
                "the backward pass never writes this gradient, or something detaches it",
            )
        case Verdict.spurious:
            return (
                f"n is zero and g is not (|g| up to {np.abs(pairs.g).max():.2g}): the loss does not depend on it",
                "the gradient of another tensor, of another batch, or of a term that the loss leaves out",
            )
        case _:
            return _structure(evidence, pairs, blocks)


def _inconclusive(evidence: Evidence, pairs: Pairs, d: float, reach: float) -> tuple[str, str]:
    visible = smallest_visible(pairs)
    seen = f"an error of the gradient below {visible:.0%} cannot be seen" if visible < 1 else "no error could be seen"
    left_out = f"; no step suited {evidence.unresolved} entries" if evidence.unresolved else ""
    return (
        f"d = {d:.1e}, float precision explains up to {min(reach, 1):.1e}: {seen}{left_out}",
        "the loss is too noisy for its slope here; precision='float64', unreduced losses with a reduction, or a loss "
        "summed in float64 would narrow it",
    )


def _factor(
    verdict: Verdict, ratio: Ratio, blocks: Mapping[str, BlockReport], constants: Mapping[str, float]
) -> tuple[str, str]:
    alike = blocks and all(block.verdict is verdict for block in blocks.values())
    where = f" on all {len(blocks)} gates" if alike else ""
    says = f"n = {uncertain(ratio.value, ratio.error)} x g{where}"
    names = names_of(ratio.value, ratio.error, constants)
    if names:
        says += f"; {uncertain(names[0].value)} is " + " or ".join(name.label for name in names)
    meanings = [name.meaning for name in names] or [_unnamed(abs(ratio.value), ratio.error)]
    if verdict is Verdict.sign:
        flipped = "the backward pass has the wrong sign"
        return says, flipped if abs(abs(ratio.value) - 1) < 3 * ratio.error else f"{flipped}, and {meanings[0]}"
    return says, ", or ".join(meanings)


def _unnamed(k: float, error: float) -> str:
    size = "small" if k > 1 else "large"
    times = uncertain(max(k, 1 / k), error * max(1, 1 / k**2))
    return f"the backward pass is {times} times too {size}; name the run's constants (timesteps, batch, ...) to have it named"


def _structure(evidence: Evidence, pairs: Pairs, blocks: Mapping[str, BlockReport]) -> tuple[str, str]:
    ratio = pairs.ratio
    wrong = [block for block in blocks.values() if block.verdict.is_bug]
    if wrong and len(wrong) < len(blocks):
        told = ", ".join(f"{block.name} ({_short(block)})" for block in wrong)
        return (
            f"d = {evidence.entries.discrepancy:.2g}, wrong on {told}; the other {len(blocks) - len(wrong)} agree",
            f"what the backward pass does for {' and '.join(block.name for block in wrong)} alone",
        )
    says = f"d = {pairs.discrepancy:.2g}, and no single factor explains it (n/g about {ratio.value:.3g})"
    worst = _worst(evidence, 1)
    if worst:
        entry = worst[0]
        says += f"; worst at {list(entry.index)}: n = {entry.numeric:.3g}, g = {entry.analytic:.3g}"
    return says, "a term of the chain rule is wrong, missing or in the wrong place"


def _short(block: BlockReport) -> str:
    if block.verdict in (Verdict.scale, Verdict.sign):
        return f"n = {uncertain(block.ratio, block.ratio_error)} x g"
    return str(block.verdict)


def uncertain(value: float, error: float = 0.0) -> str:
    """A value with its uncertainty in the last digit: 39.01(2)."""
    if not (error > 0 and math.isfinite(error) and math.isfinite(value)):
        return f"{value:.6g}"
    digits = max(0, -math.floor(math.log10(error)))
    if digits > 9 or error >= 10:
        return f"{value:.6g}"
    last = round(error * 10**digits)
    if last == 10:
        digits, last = digits - 1, 1
    return f"{value:.{max(digits, 0)}f}({last})" if digits > 0 else f"{value:.0f}({error:.0f})"
