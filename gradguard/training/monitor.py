"""The checks of one training: what each measures, and what it takes over from the checks before."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from gradguard.arrays import Masks, is_finite
from gradguard.checks import (
    IN_DOUBT,
    LEAST,
    CheckPlan,
    Deadline,
    Effort,
    TensorState,
    check_tensors,
    nondeterministic,
    probe_tensors,
)
from gradguard.diagnosis import History, Observation, diagnose_tensor, unmeasured
from gradguard.measurement import (
    CheckTarget,
    MeasurementContext,
    Precision,
    ProvenSetup,
    TensorMeasurement,
    TensorUnderTest,
)
from gradguard.report import TensorReport, Thresholds, Verdict
from gradguard.statistics import ALARM_Z, alarm_level
from gradguard.training.ranks import SINGLE_PROCESS, Ranks
from gradguard.training.schedule import Plan

ROUTINE_ENTRIES = 3  # entries of a tensor in a routine check
CONFIRMING = Effort(entries=100, cost=IN_DOUBT)  # what follows an alarm
# A scale error too small for one direction shows in many aligned ones: 200 resolve a fourteenth of what one resolves.
CONFIRMING_DRIFT = Effort(entries=30, aligned=200, cost=IN_DOUBT)
EXAMINATION_SECONDS = 10.0  # that the examinations of one check may take inside a training: a person waits no longer
UNREACHED = "not looked at yet: the time of this check went to other tensors"
UNREACHED_CAUSE = "there are many tensors, or the loss takes long; the next checks go on with it"
CHECKS_IN_A_RUN = 10_000  # to which `Thresholds.false_alarms` refers
FINE_EVIDENCE = 2.0  # log10 of the evidence that chance alone often brings
ROUTINE_PROBES = 1 + ROUTINE_ENTRIES  # probes of a tensor in a routine check
MAX_RATIOS = 20  # confirmed ratios of a wrong tensor that are kept, to see which constant they follow


@dataclass(slots=True)
class MonitorState:
    """What is carried from check to check, by tensor.

    Attributes:
        proven: What the first check has proven about the loss; None before it.
        tensors: The latest report of each tensor.
        states: The state of the routine probes of each tensor.
        baseline: The first confirmed ratio of each tensor.
        ratios: The latest confirmed ratios of each tensor that is wrong by a factor.
        last_fine: The last step at which nothing spoke against each tensor.
        next_tensor: The position of the tensor whose turn is next.
    """

    proven: ProvenSetup | None = None
    tensors: dict[str, TensorReport] = field(default_factory=dict)
    states: dict[str, TensorState] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, tuple[Observation, ...]] = field(default_factory=dict)
    last_fine: dict[str, int] = field(default_factory=dict)
    next_tensor: int = 0

    def forget(self, name: str) -> None:
        """Forget a tensor whose shape has changed."""
        for carried in (self.tensors, self.states, self.last_fine):
            carried.pop(name, None)


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """One check of a training.

    Attributes:
        masks: Named blocks, by tensor.
        constants: Numbers of the training, by name.
        plan: How much a routine check may measure.
        step: The training step.
        deadline: When the check started, by the clock of all processes.
    """

    masks: Masks
    constants: Mapping[str, float]
    plan: Plan
    step: int
    deadline: Deadline


class CheckMonitor:
    """Measures what each check needs: all tensors at first, then a few probes of each, and examinations after alarms.

    Args:
        precision: The user's choice.
        thresholds: What alerts.
        seed: Seeds the probes.
        ranks: The processes of the training.

    Attributes:
        memory: What is carried from check to check.
        rng: Draws the probes.
    """

    def __init__(self, precision: Precision, thresholds: Thresholds, seed: int, ranks: Ranks = SINGLE_PROCESS) -> None:
        self._precision = precision
        self._thresholds = thresholds
        self._ranks = ranks
        self.rng = np.random.default_rng(seed)
        self.memory = MonitorState()

    @property
    def tensors(self) -> dict[str, TensorReport]:
        """The latest report of every tensor, with the drift of its ratio from the first confirmed one."""
        return {
            name: dataclasses.replace(tensor, ratio_drift=self._drift(tensor), last_fine=self._last_fine(tensor))
            for name, tensor in self.memory.tensors.items()
        }

    def measure(self, target: CheckTarget, request: CheckRequest) -> tuple[MeasurementContext, tuple[str, ...]]:
        """Make one check.

        Returns:
            What was measured with, and the tensors whose routine probes raised an alarm.
        """
        proven = self.memory.proven
        if proven is None:
            (context, names), alarms = self._first_check(target, request), tuple[str, ...]()
        else:
            context, names, alarms = self._routine_check(target, proven, request)
        self.memory.last_fine |= {name: request.step for name in names if self._is_fine(name)}
        return context, alarms

    def _is_fine(self, name: str) -> bool:
        state, tensor = self.memory.states.get(name), self.memory.tensors.get(name)
        if state is None or tensor is None:
            return False
        return state.evidence < FINE_EVIDENCE and tensor.verdict.is_bug is False

    def _first_check(self, target: CheckTarget, request: CheckRequest) -> tuple[MeasurementContext, list[str]]:
        """Examine every tensor there is time for, screen the others, and examine those that raise an alarm."""
        deadline = request.deadline.after(EXAMINATION_SECONDS)
        context = target.context(self._precision, lambda: request.deadline.after(EXAMINATION_SECONDS / 8).is_over)
        names = list(context.arrays)
        self._examine(context, names, Effort(), request, request.deadline.after(EXAMINATION_SECONDS / 2))
        left = [name for name in names if name not in self.memory.tensors]
        self._examine(context, self._screen(context, left, deadline), CONFIRMING, request, deadline)
        unreached = {name: context.arrays[name].shape for name in left if name not in self.memory.tensors}
        self.memory.tensors |= unmeasured(
            unreached, Verdict.inconclusive, UNREACHED, UNREACHED_CAUSE, cause_key="unreached", deep=False
        )
        if np.isfinite(context.centre).all():
            self.memory.proven = context.proven
        return context, names

    def _screen(self, context: MeasurementContext, names: list[str], deadline: Deadline) -> list[str]:
        """Make one routine probe of each tensor, while there is time; those that raise an alarm."""
        alarmed = []
        for name in names:
            if not self.memory.states or deadline.is_over:
                break
            self._inherit_steps(context, name)
            if self._probe(context, [name], 0)[name] is not None:
                alarmed.append(name)
        return alarmed

    def _inherit_steps(self, context: MeasurementContext, name: str) -> None:
        """Let the routine probes of a tensor start from the state of another."""
        known, tensor = next(iter(self.memory.states.values())), TensorUnderTest(context, name)
        self.memory.states[name] = known.inherited(tensor.steps_of_entries, tensor.steps_of_directions)

    def _routine_check(
        self, target: CheckTarget, proven: ProvenSetup, request: CheckRequest
    ) -> tuple[MeasurementContext, list[str], tuple[str, ...]]:
        """Probe the tensors whose turn it is, and examine those that raise an alarm."""
        names = self._next_tensors(list(target.arrays), request.plan.tensors)
        context, deadline = target.reopened(proven, names), request.deadline.after(EXAMINATION_SECONDS)
        if not np.isfinite(context.centre).all():
            self._examine(context, names, LEAST, request, deadline)
            return context, names, ()
        for name in names:
            if self._is_unreached(name):
                self._inherit_steps(context, name)
        standing = [name for name in names if self._is_standing(context, name)]
        probed = self._probe(context, [name for name in names if name not in standing], request.plan.entries)
        if any(probed.values()):
            target.state.require_intact()
        if probed and not context.repeats():
            self.memory.tensors |= nondeterministic(context, names)
            return context, names, ()
        for effort, wanted in self._examinations(standing, probed):
            self._examine(context, wanted, effort, request, deadline)
            if deadline.is_over:
                break
        return context, names, tuple(name for name, effort in probed.items() if effort is not None)

    def _examinations(self, standing: list[str], probed: Mapping[str, Effort | None]) -> list[tuple[Effort, list[str]]]:
        """The examinations that tensors need: new findings come before those that are reported already."""
        tensors = self.memory.tensors
        reported = [name for name in standing if name in tensors and tensors[name].verdict.is_bug]
        alarmed, drifting = (
            [name for name, wanted in probed.items() if wanted is effort] for effort in (CONFIRMING, CONFIRMING_DRIFT)
        )
        fresh = [name for name in standing if name not in reported]
        wanted = [(CONFIRMING, fresh), (CONFIRMING, alarmed), (CONFIRMING_DRIFT, drifting), (CONFIRMING, reported)]
        return [(effort, names) for effort, names in wanted if names]

    def _next_tensors(self, names: list[str], count: int) -> list[str]:
        start = self.memory.next_tensor % len(names)
        self.memory.next_tensor = (start + count) % len(names)
        return sorted((names[start:] + names[:start])[:count], key=names.index)

    def _is_unreached(self, name: str) -> bool:
        tensor = self.memory.tensors.get(name)
        return tensor is not None and name not in self.memory.states and not tensor.deep and bool(self.memory.states)

    def _is_standing(self, context: MeasurementContext, name: str) -> bool:
        """Whether only an examination can change the verdict: routine probes cannot lift it, or have no state yet."""
        tensor = self.memory.tensors.get(name)
        if tensor is None or name not in self.memory.states or not is_finite(context.gradients[name]):
            return True
        verdict = tensor.verdict
        return verdict.is_bug is not False and verdict is not Verdict.inconclusive

    def _probe(self, context: MeasurementContext, names: list[str], entries: int) -> dict[str, Effort | None]:
        """Make routine probes of some tensors; the examination that each needs, if it raises an alarm."""
        if not names:
            return {}
        states = {name: self.memory.states[name] for name in names}
        level = alarm_level(ROUTINE_PROBES * len(self.memory.states), CHECKS_IN_A_RUN, self._thresholds.false_alarms)
        needed: dict[str, Effort | None] = {}
        for name, (evidence, largest) in probe_tensors(context, states, entries, self.rng).items():
            state = states[name]
            report = diagnose_tensor(evidence, History({}), self._thresholds)
            self.memory.tensors[name] = dataclasses.replace(report, evidence=state.evidence)
            if largest > ALARM_Z or state.is_lost:
                needed[name] = CONFIRMING
            else:
                needed[name] = CONFIRMING_DRIFT if state.evidence > level else None
        return needed

    def _examine(
        self, context: MeasurementContext, names: list[str], effort: Effort, request: CheckRequest, deadline: Deadline
    ) -> None:
        """Examine some tensors on fresh probes, as far as there is time: only that confirms a bug."""
        if not names:
            return
        effort = effort.at_most(deadline.affordable(context.objective.evaluations) / len(names))
        evidence = {name: state.evidence for name, state in self.memory.states.items()}
        shapes = {name: array.shape for name, array in context.arrays.items()}
        histories = {name: History(request.constants, self.memory.ratios.get(name, ()), shapes) for name in names}
        plan = CheckPlan(effort, request.masks, histories, self._thresholds, self._ranks.is_first)
        reports, measured = check_tensors(context, names, plan, self.rng, deadline)
        for name, report in reports.items():
            self.memory.tensors[name] = dataclasses.replace(report, evidence=evidence.get(name, 0.0))
            if report.verdict.is_factor:
                newest = Observation(report.ratio, report.ratio_error, request.constants)
                self.memory.ratios[name] = (*self.memory.ratios.get(name, ()), newest)[-MAX_RATIOS:]
            else:
                self.memory.ratios.pop(name, None)
        for name, measurement in measured.items():
            self._take_over(name, measurement)

    def _take_over(self, name: str, measurement: TensorMeasurement) -> None:
        """Let the routine probes of a tensor start from its measurement, and its ratio drift from the first ratio."""
        self.memory.states[name] = TensorState.after(measurement)
        tensor = self.memory.tensors[name]
        if name not in self.memory.baseline and tensor.verdict.is_bug is False and tensor.ratio > 0:
            self.memory.baseline[name] = tensor.ratio

    def _last_fine(self, tensor: TensorReport) -> int | None:
        return self.memory.last_fine.get(tensor.name) if tensor.verdict.is_bug else None

    def _drift(self, tensor: TensorReport) -> float:
        first = self.memory.baseline.get(tensor.name)
        return math.log(tensor.ratio / first) if first is not None and tensor.ratio > 0 else 0.0
