"""Which tensors are wrong: a direction that alarms is halved, until the parts that alarm are single tensors."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from gradguard.arrays import Float64
from gradguard.measurement import MeasurementContext
from gradguard.screening.probe import ModelProbe, measured_along, part_of
from gradguard.screening.screen import Screen, visible_errors
from gradguard.statistics import ALARM_Z


@dataclass(frozen=True, slots=True)
class Located:
    """Where the gradient of a model is wrong.

    Attributes:
        wrong: The tensors whose own probe alarmed.
        visible: The tensors that no probe accuses, each with the smallest relative error that would have shown.
        left: Groups that alarmed, or were not probed yet, and could not be split in time.
    """

    wrong: tuple[str, ...]
    visible: dict[str, float]
    left: tuple[tuple[str, ...], ...]


def locate(
    context: MeasurementContext,
    screen: Screen,
    groups: Sequence[Sequence[str]],
    rng: np.random.Generator,
    is_over: Callable[[], bool],
    alarm: ModelProbe | None = None,
) -> Located:
    """The wrong tensors among some groups: each group is probed, and what alarms is halved.

    Along one direction, the loss follows the gradients of a half as well as that of the whole and of the other half
    leave it to: one probe tells of both. So one tensor of 400 is found by nine probes. What is left of a group is
    probed anew once the tensors that were found are out of it.

    Neighbours stay together, since an error in one layer spoils the gradients of all layers below it.

    Args:
        context: What to measure with.
        screen: The screen that alarmed; it gives the steps and the noise.
        groups: The tensors, in groups.
        rng: Draws the probes.
        is_over: Whether the time is over.
        alarm: The probe of the first group that alarmed; None where it is to be probed again.
    """
    wrong: list[str] = []
    visible: dict[str, float] = {}
    suspected, others = [tuple(group) for group in groups if group], list[tuple[str, ...]]()
    begun = False
    while (suspected or others) and not (begun and is_over()):
        group = suspected.pop(0) if suspected else others.pop(0)
        probes = [alarm] if alarm is not None else screen.probe_group(context, group, rng)
        usable, alarm, begun = [probe for probe in probes if probe.suits], None, True
        alarming = next((probe for probe in usable if abs(probe.z) > ALARM_Z), None)
        if alarming is None:
            _add_smaller(visible, visible_errors(group, usable))
            continue
        halving = _Halving(context, screen, alarming)
        halving.run(group, is_over)
        wrong += halving.wrong
        _add_smaller(visible, halving.visible)
        suspected[:0] = halving.left
        taken = {*halving.wrong, *(name for left in halving.left for name in left)}
        if halving.wrong and taken < set(group):
            others.append(tuple(name for name in group if name not in taken))
    accused = {*wrong, *(name for group in suspected for name in group)}
    cleared = {name: error for name, error in visible.items() if name not in accused}
    return Located(tuple(sorted(wrong, key=list(context.arrays).index)), cleared, tuple(suspected))


def halves(group: tuple[str, ...]) -> list[tuple[str, ...]]:
    """A group in two halves of neighbours; a single tensor by itself."""
    middle = (len(group) + 1) // 2
    return [half for half in (group[:middle], group[middle:]) if half]


def disjoint(groups: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """The groups, each without the tensors of the groups before it."""
    seen: set[str] = set()
    kept = []
    for group in groups:
        rest = tuple(name for name in group if name not in seen)
        seen |= set(rest)
        if rest:
            kept.append(rest)
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a direction: how far the loss changes along it from what the gradients of its tensors predict.

    Attributes:
        names: The tensors that it moves.
        residual: That, in units of the loss.
        variance: Its variance on correct gradients.
        explained: How far truncation and kinks may have moved it.
        shares: The part of each tensor in what the gradients predict.
        is_measured: Whether the loss was evaluated along it, not only along the whole and the other parts.
        suits: Whether it is evidence either way.
    """

    names: tuple[str, ...]
    residual: float
    variance: float
    explained: float
    shares: Float64
    is_measured: bool
    suits: bool

    @classmethod
    def of(cls, names: tuple[str, ...], probe: ModelProbe) -> "_Part":
        """The part that a probe measured."""
        explained = probe.explained if probe.suits else math.inf
        return cls(names, probe.residual, probe.deviation**2, explained, probe.shares, True, probe.suits)

    def without(self, half: "_Part") -> "_Part":
        """The rest of it beside its first tensors."""
        count = len(half.names)
        return _Part(
            self.names[count:],
            self.residual - half.residual,
            self.variance + half.variance,
            self.explained + half.explained,
            self.shares[count:],
            False,
            self.suits and half.suits,
        )

    @property
    def alarms(self) -> bool:
        """Whether its tensors are not all right."""
        return self.suits and abs(self.residual) - self.explained > ALARM_Z * math.sqrt(self.variance)

    @property
    def visible(self) -> dict[str, float]:
        """The smallest relative error of each tensor that would have alarmed."""
        with np.errstate(divide="ignore"):
            errors: Float64 = (ALARM_Z * math.sqrt(self.variance) + self.explained) / np.abs(self.shares)
        return dict(zip(self.names, errors.tolist(), strict=True))


@dataclass(slots=True)
class _Halving:
    """The search for what makes a probe alarm.

    Attributes:
        context: What to measure with.
        screen: The screen that gives the noise.
        probe: The probe.
        wrong: The tensors that alarm by themselves.
        visible: Those that do not, each with the smallest relative error that would have shown.
        left: Groups that alarm, where there was no time to split them, or where only all of the group together does.
    """

    context: MeasurementContext
    screen: Screen
    probe: ModelProbe
    wrong: list[str] = field(default_factory=list)
    visible: dict[str, float] = field(default_factory=dict)
    left: list[tuple[str, ...]] = field(default_factory=list)

    def run(self, group: tuple[str, ...], is_over: Callable[[], bool]) -> None:
        """Split the group that the probe is of: once at least, so that each check goes on a bit however slow it is."""
        waiting, begun = [_Part.of(group, self.probe)], False
        while waiting:
            part = waiting.pop()
            if len(part.names) == 1 and part.is_measured:
                self.wrong.append(part.names[0])
            elif begun and is_over():
                self.left.append(part.names)
            else:
                waiting += self._alarming(part)
                begun = True

    def _alarming(self, part: _Part) -> list[_Part]:
        """The halves of a part that alarm; of a single tensor, the tensor as it is measured by itself."""
        first = self._measured(halves(part.names)[0])
        both = [first] if first.names == part.names else [part.without(first), first]
        alarming = [half for half in both if half.alarms]
        if not alarming and len(part.names) > 1:
            self.left += halves(part.names)
            return []
        for half in both:
            if not half.alarms:
                self.visible |= half.visible
        return alarming

    def _measured(self, names: tuple[str, ...]) -> _Part:
        step, stream = self.probe.step, self.screen.streams[self.probe.kind]
        direction = part_of(self.context, self.probe.direction, names)
        return _Part.of(names, measured_along(self.context, direction, step, stream.noise_at(step), self.probe.forward))


def _add_smaller(visible: dict[str, float], errors: dict[str, float]) -> None:
    """Take over errors that are smaller than those known."""
    visible |= {name: min(error, visible.get(name, math.inf)) for name, error in errors.items()}
