"""The checks of one training: what each measures, and what it takes over from the checks before."""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from gradguard.checks import ModelCheck, NotSameLossError, check_model, explain, locate_twice
from gradguard.diagnosis import History, diagnose_tensor
from gradguard.differences import Noise
from gradguard.examination import (
    EXPLAIN,
    EXPLAIN_DRIFT,
    CheckPlan,
    Deadline,
    Effort,
    TensorState,
    nondeterministic,
    probe_tensor,
    unmeasurable,
)
from gradguard.measurement import MOST_REPEATS, CheckTarget, MeasurementContext, Precision, TensorUnderTest
from gradguard.perturbation import groups_to_move
from gradguard.report import TensorReport, Thresholds
from gradguard.screening import (
    SUSPECTED,
    Located,
    ModelProbe,
    Screen,
    Screened,
    carried,
    disjoint,
    is_visible,
    noise_now,
    with_screen,
)
from gradguard.statistics import ALARM_Z, alarm_level
from gradguard.training.memory import CheckRequest, Followed, MonitorState, checksums, rebound_since

OWN_ENTRIES = 2  # entries of the tensor whose own numbers a routine check measures, beside one direction
EVALUATIONS_OF_REPEAT = 16  # about, as many probes as are repeated
FEWEST_REPEATS = 4  # of a difference, however short the time is
EVALUATIONS_OF_DIRECTION = 8  # about, with the search for its step
PROBES = 2  # of a screen, from which the evidence of every tensor grows
EXAMINATION_SECONDS = 10.0  # that what follows an alarm may take inside a training: a person waits no longer
CHECKS_IN_A_RUN = 10_000  # to which `Thresholds.false_alarms` refers
UNKNOWN_RATIO = 0.1  # standard error above which the probes so far do not tell a ratio
UNKNOWN = (math.nan, math.inf)  # such a ratio, with its standard error
Suspects = tuple[Effort, tuple[str, ...], tuple[tuple[str, ...], ...]]


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
            self.memory.proven, self.memory.screens, self.memory.finer = None, (), ()
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
            self.memory.screens, self.memory.finer = tuple(found.screens), found.finer
            if np.isfinite(context.centre).all():
                self.memory.proven = context.proven
        self.memory.take_over(context, found, request, self._thresholds)
        self.memory.bits = checksums(context, names)
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
        told = [name for name in names if name not in found.reports and self.memory.was_rebound(name)]
        in_time = request.deadline.after(EXAMINATION_SECONDS)

        def is_late() -> bool:
            return in_time.is_over

        found.reports |= rebound_since(context, self.memory.bits, told, is_late)
        standing = tuple(name for name in names if name not in found.reports and self.memory.is_standing(name))
        waiting = [name for group in self.memory.left for name in group]
        left_out = {*found.reports, *standing, *waiting, *request.declared}
        others = {name: array for name, array in context.arrays.items() if name not in left_out}
        screen, result = self._screened(context, groups_to_move(others))
        # Whatever the screen takes, a check takes the same number of evaluations.
        declared = [name for name in names if name in request.declared and name not in (*standing, *found.reports)]
        entries = OWN_ENTRIES + PROBES - (PROBES if result is None else len(result.probes)) - bool(declared)
        turns = self._in_turn([name for name in names if name in others or name in declared])
        finer = self._finer_screen(result, others)
        finely = finer.probe_all(context, self.rng, tries=1) if finer is not None else None
        own = {} if finely is not None else self._own_numbers(context, found, turns, max(0, entries), plan)
        own |= self._declared_again(context, [name for name in declared if name not in own and entries >= 0], plan)
        suspects = self._suspects([(screen, result), (finer, finely)], own)
        if suspects:
            target.state.require_intact()
        if not context.repeats():
            return ModelCheck(nondeterministic(context, names))
        candidates = [*others, *waiting] if suspects else []
        unread = rebound_since(context, self.memory.bits, candidates, is_late)
        found.reports |= unread
        suspects = _without(suspects, unread)
        visible = {} if result is None or result.alarms else dict(result.visible)
        for name, error in finely.visible.items() if finely is not None and not finely.alarms else ():
            visible[name] = min(error, visible.get(name, math.inf))
        if suspects or standing:
            moved = screen.names if screen is not None else (*standing, *waiting) or tuple(own)
            deadline = request.deadline.after(EXAMINATION_SECONDS).restarted()
            context = self._prepared(context, moved, deadline)
            alarm = None if unread else next((one.alarm for one in (result, finely) if one and one.alarm), None)
            is_finer = finely is not None and alarm is not None and alarm is finely.alarm
            visible |= self._follow(context, found, finer if is_finer else screen, suspects, alarm, plan, deadline)
            if not (found.explained and deadline.is_over):  # what is new comes before what is told already
                explain(context, found, Located(standing, {}, ()), plan, self.rng, deadline, is_told=True)
        known = {*standing, *request.declared}
        found.located = tuple(dict.fromkeys(name for name in found.located if name not in known))
        if screen is not None and (unread or found.explained - known):
            self.memory.keep(screen.restarted(screen.names))
            self.memory.finer = tuple(one.restarted(one.names) for one in self.memory.finer)
        self._add_screened(context, found, visible, () if finer is None else finer.names, request.step)
        for name in known:  # what was told stays, where there was no time to look at it again
            if name in found.reports and found.reports[name].cause_key == SUSPECTED:
                del found.reports[name]
        self.memory.left = disjoint(group for group in found.left if not known & set(group))
        return found

    def _screened(
        self, context: MeasurementContext, groups: Sequence[tuple[str, ...]]
    ) -> tuple[Screen | None, Screened | None]:
        """The screen of the group whose turn it is, and what it found; a screen whose steps are lost starts anew."""
        screen = self.memory.screen_in_turn(groups)
        if screen is None:
            return None, None
        result = screen.probe_all(context, self.rng)
        if not result.is_usable:
            screen = Screen.anew(context, screen.names, self.rng)
            self.memory.keep(screen)
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
        alarm: ModelProbe | None,
        plan: CheckPlan,
        deadline: Deadline,
    ) -> dict[str, float]:
        """Locate and explain what alarmed; the smallest errors that would have shown of tensors that are cleared."""
        visible: dict[str, float] = {}
        for effort, wrong, groups in suspects:
            located = Located(wrong, {}, ())
            if groups:
                chosen = screen or self.memory.screens[0]
                located = locate_twice(context, chosen, groups, self.rng, deadline, alarm)
                visible |= located.visible
            explain(context, found, located, plan, self.rng, deadline, self._afforded(context, effort, deadline))
        return visible

    def _finer_screen(self, result: Screened | None, others: Collection[str]) -> Screen | None:
        """The finer screen that takes the place of own numbers at this check, if there is one."""
        if result is None or len(result.probes) > PROBES:
            return None
        hidden = {name for name, error in result.visible.items() if not self._is_promised(error)}
        return self.memory.finer_in_turn(hidden, others)

    def _is_promised(self, visible: float) -> bool:
        return is_visible(visible, self._thresholds)

    def _in_turn(self, names: list[str]) -> list[str]:
        """The tensors in turn."""
        start = self.memory.next_tensor % max(1, len(names))
        return names[start:] + names[:start]

    def _own_numbers(
        self, context: MeasurementContext, found: ModelCheck, names: Sequence[str], entries: int, plan: CheckPlan
    ) -> dict[str, Effort | None]:
        """Measure a direction and a few entries of the first tensor; the examination that it needs, if any."""
        memory = self.memory
        name = next((name for name in names if context.arrays[name].size), None)
        if name is None or context.near is None:
            return {}
        memory.next_tensor = list(context.arrays).index(name) + 1
        tensor = TensorUnderTest(context, name)
        if name in plan.declared:
            followed = self._followed(tensor, context.near, entries, plan)
            if followed is None:
                return {name: EXPLAIN}
            found.reports[name] = dataclasses.replace(followed, measured_at=plan.step)
            return {name: None}
        state = self._state(tensor, context.near)
        evidence, largest = probe_tensor(tensor, state, entries, self.rng)
        report = diagnose_tensor(evidence, History({}), self._thresholds)
        found.reports[name] = dataclasses.replace(report, measured_at=plan.step, evidence=state.evidence)
        if largest > ALARM_Z or state.is_lost:
            return {name: EXPLAIN}
        return {name: EXPLAIN_DRIFT if state.evidence > self._level else None}

    def _state(self, tensor: TensorUnderTest, near: Noise) -> TensorState:
        """The state of the tensor's own probes."""
        memory, name = self.memory, tensor.name
        if name not in memory.states or memory.states[name].is_lost:
            screens = [screen for screen in memory.screens if name in screen.names] or memory.screens
            started = screens[0].usual_step if screens else None
            memory.states[name] = TensorState.at_first(tensor, started, near)
        return memory.states[name]

    def _declared_again(
        self, context: MeasurementContext, names: Sequence[str], plan: CheckPlan
    ) -> dict[str, Effort | None]:
        """Probe the next tensor that is declared to differ: its turn of being measured may be many checks away."""
        if not names or context.near is None:
            return {}
        name = names[self.memory.next_declared % len(names)]
        self.memory.next_declared += 1
        return {} if self._followed(TensorUnderTest(context, name), context.near, 0, plan) else {name: EXPLAIN}

    def _followed(self, tensor: TensorUnderTest, near: Noise, entries: int, plan: CheckPlan) -> TensorReport | None:
        """The report of a declared tensor that differs as it did before; None where it must be examined."""
        memory, name = self.memory, tensor.name
        if name not in memory.examined or name not in memory.tensors:
            return None
        followed = Followed(memory.tensors[name], memory.examined[name], plan.histories[name], self._thresholds)
        return followed.probed(tensor, self._state(tensor, near), entries, self.rng)

    @staticmethod
    def _afforded(context: MeasurementContext, effort: Effort, deadline: Deadline) -> Effort:
        """An effort with as many directions as there is time for."""
        most = int(deadline.affordable(context.objective.evaluations) / EVALUATIONS_OF_DIRECTION)
        return dataclasses.replace(effort, aligned=max(EXPLAIN.aligned, min(effort.aligned, most)))

    @property
    def _level(self) -> float:
        """log10 of the evidence that alarms."""
        screened = sum(len(screen.names) + PROBES for screen in self.memory.finer)
        streams = len(self.memory.tensors) + PROBES + screened
        return alarm_level(PROBES * streams, CHECKS_IN_A_RUN, self._thresholds.false_alarms)

    def _suspects(
        self, screens: Iterable[tuple[Screen | None, Screened | None]], own: Mapping[str, Effort | None]
    ) -> list[Suspects]:
        """What must be looked at more closely: an effort, tensors that are suspected, and groups to be located in."""
        alarmed = tuple(name for name, effort in own.items() if effort is EXPLAIN)
        drifting = [name for name, effort in own.items() if effort is EXPLAIN_DRIFT]
        groups: list[tuple[str, ...]] = []
        for screen, result in screens:
            if screen is None or result is None:
                continue
            if result.alarms:
                groups.append(screen.names)
            else:
                drifting += result.drifting(self._level)
        left = disjoint([*groups, *self.memory.left])
        suspects: list[Suspects] = [(EXPLAIN, (), left)] if left else []
        suspects += [(EXPLAIN, alarmed, ())] if alarmed else []
        return [*suspects, (EXPLAIN_DRIFT, tuple(dict.fromkeys(drifting)), ())] if drifting else suspects

    def _add_screened(
        self,
        context: MeasurementContext,
        found: ModelCheck,
        visible: Mapping[str, float],
        finely: Collection[str],
        step: int,
    ) -> None:
        """The reports of the tensors that a screen covered at this check and nothing accuses.

        What a finer screen said of one stays, with its date, until its next turn.
        """
        ratios: dict[str, tuple[float, float]] = {}
        in_turn = {name for screen in self.memory.finer for name in screen.names}.difference(finely)
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
            is_right = before is not None and before.verdict.is_bug is False
            if name in in_turn and is_right and not self._is_promised(error):
                continue
            ratio = ratios.get(name, UNKNOWN)
            ratio = ratio if ratio[1] <= UNKNOWN_RATIO else UNKNOWN
            found.reports[name] = carried(before, name, shape, error, step, self._thresholds, ratio)


def _without(suspects: Sequence[Suspects], names: Collection[str]) -> list[Suspects]:
    """What must be looked at more closely, some tensors excepted."""
    kept = []
    for effort, wrong, groups in suspects:
        left = tuple(name for name in wrong if name not in names)
        rest = tuple(tuple(name for name in group if name not in names) for group in groups)
        if left or any(rest):
            kept.append((effort, left, tuple(filter(None, rest))))
    return kept
