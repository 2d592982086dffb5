"""What is carried from check to check of a training, by tensor."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from gradguard.arrays import Masks
from gradguard.checks import ModelCheck
from gradguard.diagnosis import Observation
from gradguard.examination import REBOUND, Deadline, TensorState
from gradguard.intended import Declared, Difference, undeclared_entries, with_change
from gradguard.measurement import MeasurementContext, ProvenSetup
from gradguard.report import TensorReport, Thresholds, Verdict
from gradguard.screening import Screen, unscreened

FINE_EVIDENCE = 2.0  # log10 of the evidence that chance alone often brings
MAX_RATIOS = 20  # confirmed ratios of a wrong tensor that are kept, to see which constant they follow


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


@dataclass(slots=True)
class MonitorState:
    """What is carried from check to check, by tensor.

    Attributes:
        proven: What the first check has proven about the loss; None before it.
        tensors: The latest report of each tensor.
        states: The state of each tensor's own probes.
        screens: The screens of the groups of tensors.
        finer: The screens of tensors that these promise too little of, in groups of like ones.
        left: Groups of tensors that alarmed and could not be looked at in time.
        baseline: The first confirmed ratio of each tensor.
        ratios: The latest confirmed ratios of each tensor that is wrong by a factor.
        last_fine: The last step at which nothing spoke against each tensor.
        differences: How each tensor that is declared to differ did so when that was first measured.
        examined: The same when it was last examined.
        next_tensor: The position of the tensor whose own numbers are next.
        next_screen: The position of the group whose screen is next.
        next_finer: The position of the finer screen that is next.
        is_finer_next: Whether the next check makes one, where there are any.
        next_declared: The position among the tensors declared to differ of the one that is probed next.
        bits: A checksum of each tensor whose gradient was not zero at the last check.
    """

    proven: ProvenSetup | None = None
    tensors: dict[str, TensorReport] = field(default_factory=dict)
    states: dict[str, TensorState] = field(default_factory=dict)
    screens: tuple[Screen, ...] = ()
    finer: tuple[Screen, ...] = ()
    left: tuple[tuple[str, ...], ...] = ()
    baseline: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, tuple[Observation, ...]] = field(default_factory=dict)
    last_fine: dict[str, int] = field(default_factory=dict)
    differences: dict[str, Difference] = field(default_factory=dict)
    examined: dict[str, Difference] = field(default_factory=dict)
    next_tensor: int = 0
    next_screen: int = 0
    next_finer: int = 0
    is_finer_next: bool = False
    next_declared: int = 0
    bits: dict[str, int] = field(default_factory=dict)

    def forget(self, name: str) -> None:
        """Forget a tensor whose shape has changed, and the screens, which covered another model."""
        for carried_over in (self.tensors, self.states, self.last_fine, self.differences, self.examined, self.bits):
            carried_over.pop(name, None)
        self.screens, self.finer, self.left = (), (), ()

    def screen_in_turn(self, groups: Sequence[tuple[str, ...]]) -> Screen | None:
        """The screen of the group whose turn it is; None where there is no group."""
        if not groups:
            return None
        place = self.next_screen % len(groups)
        self.next_screen = place + 1
        screen = self.screens[min(place, len(self.screens) - 1)]
        if screen.names != groups[place]:
            screen = screen.restarted(groups[place])
        self.screens = (*self.screens[:place], screen, *self.screens[place + 1 :])
        return screen

    def finer_in_turn(self, hidden: Collection[str], others: Collection[str]) -> Screen | None:
        """The finer screen whose turn it is, at every second check; one that covers no hidden tensor is passed over.

        Args:
            hidden: The tensors of which the screen of all promises too little.
            others: The tensors that are not looked at by themselves.
        """
        if not self.finer:
            return None
        self.is_finer_next = not self.is_finer_next
        start, count = self.next_finer, len(self.finer)
        for place in (turn % count for turn in range(start, start + count)):
            if self.is_finer_next and any(name in hidden for name in self.finer[place].names):
                self.next_finer = place + 1
                return self._finer_of(place, others)
        return None

    def keep(self, screen: Screen) -> None:
        """Keep a screen in place of that of the same tensors."""
        self.screens = tuple(screen if kept.names == screen.names else kept for kept in self.screens)

    def is_standing(self, name: str) -> bool:
        """Whether a tensor is known to be wrong: each screen with it would alarm, and only an examination clears it."""
        tensor = self.tensors.get(name)
        return tensor is not None and bool(tensor.verdict.is_bug)

    def was_rebound(self, name: str) -> bool:
        """Whether the loss did not read a tensor at its last report."""
        return name in self.tensors and self.tensors[name].cause_key == REBOUND

    def take_over(
        self, context: MeasurementContext, found: ModelCheck, request: CheckRequest, thresholds: Thresholds
    ) -> None:
        """Keep what the coming checks start from.

        Args:
            context: What was measured with.
            found: What the check has found.
            request: The check.
            thresholds: Of the drift of a ratio.
        """
        shifts: dict[str, float] = {}
        for screen in (*self.screens, *self.finer):
            shifts |= {name: max(so_far, shifts.get(name, 0.0)) for name, so_far in screen.evidence.items()}
        for name, measured in found.reports.items():
            report = self._compared(measured, request, thresholds)
            own = self.states[name].evidence if name in self.states else 0.0
            evidence = max(own, shifts.get(name, 0.0))
            if not report.verdict.is_factor:
                self.ratios.pop(name, None)
            elif report.measured_at == request.step:
                newest = Observation(report.ratio, report.ratio_error, request.constants)
                self.ratios[name] = (*self.ratios.get(name, ()), newest)[-MAX_RATIOS:]
            is_of_now = request.step in (report.measured_at, report.screened_at)
            if is_of_now and report.verdict.agrees and evidence < FINE_EVIDENCE:
                self.last_fine[name] = request.step
            is_confirmed = report.deep and report.measured_at == request.step and report.verdict.is_bug is False
            if name not in self.baseline and is_confirmed and report.ratio > 0:
                self.baseline[name] = report.ratio
            drift, last_fine = self._drift(report), self._last_fine(report)
            self.tensors[name] = dataclasses.replace(report, evidence=evidence, ratio_drift=drift, last_fine=last_fine)
        self.states |= {name: TensorState.after(measurement) for name, measurement in found.measured.items()}
        never = [name for name in context.arrays if name not in self.tensors]
        for name in never:
            self.tensors[name] = unscreened(name, context.arrays[name].shape)

    def _compared(self, report: TensorReport, request: CheckRequest, thresholds: Thresholds) -> TensorReport:
        """The report of a tensor that differs as declared, compared with the difference that was seen first."""
        if report.name not in request.declared or not report.deep or report.measured_at != request.step:
            return report
        agreeing = undeclared_entries({report.name: request.declared[report.name]}, request.masks).get(report.name)
        now = self.examined[report.name] = Difference.of(report, request.step, agreeing)
        if report.verdict is not Verdict.expected:
            return report
        return with_change(report, self.differences.setdefault(report.name, now), now, thresholds)

    def _last_fine(self, tensor: TensorReport) -> int | None:
        return self.last_fine.get(tensor.name) if tensor.verdict.is_bug else None

    def _drift(self, tensor: TensorReport) -> float:
        first = self.baseline.get(tensor.name)
        return math.log(tensor.ratio / first) if first is not None and tensor.ratio > 0 else 0.0

    def _finer_of(self, place: int, others: Collection[str]) -> Screen:
        """The finer screen of a place, without the tensors that are looked at by themselves."""
        screen = self.finer[place]
        names = tuple(name for name in screen.names if name in others)
        if names != screen.names:
            screen = screen.restarted(names)
            self.finer = (*self.finer[:place], screen, *self.finer[place + 1 :])
        return screen
