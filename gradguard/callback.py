"""The callback: when to check, and what to do with the outcome."""

import dataclasses
import logging
import math
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from gradguard.alerts import Alerts, GradientError
from gradguard.bench import Bench, Proven, Subject, require_precision
from gradguard.blocks import Blocks, block_masks
from gradguard.check import deep_check, report_of
from gradguard.deep import ENTRIES, Effort, Examined
from gradguard.diagnosis import diagnose_tensor
from gradguard.drift import alarm_level
from gradguard.evidence import ALARM
from gradguard.loss import Loss, require_reduction, takes_parameters
from gradguard.naming import History, Observation, require_constants
from gradguard.parameters import InPlace, read_gradients, read_parameters
from gradguard.report import Alert, Report, TensorReport
from gradguard.routine import TensorState, probe_tensor
from gradguard.schedule import Budget, Due, Plan, due_steps, require_step
from gradguard.snapshots import Snapshot, together
from gradguard.thresholds import Thresholds
from gradguard.verdict import Verdict
from gradguard.writers.writer import Writer

LOG = logging.getLogger("gradguard")

ROUTINE_ENTRIES = 3  # sampled entries of a tensor in a routine check
CONFIRMING = Effort(entries=100)
CONFIRMING_DRIFT = Effort(entries=30, aligned=60)  # a small error of scale shows in many aligned directions together
LOOKING = Effort(entries=ROUTINE_ENTRIES)
DEEP_SECONDS = 10.0  # about what a deep check may take inside a training
EVALUATIONS_AN_ENTRY = 8
EVALUATIONS_A_TENSOR = 250  # of directions, pilots and noise
CHECKS_IN_A_RUN = 10_000
STREAMS = 3  # a tensor
HISTORY = 10_000
RATIOS = 20  # confirmed ratios of a wrong tensor that are remembered, to see which constant they follow


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One check in a line.

    Attributes:
        step: The training step.
        verdict: The gravest of the tensors' verdicts.
        verdicts: Each tensor's.
        ratios: Each tensor's n / g.
        alarms: Tensors whose routine probes raised an alarm at this check.
        evaluations: How often the loss was evaluated.
        seconds: How long it took.
    """

    step: int
    verdict: Verdict
    verdicts: Mapping[str, Verdict]
    ratios: Mapping[str, float]
    alarms: tuple[str, ...]
    evaluations: int
    seconds: float


class GradGuard:
    """Checks the gradients of a training while it runs; call `after_backward` between backward and update.

    Args:
        params: The parameters by name: the mapping the model itself uses, read anew at every check.
        loss: `loss()` reads the live arrays, `loss(params)` is handed a mapping; may be given with each call instead.
        every_n_steps: The densest schedule, or a callable that says whether a step is due.
        start_step: No check before this step.
        max_overhead: The share of wall time that checks may take after the first one; None for no bound.
        thresholds: What alerts, beside confirmed bugs.
        constants: Numbers of the training by name, such as `{"timesteps": 39}`, to name a ratio after.
        blocks: Named parts of tensors, such as `{"W": gates("ifog", axis=1)}`.
        reduction: "sum" or "mean", when the loss returns an array of unreduced losses.
        precision: "native", "float64" or "auto".
        snapshot: Captures state that an evaluation of the loss disturbs, and returns what puts it back.
        logdir: Where TensorBoard finds this run.
        writers: Further places where reports go.
        on_alert: "log", "raise" (a confirmed bug raises `GradientError`), or a callable that takes each `Alert`.
        seed: Of the probes.

    Raises:
        TypeError: Something is of a kind that cannot be checked; the message names it.
        ValueError: An option's value does not fit; the message says what was expected.
    """

    def __init__(
        self,
        params: Mapping[str, object],
        loss: Loss | None = None,
        *,
        every_n_steps: int | Due = 100,
        start_step: int = 0,
        max_overhead: float | None = 0.01,
        thresholds: Thresholds = Thresholds(),  # noqa: B008 - it is frozen
        constants: Mapping[str, float] | None = None,
        blocks: Blocks | None = None,
        reduction: str | None = None,
        precision: str = "auto",
        snapshot: Snapshot | Iterable[Snapshot] | None = None,
        logdir: str | os.PathLike[str] | None = None,
        writers: Iterable[Writer] = (),
        on_alert: str | Callable[[Alert], object] = "log",
        seed: int = 0,
    ) -> None:
        if not isinstance(thresholds, Thresholds):
            raise TypeError(f"thresholds is a {type(thresholds).__name__}; expected gradguard.Thresholds(...)")
        arrays = read_parameters(params)
        self._params = params
        self._loss = loss
        self._due = due_steps(every_n_steps, start_step)
        self._budget = Budget(max_overhead)
        self._thresholds = thresholds
        self._constants = require_constants(constants)
        self._blocks = blocks
        self._shapes = {name: array.shape for name, array in arrays.items()}
        self._masks = block_masks(blocks, self._shapes)
        self._reduction = require_reduction(reduction)
        self._precision = require_precision(precision)
        self._snapshot = together(snapshot)
        self._on_alert = _require_on_alert(on_alert)
        self._rng = np.random.default_rng(seed)
        self._alerts = Alerts(thresholds)
        if loss is not None and not takes_parameters(loss):
            InPlace(arrays)
        self._writers = [*_tensorboard(logdir), *_require_writers(writers)]
        self._told_lost: set[int] = set()
        self._last_step: int | None = None
        self._closed = False
        self._proven: Proven | None = None
        self._states: dict[str, TensorState] = {}
        self._tensors: dict[str, TensorReport] = {}
        self._baseline: dict[str, float] = {}
        self._ratios: dict[str, deque[Observation]] = {}
        self._turn = 0
        self.report: Report | None = None
        self.history: deque[HistoryRow] = deque(maxlen=HISTORY)

    def after_backward(
        self,
        step: int,
        grads: Mapping[str, object],
        loss: Loss | None = None,
        *,
        constants: Mapping[str, float] | None = None,
    ) -> Report | None:
        """Check the gradients that the optimizer is about to use, if a check is due.

        Args:
            step: The training step; it never goes backwards.
            grads: The gradients by the names of `params`: accumulated, unscaled, not yet clipped.
            loss: The loss on the batch that the gradients are of; needed unless it was given to the guard.
            constants: Of this step, where they change, such as the number of timesteps; they go before the guard's.

        Returns:
            The report, or None when the schedule or the budget skips this step.

        Raises:
            TypeError: The loss or an array is of a kind that cannot be checked.
            ValueError: There is no loss, steps go backwards, or names or shapes do not fit.
            GradientError: A bug is confirmed, and `on_alert` is "raise".
        """
        if self._closed:
            raise ValueError("the guard is closed; make a new one, or close it after the last step")
        loss = loss if loss is not None else self._loss
        if loss is None:
            raise ValueError("there is no loss; pass loss= to GradGuard or to after_backward: loss() or loss(params)")
        step = self._last_step = require_step(step, self._last_step)
        if not self._due(step):
            return None
        plan = self._budget.plan(len(self._params), ROUTINE_ENTRIES)
        if plan is None:
            return None
        known = self._constants | require_constants(constants)
        started = time.perf_counter()
        report, alarms = self._check(step, grads, loss, known, plan, started)
        self._budget.record(report.seconds, report.evaluations)
        self._publish(report, alarms)
        return report

    def close(self) -> None:
        """Close the writers; once is enough, twice does no harm."""
        if not self._closed:
            self._closed = True
            for writer in self._writers:
                self._guarded(writer, writer.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(
        self,
        step: int,
        grads: Mapping[str, object],
        loss: Loss,
        constants: Mapping[str, float],
        plan: Plan,
        started: float,
    ) -> tuple[Report, tuple[str, ...]]:
        arrays = read_parameters(self._params)
        gradients = read_gradients(grads, arrays)
        self._see_shapes({name: array.shape for name, array in arrays.items()})
        restore = self._snapshot()
        try:
            subject = Subject(self._params, arrays, gradients, loss, self._reduction, restore)
            if self._proven is None:
                bench, alarms = self._first(subject, constants, started)
            else:
                bench, alarms = self._later(subject, self._proven, constants, plan)
        finally:
            restore()
        report = report_of(bench, self._with_drift(), step, started)
        share = self._budget.share
        return dataclasses.replace(report, overhead=share, alerts=self._alerts.of(step, report.tensors)), alarms

    def _see_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Find the blocks anew, and forget what was carried of a tensor, when a model grows."""
        if shapes == self._shapes:
            return
        self._masks = block_masks(self._blocks, shapes)
        for name in [name for name in self._tensors if shapes.get(name) != self._shapes.get(name)]:
            self._tensors.pop(name)
            self._states.pop(name, None)
        self._shapes = shapes

    def _first(self, subject: Subject, constants: Mapping[str, float], started: float) -> tuple[Bench, tuple[str, ...]]:
        """Preflight, and a deep check of every tensor."""
        bench = subject.bench(self._precision)
        evaluation = (time.perf_counter() - started) / bench.objective.evaluations
        per_tensor = DEEP_SECONDS / max(evaluation, 1e-9) / len(bench.arrays) - EVALUATIONS_A_TENSOR
        entries = int(np.clip(per_tensor / EVALUATIONS_AN_ENTRY, LOOKING.entries, ENTRIES))
        self._deepen(bench, list(bench.arrays), Effort(entries), constants)
        if np.isfinite(bench.centre).all():
            self._proven = bench.proven
        return bench, ()

    def _later(
        self, subject: Subject, proven: Proven, constants: Mapping[str, float], plan: Plan
    ) -> tuple[Bench, tuple[str, ...]]:
        """Routine probes of the tensors whose turn it is, and a deep check of those that raise an alarm."""
        bench = subject.reopened(proven)
        names = self._whose_turn(list(bench.arrays), plan.tensors)
        if not np.isfinite(bench.centre).all():
            self._deepen(bench, names, LOOKING, constants)
            return bench, ()
        standing = [name for name in names if self._is_standing(bench, name)]
        probed = {name: self._probe(bench, name, plan.entries) for name in names if name not in standing}
        self._deepen(bench, standing, CONFIRMING, constants)
        for effort in (CONFIRMING, CONFIRMING_DRIFT):
            self._deepen(bench, [name for name, wanted in probed.items() if wanted is effort], effort, constants)
        return bench, tuple(name for name, wanted in probed.items() if wanted is not None)

    def _whose_turn(self, names: list[str], count: int) -> list[str]:
        turn, self._turn = self._turn % len(names), (self._turn + count) % len(names)
        return sorted((names[turn:] + names[:turn])[:count], key=names.index)

    def _is_standing(self, bench: Bench, name: str) -> bool:
        """Whether only a deep check can speak: a verdict that routine probes cannot lift, or nothing carried over."""
        if name not in self._states or name not in self._tensors or not np.isfinite(bench.gradients[name]).all():
            return True
        verdict = self._tensors[name].verdict
        return verdict.is_bug is not False and verdict is not Verdict.inconclusive

    def _probe(self, bench: Bench, name: str, entries: int) -> Effort | None:
        """Routine probes of one tensor; the deep check that they call for, if they raise an alarm."""
        state = self._states[name]
        evidence, largest = probe_tensor(bench, name, state, entries, self._rng)
        report = diagnose_tensor(evidence, History({}), self._thresholds)
        self._tensors[name] = dataclasses.replace(report, evidence=state.evidence)
        if largest > ALARM or state.is_lost:
            return CONFIRMING
        level = alarm_level(STREAMS * len(self._states), CHECKS_IN_A_RUN, self._thresholds.false_alarms)
        return CONFIRMING_DRIFT if state.evidence > level else None

    def _deepen(self, bench: Bench, names: list[str], effort: Effort, constants: Mapping[str, float]) -> None:
        """A deep check of some tensors on fresh probes: only that speaks of a bug."""
        if not names:
            return
        evidence = {name: state.evidence for name, state in self._states.items()}
        histories = {name: History(constants, tuple(self._ratios.get(name, ()))) for name in names}
        reports, examined = deep_check(bench, names, effort, self._rng, self._masks, histories, self._thresholds)
        for name, report in reports.items():
            self._tensors[name] = dataclasses.replace(report, evidence=evidence.get(name, 0.0))
            if report.verdict in (Verdict.scale, Verdict.sign):
                seen = self._ratios.setdefault(name, deque(maxlen=RATIOS))
                seen.append(Observation(report.ratio, report.ratio_error, constants))
            else:
                self._ratios.pop(name, None)
        for name, measured in examined.items():
            self._carry_over(name, measured)

    def _carry_over(self, name: str, measured: Examined) -> None:
        self._states[name] = TensorState.after(measured)
        ratio = self._tensors[name].ratio
        if name not in self._baseline and self._tensors[name].verdict.is_bug is False and ratio > 0:
            self._baseline[name] = ratio

    def _with_drift(self) -> dict[str, TensorReport]:
        """The latest report of every tensor, with how far its ratio is from the first confirmed one."""
        return {
            name: dataclasses.replace(tensor, ratio_drift=self._drift(tensor)) for name, tensor in self._tensors.items()
        }

    def _drift(self, tensor: TensorReport) -> float:
        first = self._baseline.get(tensor.name)
        return math.log(tensor.ratio / first) if first is not None and tensor.ratio > 0 else 0.0

    def _publish(self, report: Report, alarms: tuple[str, ...]) -> None:
        """History, log, writers, and then whoever is to be told: an exception of theirs finds everything on record."""
        self.report = report
        self.history.append(
            HistoryRow(
                step=report.step,
                verdict=report.verdict,
                verdicts={name: tensor.verdict for name, tensor in report.tensors.items()},
                ratios={name: tensor.ratio for name, tensor in report.tensors.items()},
                alarms=alarms,
                evaluations=report.evaluations,
                seconds=report.seconds,
            )
        )
        for alert in report.alerts:
            LOG.log(alert.level, "%s", alert.message)
        for writer in self._writers:
            self._guarded(writer, lambda to=writer: to.write(report))  # type: ignore[misc]  # bound at once
        for alert in report.alerts:
            if callable(self._on_alert):
                self._on_alert(alert)
            elif self._on_alert == "raise" and alert.level >= logging.ERROR:
                raise GradientError(alert, report)

    def _guarded(self, writer: Writer, act: Callable[[], object]) -> None:
        """A writer that fails costs its records and one warning, never the training."""
        try:
            act()
        except Exception as error:
            if id(writer) not in self._told_lost:
                self._told_lost.add(id(writer))
                warnings.warn(
                    f"{type(writer).__name__} failed ({type(error).__name__}: {error}); its records of this check are "
                    "lost, the checks and the training go on, and it is tried again at the next check",
                    RuntimeWarning,
                    stacklevel=4,
                )
        else:
            self._told_lost.discard(id(writer))


def _tensorboard(logdir: str | os.PathLike[str] | None) -> list[Writer]:
    if logdir is None:
        return []
    from gradguard.writers.tensorboard import TensorBoardWriter  # it takes tensorboard along, which is not light

    return [TensorBoardWriter(logdir)]


def _require_writers(writers: Iterable[Writer]) -> list[Writer]:
    if not isinstance(writers, Iterable):
        raise TypeError(f"writers is a {type(writers).__name__}; expected several: writers=(writer,)")
    for writer in (several := list(writers)):
        if not isinstance(writer, Writer):
            raise TypeError(f"writers holds a {type(writer).__name__}; expected objects with write(report) and close()")
    return several


def _require_on_alert(on_alert: str | Callable[[Alert], object]) -> str | Callable[[Alert], object]:
    if callable(on_alert) or on_alert in ("log", "raise"):
        return on_alert
    raise ValueError(f"on_alert is {on_alert!r}; expected 'log', 'raise' or a callable that takes an Alert")
