"""How the checks of one training build on each other: what each measures, and what later ones take over."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from gradguard.arrays.named_blocks import Masks
from gradguard.arrays.reductions import is_finite
from gradguard.checks.check import deep_check
from gradguard.checks.effort import IN_DOUBT, LEAST, Effort
from gradguard.checks.examine import Examined
from gradguard.checks.preflight import nondeterministic
from gradguard.checks.screen import probe_tensors
from gradguard.checks.streams import TensorState
from gradguard.diagnosis.across_tensors import unmeasured
from gradguard.diagnosis.classify import diagnose_tensor
from gradguard.diagnosis.known_factors import History, Observation
from gradguard.measurement.context import MeasurementContext, ProvenSetup
from gradguard.measurement.precision import CheckTarget, Precision
from gradguard.report.results import TensorReport
from gradguard.report.thresholds import Thresholds
from gradguard.report.verdict import Verdict
from gradguard.statistics.pairs import ALARM
from gradguard.statistics.sequential import alarm_level
from gradguard.training.ranks import ALONE, Ranks
from gradguard.training.schedule import Plan

ROUTINE_ENTRIES = 3  # sampled entries of a tensor in a routine check
CONFIRMING = Effort(entries=100, cost=IN_DOUBT)
# A small error of scale shows in many aligned directions together.
CONFIRMING_DRIFT = Effort(entries=30, aligned=200, cost=IN_DOUBT)
DEEP_SECONDS = 10.0  # about what the deep checks of one step may take inside a training
UNREACHED = "not looked at yet: the time of this check went to other tensors"
UNREACHED_CAUSE = "there are many tensors, or the loss takes long; the next checks go on with it"
CHECKS_IN_A_RUN = 10_000
FINE_EVIDENCE = 2.0  # log10 of the evidence, up to which chance alone brings it often
PROBES = 1 + ROUTINE_ENTRIES  # of a tensor at a routine check
RATIOS = 20  # confirmed ratios of a wrong tensor that are remembered, to see which constant they follow


@dataclass(slots=True)
class MonitorState:
    """What is carried from check to check, by tensor.

    Attributes:
        proven: What the first check found out of the loss; None before it.
        tensors: The latest report of each tensor.
        states: Where the routine probes of each stand.
        baseline: The first confirmed ratio of each.
        ratios: The latest confirmed ratios of each that is wrong by a factor.
        last_fine: The last step at which nothing spoke against each.
        next_tensor: The tensor that is the next one's turn, by its place.
    """

    proven: ProvenSetup | None = None
    tensors: dict[str, TensorReport] = field(default_factory=dict)
    states: dict[str, TensorState] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, tuple[Observation, ...]] = field(default_factory=dict)
    last_fine: dict[str, int] = field(default_factory=dict)
    next_tensor: int = 0

    def forget(self, name: str) -> None:
        """Begin anew with a tensor that is another one now."""
        for carried in (self.tensors, self.states, self.last_fine):
            carried.pop(name, None)


class CheckMonitor:
    """Measures what each check calls for: everything at first, then a few probes and whatever these raise an alarm on.

    Args:
        precision: What the user asked for.
        thresholds: What alerts.
        seed: Of the probes.
        ranks: The processes of the training.

    Attributes:
        memory: What is carried from check to check.
        rng: The stream of the probes.
    """

    def __init__(self, precision: Precision, thresholds: Thresholds, seed: int, ranks: Ranks = ALONE) -> None:
        self._precision = precision
        self._thresholds = thresholds
        self._ranks = ranks
        self.rng = np.random.default_rng(seed)
        self.memory = MonitorState()

    @property
    def tensors(self) -> dict[str, TensorReport]:
        """The latest report of every tensor, with how far its ratio is from the first confirmed one."""
        return {
            name: dataclasses.replace(tensor, ratio_drift=self._drift(tensor), last_fine=self._last_fine(tensor))
            for name, tensor in self.memory.tensors.items()
        }

    def measure(
        self, subject: CheckTarget, masks: Masks, constants: Mapping[str, float], plan: Plan, step: int, started: float
    ) -> tuple[MeasurementContext, tuple[str, ...]]:
        """One check; what it was measured with, and the tensors whose routine probes raised an alarm."""
        proven = self.memory.proven
        if proven is None:
            (context, names), alarms = self._first(subject, masks, constants, started), tuple[str, ...]()
        else:
            context, names, alarms = self._later(subject, proven, masks, constants, plan, started)
        self.memory.last_fine |= {name: step for name in names if self._is_fine(name)}
        return context, alarms

    def _is_fine(self, name: str) -> bool:
        state = self.memory.states.get(name)
        return (
            state is not None and state.evidence < FINE_EVIDENCE and self.memory.tensors[name].verdict.is_bug is False
        )

    def _first(
        self, subject: CheckTarget, masks: Masks, constants: Mapping[str, float], started: float
    ) -> tuple[MeasurementContext, list[str]]:
        """Preflight, and a deep check of every tensor."""
        context = subject.context(self._precision, lambda: self._ranks.clock() > started + DEEP_SECONDS / 8)
        names, end = list(context.arrays), started + DEEP_SECONDS
        self._examine(context, names, Effort(), masks, constants, started, started + DEEP_SECONDS / 2)
        left = [name for name in names if name not in self.memory.tensors]
        self._examine(context, self._screen(context, left, end), CONFIRMING, masks, constants, started, end)
        unreached = {name: context.arrays[name].shape for name in left if name not in self.memory.tensors}
        self.memory.tensors |= unmeasured(unreached, Verdict.inconclusive, UNREACHED, UNREACHED_CAUSE, deep=False)
        if np.isfinite(context.centre).all():
            self.memory.proven = context.proven
        return context, names

    def _screen(self, context: MeasurementContext, names: list[str], until: float) -> list[str]:
        """One routine probe of each tensor that there was no time for; those that raise an alarm."""
        alarmed = []
        for name in names:
            if not self.memory.states or self._ranks.clock() > until:
                break
            self._inherit_steps(context, name)
            if self._probe(context, [name], 0)[name] is not None:
                alarmed.append(name)
        return alarmed

    def _inherit_steps(self, context: MeasurementContext, name: str) -> None:
        """Begin the routine probes of a tensor with what is known of another."""
        known = next(iter(self.memory.states.values()))
        self.memory.states[name] = known.borrowed(context.steps_of_entries(name), context.steps_of_directions(name))

    def _later(
        self,
        subject: CheckTarget,
        proven: ProvenSetup,
        masks: Masks,
        constants: Mapping[str, float],
        plan: Plan,
        started: float,
    ) -> tuple[MeasurementContext, list[str], tuple[str, ...]]:
        """Routine probes of the tensors whose turn it is, and a deep check of those that raise an alarm."""
        names = self._whose_turn(list(subject.arrays), plan.tensors)
        context = subject.reopened(proven, names)
        if not np.isfinite(context.centre).all():
            self._examine(context, names, LEAST, masks, constants, started, started + DEEP_SECONDS)
            return context, names, ()
        for name in names:
            if self._is_unreached(name):
                self._inherit_steps(context, name)
        standing = [name for name in names if self._is_standing(context, name)]
        probed = self._probe(context, [name for name in names if name not in standing], plan.entries)
        if any(probed.values()):
            subject.state.require_intact()
        if probed and not context.repeats():
            self.memory.tensors |= nondeterministic({name: context.arrays[name].shape for name in names})
            return context, names, ()
        until = started + DEEP_SECONDS
        for effort, called in self._called_for(standing, probed):
            self._examine(context, called, effort, masks, constants, started, until)
            if self._ranks.clock() > until:
                break
        return context, names, tuple(name for name, wanted in probed.items() if wanted is not None)

    def _called_for(self, standing: list[str], probed: Mapping[str, Effort | None]) -> list[tuple[Effort, list[str]]]:
        """The deep checks that tensors call for, what is not known yet before what has been told."""
        told = [name for name in standing if name in self.memory.tensors and self.memory.tensors[name].verdict.is_bug]
        alarmed, drifting = (
            [name for name, wanted in probed.items() if wanted is effort] for effort in (CONFIRMING, CONFIRMING_DRIFT)
        )
        fresh = [name for name in standing if name not in told]
        called = [(CONFIRMING, fresh), (CONFIRMING, alarmed), (CONFIRMING_DRIFT, drifting), (CONFIRMING, told)]
        return [(effort, names) for effort, names in called if names]

    def _whose_turn(self, names: list[str], count: int) -> list[str]:
        turn = self.memory.next_tensor % len(names)
        self.memory.next_tensor = (turn + count) % len(names)
        return sorted((names[turn:] + names[:turn])[:count], key=names.index)

    def _is_unreached(self, name: str) -> bool:
        tensor = self.memory.tensors.get(name)
        return tensor is not None and name not in self.memory.states and not tensor.deep and bool(self.memory.states)

    def _is_standing(self, context: MeasurementContext, name: str) -> bool:
        """Whether only a deep check can speak: a verdict that routine probes cannot lift, or nothing carried over."""
        tensor = self.memory.tensors.get(name)
        if tensor is None or name not in self.memory.states or not is_finite(context.gradients[name]):
            return True
        verdict = tensor.verdict
        return verdict.is_bug is not False and verdict is not Verdict.inconclusive

    def _probe(self, context: MeasurementContext, names: list[str], entries: int) -> dict[str, Effort | None]:
        """Routine probes of some tensors; the deep check that each calls for, if it raises an alarm."""
        if not names:
            return {}
        states = {name: self.memory.states[name] for name in names}
        level = alarm_level(PROBES * len(self.memory.states), CHECKS_IN_A_RUN, self._thresholds.false_alarms)
        called: dict[str, Effort | None] = {}
        for name, (evidence, largest) in probe_tensors(context, states, entries, self.rng).items():
            state = states[name]
            report = diagnose_tensor(evidence, History({}), self._thresholds)
            self.memory.tensors[name] = dataclasses.replace(report, evidence=state.evidence)
            if largest > ALARM or state.is_lost:
                called[name] = CONFIRMING
            else:
                called[name] = CONFIRMING_DRIFT if state.evidence > level else None
        return called

    def _examine(
        self,
        context: MeasurementContext,
        names: list[str],
        effort: Effort,
        masks: Masks,
        constants: Mapping[str, float],
        started: float,
        until: float,
    ) -> None:
        """A deep check of some tensors on fresh probes, in the time there is: only that speaks of a bug."""
        if not names:
            return
        now = self._ranks.clock()
        evaluation = (now - started) / context.objective.evaluations
        effort = effort.at_most((until - now) / evaluation / len(names))
        evidence = {name: state.evidence for name, state in self.memory.states.items()}
        shapes = {name: array.shape for name, array in context.arrays.items()}
        histories = {name: History(constants, self.memory.ratios.get(name, ()), shapes) for name in names}
        reports, examined = deep_check(
            context, names, effort, self.rng, masks, histories, self._thresholds, until, self._ranks
        )
        for name, report in reports.items():
            self.memory.tensors[name] = dataclasses.replace(report, evidence=evidence.get(name, 0.0))
            if report.verdict.is_factor:
                seen = (*self.memory.ratios.get(name, ()), Observation(report.ratio, report.ratio_error, constants))
                self.memory.ratios[name] = seen[-RATIOS:]
            else:
                self.memory.ratios.pop(name, None)
        for name, measured in examined.items():
            self._carry_over(name, measured)

    def _carry_over(self, name: str, measured: Examined) -> None:
        self.memory.states[name] = TensorState.after(measured)
        ratio = self.memory.tensors[name].ratio
        if name not in self.memory.baseline and self.memory.tensors[name].verdict.is_bug is False and ratio > 0:
            self.memory.baseline[name] = ratio

    def _last_fine(self, tensor: TensorReport) -> int | None:
        return self.memory.last_fine.get(tensor.name) if tensor.verdict.is_bug else None

    def _drift(self, tensor: TensorReport) -> float:
        first = self.memory.baseline.get(tensor.name)
        return math.log(tensor.ratio / first) if first is not None and tensor.ratio > 0 else 0.0
