"""The sentences that tell a verdict: what was found, with its numbers, and what the likely cause is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradguard.diagnosis.evidence import Evidence
from gradguard.diagnosis.known_factors import KnownFactor
from gradguard.diagnosis.localize import AxisSlice
from gradguard.report.results import BlockReport, Entry
from gradguard.report.thresholds import Thresholds
from gradguard.report.verdict import Verdict
from gradguard.statistics.pairs import BEYOND_FLOOR, DerivativePairs

ROUGH = "the loss is too rough near these parameters for differences at any step"
NARROWER = (
    "precision='float64', unreduced losses with a reduction, or a loss summed in float64 would narrow the error bar"
)
LARGE = 1e6  # an uncertainty from which its digits are not told one by one
ADVICE = {
    Verdict.scale: "compare how the loss and the backward pass are normalised, and multiply the gradient by n/g",
    Verdict.sign: "look for a minus that was lost, or a residual taken the wrong way round",
    Verdict.missing: "look at where this gradient is written, and whether it is reset afterwards",
    Verdict.spurious: "look at whether the forward pass uses this tensor at all",
    Verdict.structure: "start at the worst entries, and compare the code there with the chain rule, term by term",
    Verdict.nonfinite: "look for a division, logarithm or overflow in the backward pass",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the sentences about one tensor are made of.

    Attributes:
        evidence: What was measured.
        blocks: Its named blocks.
        worst: The entries that deviate most.
        place: Where the wrong entries lie, if they lie together and no blocks were named.
        names: Known numbers that the ratio may be.
        thresholds: What counts as agreement.
    """

    evidence: Evidence
    blocks: Mapping[str, BlockReport]
    worst: Sequence[Entry]
    place: AxisSlice | None
    names: Sequence[KnownFactor]
    thresholds: Thresholds

    def of(self, verdict: Verdict) -> tuple[str, str]:
        """The explanation and the likely cause, the latter "" when nothing is wrong."""
        sentence = {
            Verdict.ok: self._ok,
            Verdict.float_precision: self._float_precision,
            Verdict.inconclusive: self._inconclusive,
            Verdict.kink: self._kink,
            Verdict.scale: self._scale,
            Verdict.sign: self._sign,
            Verdict.missing: self._missing,
            Verdict.spurious: self._spurious,
            Verdict.clipped: self._clipped,
            Verdict.structure: self._structure,
        }[verdict]
        return sentence()

    @property
    def _d(self) -> float:
        return self.evidence.reported.discrepancy

    @property
    def _explained(self) -> str:
        return f"float precision explains up to {min(1.0, BEYOND_FLOOR * self.evidence.reported.floor):.1e}"

    @property
    def _measured(self) -> str:
        return {
            "differences": "at this step size",
            "complex step": "by the complex step",
            "forward mode": "by forward mode",
        }[self.evidence.method]

    @property
    def _left_out(self) -> str:
        kinks, unresolved = self.evidence.kinks, self.evidence.unresolved
        told = [f"{kinks} at a kink"] if kinks else []
        told += [f"{unresolved} that no step suits"] if unresolved else []
        return f" (entries left out: {', '.join(told)})" if told else ""

    def _ok(self) -> tuple[str, str]:
        shown = self.evidence.reported
        if self.evidence.loss_unchanged and not shown.g.any():
            return "the loss does not depend on it, and its gradient is zero", ""
        return f"d = {self._d:.1e}, {self._explained} {self._measured}{self._left_out}", ""

    def _float_precision(self) -> tuple[str, str]:
        shown = self.evidence.reported
        if shown.is_negligible(self.evidence.passing):
            largest, below = np.abs(shown.g).max(), np.hypot(shown.n, shown.error).max()
            return f"n is zero to {below:.1g}, and g (up to {largest:.1g}) is what rounding leaves{self._left_out}", ""
        over = f"d = {self._d:.1e} is over the threshold {self.thresholds.discrepancy:g}"
        return f"{over}, and {self._explained} {self._measured}{self._left_out}", ""

    def _inconclusive(self) -> tuple[str, str]:
        if not self.evidence.all.size:
            return f"nothing could be measured{self._left_out}", ROUGH
        visible = self.evidence.smallest_visible
        limit = (
            f"an error of the gradient below {visible:.1%} cannot be seen" if visible < 1 else "no error can be seen"
        )
        says = f"d = {self._d:.1e}, {self._explained}: {limit}{self._left_out}"
        if self._d > self.evidence.reported.explained:
            told = (
                f"d = {self._d:.1e}, {self._explained}, and no difference is clear enough to be sure of{self._left_out}"
            )
            return told, f"a bug, or a loss that bends within every step that shows it; {NARROWER}"
        if self.evidence.unresolved > self.evidence.entries.size:
            return says, ROUGH
        return says, f"the loss is too noisy for its slope here; {NARROWER}"

    def _kink(self) -> tuple[str, str]:
        count = f"{self.evidence.kinks} of {self.evidence.sampled} entries sit at a kink of the loss and were left out"
        return (
            f"{count}; the others: d = {self._d:.1e}, {self._explained}",
            "ReLU, clamp, max or abs at its corner, where left and right slopes differ and backprop may return either; "
            "check at other parameters, or with precision='float64', whose steps are shorter",
        )

    def _scale(self) -> tuple[str, str]:
        return self._factor, ", or ".join(self._meanings)

    def _sign(self) -> tuple[str, str]:
        ratio = self.evidence.all.ratio
        flipped = "the backward pass has the wrong sign"
        if abs(abs(ratio.value) - 1) <= 3 * ratio.error:
            return self._factor, flipped
        return self._factor, f"{flipped}, and {self._meanings[0]}"

    @property
    def _factor(self) -> str:
        ratio = self.evidence.all.ratio
        alike = self.blocks and len({block.verdict for block in self.blocks.values()}) == 1
        where = f" on all {len(self.blocks)} blocks" if alike else ""
        says = f"n = {uncertain(ratio.value, ratio.error)} x g{where}"
        labels = [name.label for name in self.names if not name.is_plain]
        return f"{says}; {uncertain(self.names[0].value)} is {' or '.join(labels)}" if labels else says

    @property
    def _meanings(self) -> list[str]:
        ratio = self.evidence.all.ratio
        return [name.meaning for name in self.names] or [_unnamed(abs(ratio.value), ratio.error)]

    def _missing(self) -> tuple[str, str]:
        largest = np.abs(self.evidence.all.n).max()
        return (
            f"g is zero and n is not (|n| up to {largest:.2g})",
            "the backward pass never writes this gradient, or something detaches it",
        )

    def _spurious(self) -> tuple[str, str]:
        largest = np.abs(self.evidence.all.g).max()
        return (
            f"n is zero and g is not (|g| up to {largest:.2g}): the loss does not depend on it",
            "the gradient of another tensor, of another batch, or of a term that the loss leaves out",
        )

    def _clipped(self) -> tuple[str, str]:
        limit = np.abs(self.evidence.entries.g).max()
        return (
            f"no sampled |g| exceeds {limit:.6g}, many are just that where |n| is larger, and the others agree",
            f"the gradient is clipped at {limit:.6g} before the check; call after_backward before clipping",
        )

    def _structure(self) -> tuple[str, str]:
        wrong = [block for block in self.blocks.values() if block.verdict.is_bug]
        if wrong and len(wrong) < len(self.blocks):
            told = ", ".join(f"{block.name} ({_short(block)})" for block in wrong)
            names = " and ".join(block.name for block in wrong)
            says = f"d = {self._d:.2g}, wrong on {told}; the other {len(self.blocks) - len(wrong)} agree"
            return says, f"what the backward pass does for {names} alone"
        if self.place is not None:
            inside = self.evidence.entries.where(self.place.holds(self.evidence.index))
            says = f"d = {self._d:.2g}, wrong on {self.place} only{_inside(inside)}; {self._worst_entry}"
            return says, f"what the backward pass does for {self.place} alone"
        spread = _spread(self.evidence.entries)
        says = f"d = {self._d:.2g}, and no single factor explains it{spread}; {self._worst_entry}"
        return says.rstrip("; "), "a term of the chain rule is wrong, missing or in the wrong place"

    @property
    def _worst_entry(self) -> str:
        if not self.worst:
            return ""
        worst = self.worst[0]
        return f"worst at {list(worst.index)}: n = {worst.numeric:.3g}, g = {worst.analytic:.3g}"


def _unnamed(k: float, error: float) -> str:
    size = "small" if k > 1 else "large"
    if abs(k - 1) < 0.1:
        return f"the backward pass is {uncertain(100 * abs(1 / k - 1), 100 * error)} % too {size} throughout"
    times = uncertain(max(k, 1 / k), error * max(1, 1 / k**2))
    return f"the backward pass is {times} times too {size}; with constants={{...}} the factor may be named"


def _short(block: BlockReport) -> str:
    if block.verdict.is_factor:
        return f"n = {uncertain(block.ratio, block.ratio_error)} x g"
    return str(block.verdict)


def _inside(pairs: DerivativePairs) -> str:
    ratio = pairs.ratio
    if not pairs.g.any():
        return ", where g is zero"
    is_pure = pairs.size > 1 and ratio.purity <= 3 and abs(ratio.value) > 3 * ratio.error
    return f", where n = {uncertain(ratio.value, ratio.error)} x g" if is_pure else ""


def _spread(entries: DerivativePairs) -> str:
    clear = entries.where(entries.resolvable)
    if clear.size < 4:
        return ""
    low, high = np.quantile(clear.n / clear.g, [0.1, 0.9])
    return f" (n/g mostly from {low:.3g} to {high:.3g})"


def uncertain(value: float, error: float = 0.0) -> str:
    """A value with its uncertainty in the last digits: 39.01(2), or 60(16)."""
    if not (error > 0 and math.isfinite(error) and math.isfinite(value)):
        return f"{value:.6g}"
    digits = max(0, -math.floor(math.log10(error)))
    last = round(error * 10**digits)
    if last == 10:
        digits, last = digits - 1, 1
    if digits <= 0 and error < LARGE:
        return f"{value:.0f}({error:.0f})"
    if digits <= 0 or digits > 9:
        return f"{value:.6g}"
    return f"{value:.{digits}f}({last})"
