"""The screen: one aligned and one Gaussian direction through all tensors, and the evidence of many checks.

Source: `ShiftDetectors` and `WeighedRatios` name theirs. A screen is a reason to look closer and never a verdict that a
gradient is wrong; where it does not alarm, it says how small an error of each tensor it would have shown.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from gradguard.differences import TOO_LONG_Z3, TOO_LONG_Z4, Noise, Steps, estimate_noise, next_step
from gradguard.measurement import SHORTEST_STEP, MeasurementContext, TensorUnderTest
from gradguard.screening.probe import KINDS, ModelDirection, ModelProbe, draw_direction, measured_along
from gradguard.screening.stream import Stream
from gradguard.statistics import ALARM_Z, Detector, ShiftDetectors, WeighedRatios

FIRST = {"native": 1e-3, "float64": 1e-7}  # step in sizes of the tensors
PAIRS = 6  # pairs of points that give the noise near x anew
SHORTEST = 1e-10  # step in sizes of the tensors
TRIES = 2  # probes of a kind at a later check, at most
SEARCH = 8  # probes along one direction, at most, that search for the step at the first check
ATTEMPTS = 3  # the same for a group of tensors
GROWTH = 4.0  # factor by which the step rises then
MOST_SHORTENED = 10.0  # factor by which it is shortened at once, at most
FINEST = 1e-7  # step, in sizes of the tensors, that meets few kinks: a shorter one gains nothing
FINE = 0.1  # ratio of noise to backprop's rounding below which a shorter step loses nothing and meets fewer kinks
COARSE = 0.3  # the same ratio below which a longer step gains nothing
UNSURE = 3.0  # factor on the variance of the noise near x that few pairs of points leave open
SHORTER = (1 / 4, 1 / 16)  # of the step, at which an alarm must last
KEPT = 0.5  # of a disagreement, that a bug keeps there at least
SURE = 2.0  # standard deviations by which a disagreement must have shrunk, or changed its sign, not to count


@dataclass(frozen=True, slots=True)
class Screened:
    """What one screen found.

    Attributes:
        probes: The probes of each kind.
        visible: The smallest relative error of each tensor that would have shown; inf for a gradient of zeros.
        evidence: log10 of the evidence of all screens so far that the ratio of each tensor is not 1.
        of_model: The same of all tensors together.
        alarm: The probe that alarmed, and lasts at shorter steps; None where none does.
        loss_unchanged: Whether the loss did not change at all.
        is_usable: Whether the step of any probe suited the loss, so that no alarm means something.
    """

    probes: tuple[ModelProbe, ...]
    visible: Mapping[str, float]
    evidence: Mapping[str, float]
    of_model: float
    alarm: ModelProbe | None
    loss_unchanged: bool
    is_usable: bool

    @property
    def alarms(self) -> bool:
        """Whether a single probe alarmed."""
        return self.alarm is not None

    def drifting(self, level: float) -> list[str]:
        """The tensors whose ratio has moved, by the evidence of many screens; one at most, the clearest.

        Args:
            level: log10 of the evidence that alarms.
        """
        clearest = max(self.evidence, key=self.evidence.__getitem__)
        return [clearest] if max(self.of_model, self.evidence[clearest]) > level else []


@dataclass(slots=True)
class Screen:
    """The state of the screen of some tensors, carried from check to check.

    Attributes:
        names: The tensors, in order.
        near: The noise of the loss near the unperturbed parameters, where there are no kinks.
        streams: The state of the probes of each kind.
        shifts: The evidence that the ratio of a tensor is not 1: all tensors share the probes, each with a sign of its
            own that does not depend on their outcome.
        ratios: The latest probes, which give the ratio of each tensor.
        screens: How many screens there were.
    """

    names: tuple[str, ...]
    near: Noise
    streams: dict[str, Stream]
    shifts: ShiftDetectors
    ratios: WeighedRatios
    screens: int = 0

    @classmethod
    def of(cls, context: MeasurementContext, names: Sequence[str], near: Noise) -> Self:
        """The state before the first screen."""
        tensors = [TensorUnderTest(context, name) for name in names]
        space = context.objective.space
        shortest = float(np.median([SHORTEST_STEP * space.spacing(tensor.name) / tensor.extent for tensor in tensors]))
        first, longest = FIRST[space.precision], context.rules.longest_step
        steps = Steps(first, max(shortest, SHORTEST), longest).starting_at(first)
        streams = {kind: Stream(steps, near.sigma**2) for kind in KINDS}
        return cls(tuple(names), near, streams, ShiftDetectors(len(names)), WeighedRatios(len(names)))

    @classmethod
    def anew(cls, context: MeasurementContext, names: Sequence[str], rng: np.random.Generator) -> Self:
        """The state before the first screen, with the noise of the loss as it is now."""
        return cls.of(context, names, noise_now(context, names, rng))

    def restarted(self, names: tuple[str, ...]) -> Self:
        """The screen of some tensors with the steps and the noise of this one, and no evidence yet."""
        count = len(names)
        streams = {kind: dataclasses.replace(stream, detector=Detector()) for kind, stream in self.streams.items()}
        return dataclasses.replace(
            self, names=names, streams=streams, shifts=ShiftDetectors(count), ratios=WeighedRatios(count)
        )

    def with_longer_steps(self, factor: float) -> Self:
        """The screen for tensors that change the loss less: they may move further, and meet the same kinks there."""
        streams = {
            kind: dataclasses.replace(
                stream, steps=stream.steps.starting_at(factor * stream.steps.start), kinks=stream.kinks / factor**3
            )
            for kind, stream in self.streams.items()
        }
        return dataclasses.replace(self, streams=streams)

    @property
    def usual_step(self) -> float:
        """The step of the aligned probes, in sizes of the tensors."""
        return self.streams["aligned"].steps.start

    @property
    def evidence(self) -> dict[str, float]:
        """log10 of the evidence of all screens so far that the ratio of each tensor is not 1."""
        return dict(zip(self.names, self.shifts.evidence.tolist(), strict=True))

    def probe_all(self, context: MeasurementContext, rng: np.random.Generator, tries: int = TRIES) -> Screened:
        """One aligned and one Gaussian direction through all tensors; the first screen searches for the step.

        Args:
            context: What to measure with.
            rng: Draws the directions.
            tries: Probes along each direction at a later screen, at most, until a step suits.
        """
        first = self.screens == 0
        floor = self.near.floor_at(context.objective, context.centre)
        before: Stream | None = None
        probes: list[ModelProbe] = []
        for kind, stream in self.streams.items():
            stream.variance = max(stream.variance, floor**2)
            if first and before is not None:
                stream.steps = stream.steps.starting_at(before.steps.start)
                stream.kinks, stream.weight, stream.curved = before.kinks, before.weight, before.curved
            measured = self._search(context, kind, rng) if first else self._probe(context, kind, rng, tries)
            probes += [self._judged(context, probe) for probe in measured]
            before = stream
        self.screens += 1
        for probe in probes:
            self._add_evidence(probe)
        usable = [probe for probe in probes if probe.suits]
        return Screened(
            probes=tuple(probes),
            visible=visible_errors(self.names, usable),
            evidence=self.evidence,
            of_model=max(stream.detector.evidence for stream in self.streams.values()),
            alarm=next((probe for probe in usable if abs(probe.z) > ALARM_Z and self.lasts(context, probe)), None),
            loss_unchanged=all(bool(probe.point.loss_unchanged.all()) for probe in probes),
            is_usable=bool(usable),
        )

    def probe_group(
        self, context: MeasurementContext, names: Sequence[str], rng: np.random.Generator
    ) -> list[ModelProbe]:
        """Probes of some of the tensors until one alarms, at steps that suit them; nothing is learned from them."""
        probes: list[ModelProbe] = []
        for kind, stream in self.streams.items():
            direction = draw_direction(context, names, kind, rng)
            for probe in self._rising(context, direction, stream, ATTEMPTS):
                probes.append(probe)
                if probe.suits and abs(probe.z) > ALARM_Z:
                    return probes
        return probes

    def lasts(self, context: MeasurementContext, probe: ModelProbe) -> bool:
        """Whether a disagreement lasts at shorter steps, as far as the noise lets that be seen.

        What a kink or truncation does to a difference changes with the step; what is wrong with a gradient does not.
        """
        before = probe.residual / float(probe.point.length[0])
        for factor in SHORTER:
            step = probe.step * factor
            again = measured_along(context, probe.direction, step, self.streams[probe.kind].noise_at(step))
            length = float(again.point.length[0])
            after, error = again.residual / length, again.deviation / length
            if not after * math.copysign(1, before) + SURE * error >= KEPT * abs(before):
                return False
        return True

    @property
    def ratios_by_name(self) -> dict[str, tuple[float, float]]:
        """n/g of each tensor and its standard error, from the latest probes."""
        pairs = zip(*(values.tolist() for values in self.ratios.ratios()), strict=True)
        return dict(zip(self.names, pairs, strict=True))

    def _probe(self, context: MeasurementContext, kind: str, rng: np.random.Generator, tries: int) -> list[ModelProbe]:
        """One probe of all tensors at the step that the last one taught, and another one where that does not suit."""
        stream = self.streams[kind]
        direction = draw_direction(context, self.names, kind, rng)
        probes: list[ModelProbe] = []
        while len(probes) < tries and not any(probe.suits for probe in probes):
            step = stream.steps.start
            probe = measured_along(context, direction, step, stream.noise_at(step))
            self._learn(stream, probe)
            stream.steps = stream.steps.starting_at(_better_step(probe))
            probes.append(probe)
        return probes

    def _search(self, context: MeasurementContext, kind: str, rng: np.random.Generator) -> list[ModelProbe]:
        """Probes of all tensors along one direction, at ever better steps; the last one teaches the next screen."""
        stream = self.streams[kind]
        direction = draw_direction(context, self.names, kind, rng)
        probes = []
        for probe in self._rising(context, direction, stream, SEARCH):
            self._learn(stream, probe)
            probes.append(probe)
        longest = max((probe.step for probe in probes if probe.z3 <= TOO_LONG_Z3), default=probes[-1].step)
        stream.steps = stream.steps.starting_at(longest)
        return probes

    def _rising(
        self, context: MeasurementContext, direction: ModelDirection, stream: Stream, attempts: int
    ) -> Iterator[ModelProbe]:
        """Probes along a direction: the step rises until truncation shows beyond doubt, and then comes down once."""
        step, is_rising, forward = stream.steps.start, True, 0.0
        for _ in range(attempts):
            probe = measured_along(context, direction, step, stream.noise_at(step), forward)
            forward = probe.forward
            yield probe
            better = float(stream.steps.clip(_searched_step(probe)))
            is_rising = is_rising and better > step
            if better == step or not (is_rising or better < step):
                break
            step = better

    def _learn(self, stream: Stream, probe: ModelProbe) -> None:
        """Learn the noise of the loss, its kinks and its curvature from a probe."""
        if probe.z3 <= TOO_LONG_Z3:
            stream.bend(probe.point.curvature(probe.sigma))
            stream.hear(float(probe.point.fourth[0]), probe.step, UNSURE * self.near.sigma**2)

    def _judged(self, context: MeasurementContext, probe: ModelProbe) -> ModelProbe:
        """A probe with all that was learned of noise, kinks and curvature since it was measured."""
        stream = self.streams[probe.kind]
        sigma, spread = stream.noise_at(probe.step)
        forward = context.forward_rounding(stream.curvature)
        return dataclasses.replace(probe, sigma=sigma, spread=spread, forward=forward)

    def _add_evidence(self, probe: ModelProbe) -> None:
        """Add a probe to the evidence and to the ratios."""
        stream, z = self.streams[probe.kind], probe.residual / probe.deviation
        if not probe.suits:
            return
        stream.detector.update(z if probe.shares.sum() >= 0 else -z)
        self.shifts.update(np.where(probe.shares >= 0, z, -z))
        self.ratios.add(probe.shares, probe.residual, math.hypot(probe.deviation, probe.explained))


def noise_now(context: MeasurementContext, names: Sequence[str], rng: np.random.Generator) -> Noise:
    """The noise of the loss near the unperturbed parameters as they are now."""
    narrowed = context.rules.narrowed_noise
    return estimate_noise(context.objective, names, context.centre, rng, PAIRS, narrowed=narrowed)


def visible_errors(names: Sequence[str], probes: Sequence[ModelProbe]) -> dict[str, float]:
    """The smallest relative error of each tensor that one of the probes would have shown, if it is a scale error.

    Args:
        names: The tensors.
        probes: Probes of all of them.
    """
    with np.errstate(divide="ignore"):
        each = [(ALARM_Z * probe.deviation + probe.explained) / np.abs(probe.shares) for probe in probes]
    smallest = np.min(each, axis=0) if each else np.full(len(names), math.inf)
    return dict(zip(names, smallest.tolist(), strict=True))


def _better_step(probe: ModelProbe) -> float:
    """The step of the next screen: where truncation just shows, but no longer than makes a difference better."""
    noise, rounding = probe.parts_of_deviation
    better = next_step(probe.step, probe.z3, probe.z4)
    if better > probe.step and noise < COARSE * rounding:
        return probe.step
    return min(better, _step_for_rounding(probe)) if noise < FINE * rounding else better


def _searched_step(probe: ModelProbe) -> float:
    """The next step of a search: several times longer until truncation shows beyond doubt, and then the best one."""
    noise, rounding = probe.parts_of_deviation
    if probe.z3 > TOO_LONG_Z3 or probe.z4 > TOO_LONG_Z4:
        return next_step(probe.step, probe.z3, probe.z4, most=MOST_SHORTENED)
    if noise < FINE * rounding:
        return _step_for_rounding(probe)
    return probe.step if noise < COARSE * rounding else GROWTH * probe.step


def _step_for_rounding(probe: ModelProbe) -> float:
    """A shorter step, at which the noise of the loss is still small beside backprop's rounding."""
    noise, rounding = probe.parts_of_deviation
    return min(probe.step, max(probe.step * noise / (FINE * rounding), FINEST))
