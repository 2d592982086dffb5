"""The examination of tensors with exact derivatives of the loss, where it has them, rather than with differences."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from gradguard.arrays import Float64, Masks, entries_in_blocks
from gradguard.diagnosis import Evidence
from gradguard.differences import MARGIN
from gradguard.examination.effort import Effort, draw_entries
from gradguard.loss import try_twice
from gradguard.measurement import MeasurementContext, TensorUnderTest, amplified
from gradguard.perturbation import Direction, EntryProbe, Probe
from gradguard.references import PROOF_STEP, GradientReference, Reference, References, Slopes, is_proven
from gradguard.screening import further_entries, wrong_entry
from gradguard.statistics import DerivativePairs

NUDGED = 1  # probe, the worst, along which the rounding error of backprop is measured
FREE_ENTRIES = 300  # entries of a tensor whose derivatives a reverse pass gives at no further cost


def exact_evidence(
    context: MeasurementContext,
    references: References,
    names: Sequence[str],
    effort: Effort,
    masks: Masks,
    rng: np.random.Generator,
    is_over: Callable[[], bool],
) -> dict[str, Evidence]:
    """The evidence on those tensors for which the loss has exact derivatives that are proven.

    Args:
        context: What to measure with.
        references: The exact derivatives that the loss has.
        names: The tensors.
        effort: How much to measure of each.
        masks: Named blocks, by tensor.
        rng: Draws the probes.
        is_over: Whether the time for further tensors is over.
    """
    found: dict[str, Evidence] = {}
    for reference in references:
        before, left = reference.evaluations, [name for name in names if name not in found]
        examination = _Examination(context, reference, _afforded(effort, reference), masks, rng, is_over)
        with warnings.catch_warnings():  # a loss that drops the imaginary part is found out by the proof
            warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
            try_twice(partial(examination.run, left))  # a loss that raises here has no such derivatives
        found |= examination.found
        context.objective.evaluations += reference.evaluations - before
        if len(found) == len(names):
            break
    return found


def _afforded(effort: Effort, reference: Reference) -> Effort:
    is_free = isinstance(reference, GradientReference)
    return replace(effort, entries=max(effort.entries, FREE_ENTRIES)) if is_free else effort


@dataclass(slots=True)
class _Examination:
    """The examination of some tensors with one exact derivative of the loss.

    Attributes:
        context: What to measure with.
        reference: The exact derivative.
        effort: How much to measure of each tensor.
        masks: Named blocks, by tensor.
        rng: Draws the probes.
        is_over: Whether the time for further tensors is over.
        found: The evidence on each tensor for which the derivative is proven.
    """

    context: MeasurementContext
    reference: Reference
    effort: Effort
    masks: Masks
    rng: np.random.Generator
    is_over: Callable[[], bool]
    found: dict[str, Evidence] = field(default_factory=dict)

    def run(self, names: Sequence[str]) -> None:
        """Examine some tensors."""
        for name in names:
            if name not in self.found and not (self.found and self.is_over()):
                evidence = self._evidence(TensorUnderTest(self.context, name))
                if evidence is not None:
                    self.found[name] = evidence

    def _evidence(self, tensor: TensorUnderTest) -> Evidence | None:
        """The evidence on one tensor; None where the derivative is not proven for it."""
        context, gradient, name = self.context, tensor.gradient, tensor.name
        along: list[Direction] = [tensor.aligned(self.rng), tensor.gaussian(self.rng)]
        slopes = self.reference.along(tensor, along)
        points = tensor.measure(along, np.full(len(along), PROOF_STEP * tensor.typical))
        if context.near is None or not is_proven(points, slopes.n, context.near.sigma):
            return None
        each = (points.take(np.array([i])) for i in range(len(along)))
        forward = np.array([tensor.forward_rounding(point, context.near.sigma) for point in each])
        own = tensor.own_rounding_of_direction
        through = _pairs(tensor, along, slopes, own, forward)
        usual = np.hypot(own, forward)
        known = float(np.max(through.rounding / usual)) if self._disagree(through) and usual.all() else None
        drawn = draw_entries(gradient, self.effort, self.masks.get(name, {}).values(), self.rng)
        entries = [probe for probe in drawn if np.isfinite(tensor.array[probe.index])]

        def pairs_of(entries: Sequence[Probe]) -> DerivativePairs:
            # A kink at x along an entry would have shown along the Gaussian direction.
            of_each = self.reference.along(tensor, entries, to_both_sides=False)
            # The Gaussian direction has the mean curvature of the entries.
            return _pairs(tensor, entries, of_each, tensor.own_rounding_of_entry, forward[-1:], known)

        of_entries = pairs_of(entries)
        around: list[EntryProbe] = []
        if self._disagree(through):
            is_wrong = np.abs(of_entries.z) > context.rules.alarm
            hidden = partial(self._hidden_entry, tensor, along, through)
            around = further_entries(entries, is_wrong, gradient.shape, hidden)
        if around:
            entries += around
            of_entries = pairs_of(entries)
        smooth = np.isfinite(of_entries.n)
        index = tuple(probe.index for probe, kept in zip(entries, smooth, strict=True) if kept)
        return Evidence(
            name=name,
            shape=gradient.shape,
            norm=tensor.size.norm,
            entries=of_entries.where(smooth),
            index=index,
            directions=through.where(np.isfinite(through.n)),
            unresolved=0,
            kinks=int((~smooth).sum()),
            coverage=tensor.coverage(index),
            step_size=0.0,
            noise=0.0 if context.near is None else context.near.sigma,
            nonsmooth=False,
            confirmed_at_short_steps=True,
            blocks=entries_in_blocks(self.masks, name, index),
            passing=tensor.uncancelled,
            is_native=context.is_native,
            is_scalar=context.centre.size == 1,
            loss_unchanged=not (slopes.n.any() or of_entries.n.any()),
            method=self.reference.method,
            rules=context.rules,
        )

    def _hidden_entry(
        self, tensor: TensorUnderTest, along: Sequence[Direction], through: DerivativePairs
    ) -> EntryProbe | None:
        """An entry that is wrong, by halving the direction that disagrees most."""
        worst = int(np.nanargmax(np.abs(through.z)))

        def residual_of(part: Direction, _share: float) -> float:
            slopes = self.reference.along(tensor, [part], to_both_sides=False)
            return float(slopes.n[0] - slopes.g[0])

        return wrong_entry(along[worst], float(through.n[worst] - through.g[worst]), residual_of)

    def _disagree(self, pairs: DerivativePairs) -> bool:
        return bool((np.abs(pairs.z) > self.context.rules.alarm).any())


def _pairs(
    tensor: TensorUnderTest,
    probes: Sequence[Probe],
    slopes: Slopes,
    own: float,
    forward: Float64,
    known: float | None = None,
) -> DerivativePairs:
    """The exact pairs along some probes; nan where the loss has a kink at x.

    Where they disagree, backprop's rounding error is measured: the rounded backward pass may be beyond a kink that is
    near x, or follow a forward pass that amplifies roundings.

    Args:
        tensor: The tensor.
        probes: K probes.
        slopes: The derivatives along them.
        own: Backprop's usual rounding error, as far as it is in proportion to the gradient.
        forward: The part of it that the forward pass leaves, along each probe or the same along all.
        known: How much larger it is here, where other probes of the tensor have shown it.
    """
    bars = np.zeros(len(probes)) + np.hypot(own, forward) * (known or 1.0)
    suspects = np.flatnonzero(np.abs(_z(slopes, bars)) > tensor.context.rules.alarm)
    suspects = suspects[np.argsort(-np.abs(slopes.n - slopes.g)[suspects], kind="stable")][:NUDGED]
    if known is None and suspects.size and tensor.context.rules.amplification and tensor.context.near is not None:
        which = [probes[int(i)] for i in suspects]
        before = tensor.measure(which, np.full(suspects.size, PROOF_STEP * tensor.typical))
        found = amplified(tensor, which, before, tensor.context.near.sigma)
        bars = np.maximum(bars, np.sqrt(np.mean(found**2)))
        bars[suspects] = np.maximum(bars[suspects], found)
    return DerivativePairs(slopes.n, slopes.g, slopes.error, bars, _z(slopes, bars), np.full(len(probes), own))


def _z(slopes: Slopes, rounding: Float64) -> Float64:
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = MARGIN * np.hypot(rounding, slopes.error)
        return np.where(slopes.n == slopes.g, 0.0, (slopes.n - slopes.g) / deviation)
