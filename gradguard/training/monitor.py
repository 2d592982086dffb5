"""The checks of one training: what each measures, and what it takes over from the checks before."""

import dataclasses
import math
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gradguard.arrays import Masks, ShardedArray
from gradguard.checks import ModelCheck, NotSameLossError, check_model, explain, locate_twice
from gradguard.diagnosis import History, Observation, diagnose_tensor
from gradguard.differences import Noise
from gradguard.examination import (
    EXPLAIN,
    EXPLAIN_DRIFT,
    REBOUND,
    CheckPlan,
    Deadline,
    Effort,
    TensorState,
    nondeterministic,
    probe_tensor,
    ratio_along_gradient,
    rebound,
    unmeasurable,
)
from gradguard.intended import Declared, Difference, is_another_ratio, undeclared_entries, with_change
from gradguard.measurement import MOST_REPEATS, CheckTarget, MeasurementContext, Precision, ProvenSetup, TensorUnderTest
from gradguard.perturbation import groups_to_move
from gradguard.report import TensorReport, Thresholds, Verdict
from gradguard.screening import (
    SUSPECTED,
    Located,
    Screen,
    Screened,
    carried,
    disjoint,
    halves,
    is_visible,
    noise_now,
    unscreened,
    with_screen,
)
from gradguard.statistics import ALARM_Z, alarm_level

OWN_ENTRIES = 2  # entries of the tensor whose own numbers a routine check measures, beside one direction
EVALUATIONS_OF_REPEAT = 16  # about, as many probes as are repeated
FEWEST_REPEATS = 4  # of a difference, however short the time is
EVALUATIONS_OF_DIRECTION = 8  # about, with the search for its step
PROBES = 2  # of a screen, from which the evidence of every tensor grows
EXAMINATION_SECONDS = 10.0  # that what follows an alarm may take inside a training: a person waits no longer
CHECKS_IN_A_RUN = 10_000  # to which `Thresholds.false_alarms` refers
UNKNOWN_RATIO = 0.1  # standard error above which the probes so far do not tell a ratio
UNKNOWN = (math.nan, math.inf)  # such a ratio, with its standard error
FINE_EVIDENCE = 2.0  # log10 of the evidence that chance alone often brings
Suspects = tuple[Effort, tuple[str, ...], tuple[tuple[str, ...], ...]]
SUMMED = 1024  # entries of a tensor, at equal distances, of which a checksum is made
MAX_RATIOS = 20  # confirmed ratios of a wrong tensor that are kept, to see which constant they follow


@dataclass(slots=True)
class MonitorState:
    """What is carried from check to check, by tensor.

    Attributes:
        proven: What the first check has proven about the loss; None before it.
        tensors: The latest report of each tensor.
        states: The state of each tensor's own probes.
        screens: The screens of the groups of tensors.
        left: Groups of tensors that alarmed and could not be looked at in time.
        baseline: The first confirmed ratio of each tensor.
        ratios: The latest confirmed ratios of each tensor that is wrong by a factor.
        last_fine: The last step at which nothing spoke against each tensor.
        differences: How each tensor that is declared to differ did so when that was first measured.
        next_tensor: The position of the tensor whose own numbers are next.
        next_screen: The position of the group whose screen is next.
        next_declared: The position among the tensors declared to differ of the one that is probed next.
        bits: A checksum of each tensor whose gradient was not zero at the last check.
    """

    proven: ProvenSetup | None = None
    tensors: dict[str, TensorReport] = field(default_factory=dict)
    states: dict[str, TensorState] = field(default_factory=dict)
    screens: tuple[Screen, ...] = ()
    left: tuple[tuple[str, ...], ...] = ()
    baseline: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, tuple[Observation, ...]] = field(default_factory=dict)
    last_fine: dict[str, int] = field(default_factory=dict)
    differences: dict[str, Difference] = field(default_factory=dict)
    next_tensor: int = 0
    next_screen: int = 0
    next_declared: int = 0
    bits: dict[str, int] = field(default_factory=dict)

    def forget(self, name: str) -> None:
        """Forget a tensor whose shape has changed, and the screens, which covered another model."""
        for carried_over in (self.tensors, self.states, self.last_fine, self.differences, self.bits):
            carried_over.pop(name, None)
        self.screens, self.left = (), ()


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """One check of a training.

    Attributes:
        masks: Named blocks, by tensor.
        constants: Numbers of the training, by name.
        step: The training step.
        deadline: When the check started, by the clock of all processes.
        declared: What the user declared to differ, by tensor.
    """

    masks: Masks
    constants: Mapping[str, float]
    step: int
    deadline: Deadline
    declared: Mapping[str, Declared] = field(default_factory=dict)


class CheckMonitor:
    """Measures what each check needs: a screen of all tensors, own numbers of one, and more where one of these alarms.

    Args:
        precision: The user's choice.
        thresholds: What alerts.
        seed: Seeds the probes.

    Attributes:
        memory: What is carried from check to check.
        rng: Draws the probes.
    """

    def __init__(self, precision: Precision, thresholds: Thresholds, seed: int) -> None:
        self._precision = precision
        self._thresholds = thresholds
        self.rng = np.random.default_rng(seed)
        self.memory = MonitorState()

    @property
    def tensors(self) -> dict[str, TensorReport]:
        """The latest report of every tensor, with the drift of its ratio from the first confirmed one."""
        return dict(self.memory.tensors)

    def measure(self, target: CheckTarget, request: CheckRequest) -> tuple[MeasurementContext, tuple[str, ...]]:
        """Make one check.

        Returns:
            What was measured with, and the tensors that raised an alarm.
        """
        try:
            return self._measure(target, request)
        except NotSameLossError as refused:
            self._precision = target.require_native(self._precision, str(refused))
            self.memory.proven, self.memory.screens = None, ()
            return self._measure(target, request)

    def _measure(self, target: CheckTarget, request: CheckRequest) -> tuple[MeasurementContext, tuple[str, ...]]:
        proven, names = self.memory.proven, list(target.arrays)
        if proven is None:
            is_late = request.deadline.after(EXAMINATION_SECONDS / 8)
            context = target.context(self._precision, lambda: is_late.is_over)
        else:
            context = target.reopened(proven, names)
        if context.training_loss is not None:
            return context, ()
        plan = self._plan(context, request)
        is_known = bool(self.memory.screens) or (proven is not None and request.declared.keys() >= set(names))
        if is_known and np.isfinite(context.centre).all():
            found = self._routine_check(target, context, plan, request)
        else:
            found = check_model(context, plan, self.rng, request.deadline.after(EXAMINATION_SECONDS), math.inf)
            self.memory.screens = tuple(found.screens)
            if np.isfinite(context.centre).all():
                self.memory.proven = context.proven
        self._take_over(context, found, request)
        self.memory.bits = _checksums(context, names)
        order = {name: place for place, name in enumerate(names)}
        self.memory.tensors = dict(sorted(self.memory.tensors.items(), key=lambda item: order[item[0]]))
        return context, found.located

    def _plan(self, context: MeasurementContext, request: CheckRequest) -> CheckPlan:
        shapes = {name: array.shape for name, array in context.arrays.items()}
        known = {name: History(request.constants, self.memory.ratios.get(name, ()), shapes) for name in context.arrays}
        return CheckPlan(Effort(), request.masks, known, self._thresholds, request.step, request.declared)

    def _routine_check(
        self, target: CheckTarget, context: MeasurementContext, plan: CheckPlan, request: CheckRequest
    ) -> ModelCheck:
        """Screen the group whose turn it is, measure own numbers of one tensor, and follow what alarms."""
        names = list(context.arrays)
        found = ModelCheck(unmeasurable(context, names))
        told = [name for name in names if name not in found.reports and self._was_rebound(name)]
        found.reports |= self._rebound(context, told, request.deadline)
        standing = tuple(name for name in names if name not in found.reports and self._is_standing(name))
        waiting = [name for group in self.memory.left for name in group]
        left_out = {*found.reports, *standing, *waiting, *request.declared}
        others = {name: array for name, array in context.arrays.items() if name not in left_out}
        screen, result = self._screened(context, groups_to_move(others))
        # Whatever the screen takes, a check takes the same number of evaluations.
        declared = [name for name in names if name in request.declared and name not in (*standing, *found.reports)]
        entries = OWN_ENTRIES + PROBES - (PROBES if result is None else len(result.probes)) - bool(declared)
        turns = self._in_turn([name for name in names if name in others or name in declared], result, request)
        own = self._own_numbers(context, found, turns, max(0, entries), request)
        own |= self._declared_again(context, [name for name in declared if name not in own], request)
        suspects = self._suspects(screen, result, own)
        if suspects:
            target.state.require_intact()
        if not context.repeats():
            return ModelCheck(nondeterministic(context, names))
        unread = self._rebound(context, [*others, *waiting], request.deadline) if suspects else {}
        found.reports |= unread
        suspects = _without(suspects, unread)
        visible = {} if result is None or result.alarms else dict(result.visible)
        if suspects or standing:
            moved = screen.names if screen is not None else (*standing, *waiting) or tuple(own)
            deadline = request.deadline.after(EXAMINATION_SECONDS).restarted()
            context = self._prepared(context, moved, deadline)
            visible |= self._follow(context, found, screen, suspects, plan, deadline)
            if not (found.explained and deadline.is_over):  # what is new comes before what is told already
                explain(context, found, Located(standing, {}, ()), plan, self.rng, deadline)
        known = {*standing, *request.declared}
        found.located = tuple(dict.fromkeys(name for name in found.located if name not in known))
        if screen is not None and (unread or found.explained - known):
            self._keep(screen.restarted(screen.names))
        self._add_screened(context, found, visible, request.step)
        for name in known:  # what was told stays, where there was no time to look at it again
            if name in found.reports and found.reports[name].cause_key == SUSPECTED:
                del found.reports[name]
        self.memory.left = disjoint(group for group in found.left if not known & set(group))
        return found

    def _screened(
        self, context: MeasurementContext, groups: Sequence[tuple[str, ...]]
    ) -> tuple[Screen | None, Screened | None]:
        """The screen of the group whose turn it is, and what it found; a screen whose steps are lost starts anew."""
        screen = self._next_screen(groups)
        if screen is None:
            return None, None
        result = screen.probe_all(context, self.rng)
        if not result.is_usable:
            screen = Screen.anew(context, screen.names, self.rng)
            self._keep(screen)
            result = screen.probe_all(context, self.rng)
        return screen, result

    def _prepared(self, context: MeasurementContext, names: Sequence[str], deadline: Deadline) -> MeasurementContext:
        """The context of examinations: the noise of the loss as it is now, and as many repeats as there is time for."""
        near = noise_now(context, names, self.rng)
        affordable = deadline.affordable(context.objective.evaluations) / EVALUATIONS_OF_REPEAT
        most = int(min(MOST_REPEATS, max(FEWEST_REPEATS, affordable)))
        return dataclasses.replace(context, near=near, most_repeats=most)

    def _follow(
        self,
        context: MeasurementContext,
        found: ModelCheck,
        screen: Screen | None,
        suspects: Sequence[Suspects],
        plan: CheckPlan,
        deadline: Deadline,
    ) -> dict[str, float]:
        """Locate and explain what alarmed; the smallest errors that would have shown of tensors that are cleared."""
        visible: dict[str, float] = {}
        for effort, wrong, groups in suspects:
            located = Located(wrong, {}, ())
            if groups:
                located = locate_twice(context, screen or self.memory.screens[0], groups, self.rng, deadline)
                visible |= located.visible
            explain(context, found, located, plan, self.rng, deadline, self._afforded(context, effort, deadline))
        return visible

    def _next_screen(self, groups: Sequence[tuple[str, ...]]) -> Screen | None:
        """The screen of the group whose turn it is; None where there is no group."""
        if not groups:
            return None
        memory = self.memory
        place = memory.next_screen % len(groups)
        memory.next_screen = place + 1
        screen = memory.screens[min(place, len(memory.screens) - 1)]
        if screen.names != groups[place]:
            screen = screen.restarted(groups[place])
        memory.screens = (*memory.screens[:place], screen, *memory.screens[place + 1 :])
        return screen

    def _keep(self, screen: Screen) -> None:
        """Keep a screen in place of that of the same tensors."""
        self.memory.screens = tuple(screen if kept.names == screen.names else kept for kept in self.memory.screens)

    def _is_standing(self, name: str) -> bool:
        """Whether a tensor is known to be wrong: each screen with it would alarm, and only an examination clears it."""
        tensor = self.memory.tensors.get(name)
        return tensor is not None and bool(tensor.verdict.is_bug)

    def _was_rebound(self, name: str) -> bool:
        return name in self.memory.tensors and self.memory.tensors[name].cause_key == REBOUND

    def _rebound(
        self, context: MeasurementContext, names: Sequence[str], deadline: Deadline
    ) -> dict[str, TensorReport]:
        """The reports of those tensors that the training has bound anew, and the loss reads elsewhere.

        An update by a gradient that is not zero would have changed them since the last check.
        """
        before, now = self.memory.bits, _checksums(context, names)
        unchanged = [name for name in now if before.get(name) == now[name]]
        bound = deadline.after(EXAMINATION_SECONDS)
        return rebound(context, unchanged, lambda: bound.is_over)

    def _in_turn(self, names: list[str], result: Screened | None, request: CheckRequest) -> list[str]:
        """The tensors in turn, those first of which the screen cannot promise anything."""
        start = self.memory.next_tensor % max(1, len(names))
        turned = names[start:] + names[:start]
        if result is None or self.memory.next_screen % 2:  # else one tensor could take all turns
            return turned
        is_promised = {name: is_visible(error, self._thresholds) for name, error in result.visible.items()}
        return sorted(turned, key=lambda name: name in request.declared or is_promised.get(name, False))

    def _own_numbers(
        self, context: MeasurementContext, found: ModelCheck, names: Sequence[str], entries: int, request: CheckRequest
    ) -> dict[str, Effort | None]:
        """Measure a direction and a few entries of the first tensor; the examination that it needs, if any.

        One that is declared to differ would alarm: it is examined at once.
        """
        memory = self.memory
        name = next((name for name in names if context.arrays[name].size), None)
        if name is None or context.near is None:
            return {}
        memory.next_tensor = list(context.arrays).index(name) + 1
        if name in request.declared:
            return {name: EXPLAIN}
        tensor = TensorUnderTest(context, name)
        state = self._state(tensor, context.near)
        evidence, largest = probe_tensor(tensor, state, entries, self.rng)
        report = diagnose_tensor(evidence, History({}), self._thresholds)
        found.reports[name] = dataclasses.replace(report, measured_at=request.step, evidence=state.evidence)
        if largest > ALARM_Z or state.is_lost:
            return {name: EXPLAIN}
        return {name: EXPLAIN_DRIFT if state.evidence > self._level else None}

    def _state(self, tensor: TensorUnderTest, near: Noise) -> TensorState:
        """The state of the tensor's own probes."""
        memory, name = self.memory, tensor.name
        if name not in memory.states:
            screens = [screen for screen in memory.screens if name in screen.names] or memory.screens
            started = screens[0].usual_step if screens else 0.0
            memory.states[name] = TensorState.at_first(tensor, started, near)
        return memory.states[name]

    def _declared_again(
        self, context: MeasurementContext, names: Sequence[str], request: CheckRequest
    ) -> dict[str, Effort | None]:
        """Probe the next tensor that is declared to differ; it is examined where its ratio is another one than before.

        Its turn of being examined may be many checks away. Where only blocks are declared, the other blocks are probed.
        """
        memory = self.memory
        if not names or context.near is None:
            return {}
        name = names[memory.next_declared % len(names)]
        memory.next_declared += 1
        tensor, before = TensorUnderTest(context, name), memory.tensors.get(name)
        ratio, error = ratio_along_gradient(tensor, self._state(tensor, context.near), self.rng)
        if before is None or before.measured_at is None:
            return {name: EXPLAIN}
        is_other = (
            abs(ratio - 1) > ALARM_Z * error
            if request.declared[name].blocks
            else is_another_ratio(before, ratio, error)
        )
        return {name: EXPLAIN} if is_other else {}

    @staticmethod
    def _afforded(context: MeasurementContext, effort: Effort, deadline: Deadline) -> Effort:
        """An effort with as many directions as there is time for."""
        most = int(deadline.affordable(context.objective.evaluations) / EVALUATIONS_OF_DIRECTION)
        return dataclasses.replace(effort, aligned=max(EXPLAIN.aligned, min(effort.aligned, most)))

    @property
    def _level(self) -> float:
        """log10 of the evidence that alarms."""
        streams = len(self.memory.tensors) + PROBES
        return alarm_level(PROBES * streams, CHECKS_IN_A_RUN, self._thresholds.false_alarms)

    def _suspects(
        self, screen: Screen | None, result: Screened | None, own: Mapping[str, Effort | None]
    ) -> list[Suspects]:
        """What must be looked at more closely: an effort, tensors that are suspected, and groups to be located in."""
        left = self.memory.left
        alarmed = tuple(name for name, effort in own.items() if effort is EXPLAIN)
        drifting = [name for name, effort in own.items() if effort is EXPLAIN_DRIFT]
        if screen is not None and result is not None:
            if result.alarms:
                left += tuple(halves(screen.names))
            else:
                drifting += result.drifting(self._level)
        suspects: list[Suspects] = [(EXPLAIN, (), left)] if left else []
        suspects += [(EXPLAIN, alarmed, ())] if alarmed else []
        return [*suspects, (EXPLAIN_DRIFT, tuple(dict.fromkeys(drifting)), ())] if drifting else suspects

    def _add_screened(
        self, context: MeasurementContext, found: ModelCheck, visible: Mapping[str, float], step: int
    ) -> None:
        """The reports of the tensors that a screen covered at this check and nothing accuses."""
        ratios: dict[str, tuple[float, float]] = {}
        for screen in self.memory.screens:
            if not visible.keys().isdisjoint(screen.names):
                ratios |= screen.ratios_by_name
        suspected = {name for group in found.left for name in group}
        for name, error in visible.items():
            if name in suspected or name in found.explained or math.isinf(error):
                continue
            own = found.reports.get(name)
            if own is not None:
                found.reports[name] = with_screen(own, error, step, self._thresholds)
                continue
            before, shape = self.memory.tensors.get(name), context.arrays[name].shape
            ratio = ratios.get(name, UNKNOWN)
            ratio = ratio if ratio[1] <= UNKNOWN_RATIO else UNKNOWN
            found.reports[name] = carried(before, name, shape, error, step, self._thresholds, ratio)

    def _take_over(self, context: MeasurementContext, found: ModelCheck, request: CheckRequest) -> None:
        """Keep what the coming checks start from."""
        memory = self.memory
        shifts = {name: evidence for screen in memory.screens for name, evidence in screen.evidence.items()}
        for name, measured in found.reports.items():
            report = self._compared(measured, request)
            own = memory.states[name].evidence if name in memory.states else 0.0
            evidence = max(own, shifts.get(name, 0.0))
            if not report.verdict.is_factor:
                memory.ratios.pop(name, None)
            elif report.measured_at == request.step:
                newest = Observation(report.ratio, report.ratio_error, request.constants)
                memory.ratios[name] = (*memory.ratios.get(name, ()), newest)[-MAX_RATIOS:]
            is_of_now = request.step in (report.measured_at, report.screened_at)
            if is_of_now and report.verdict.agrees and evidence < FINE_EVIDENCE:
                memory.last_fine[name] = request.step
            is_confirmed = report.deep and report.measured_at == request.step and report.verdict.is_bug is False
            if name not in memory.baseline and is_confirmed and report.ratio > 0:
                memory.baseline[name] = report.ratio
            drift, last_fine = self._drift(report), self._last_fine(report)
            memory.tensors[name] = dataclasses.replace(
                report, evidence=evidence, ratio_drift=drift, last_fine=last_fine
            )
        memory.states |= {name: TensorState.after(measurement) for name, measurement in found.measured.items()}
        never = [name for name in context.arrays if name not in memory.tensors]
        for name in never:
            memory.tensors[name] = unscreened(name, context.arrays[name].shape)

    def _compared(self, report: TensorReport, request: CheckRequest) -> TensorReport:
        """The report of a tensor that differs as declared, compared with the difference that was seen first."""
        if report.verdict is not Verdict.expected or report.measured_at != request.step:
            return report
        agreeing = undeclared_entries({report.name: request.declared[report.name]}, request.masks).get(report.name)
        now = Difference.of(report, request.step, agreeing)
        return with_change(report, self.memory.differences.setdefault(report.name, now), now, self._thresholds)

    def _last_fine(self, tensor: TensorReport) -> int | None:
        return self.memory.last_fine.get(tensor.name) if tensor.verdict.is_bug else None

    def _drift(self, tensor: TensorReport) -> float:
        first = self.memory.baseline.get(tensor.name)
        return math.log(tensor.ratio / first) if first is not None and tensor.ratio > 0 else 0.0


def _checksums(context: MeasurementContext, names: Iterable[str]) -> dict[str, int]:
    """A checksum of some entries of those tensors that an update changes; sharded ones are not bound anew."""
    arrays = {name: context.arrays[name] for name in names if context.sizes[name].norm}
    return {
        name: zlib.crc32(array.flat[:: -(-array.size // SUMMED)].tobytes())
        for name, array in arrays.items()
        if not isinstance(array, ShardedArray)
    }


def _without(suspects: Sequence[Suspects], names: Collection[str]) -> list[Suspects]:
    """What must be looked at more closely, some tensors excepted."""
    kept = []
    for effort, wrong, groups in suspects:
        left = tuple(name for name in wrong if name not in names)
        rest = tuple(tuple(name for name in group if name not in names) for group in groups)
        if left or any(rest):
            kept.append((effort, left, tuple(filter(None, rest))))
    return kept
