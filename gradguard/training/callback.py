"""The callback: when to check, and what to do with the outcome."""

import copy
import dataclasses
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from gradguard.arrays.named_blocks import Blocks, block_masks
from gradguard.arrays.types import Array
from gradguard.arrays.validation import read_gradients, read_parameters, require_constants
from gradguard.checks.check import report_of
from gradguard.checks.effort import Deadline
from gradguard.loss.signature import Loss, require_reduction, takes_parameters
from gradguard.measurement.precision import CheckTarget, require_precision
from gradguard.perturbation.rollback import Rollback
from gradguard.perturbation.snapshots import Snapshot, together
from gradguard.perturbation.spaces import InPlace
from gradguard.report.results import Alert, Report
from gradguard.report.thresholds import Thresholds
from gradguard.report.verdict import Verdict
from gradguard.training.alerts import Alerts, GradientError
from gradguard.training.checkpoint import State, require_named
from gradguard.training.exclusive import ExclusiveAccess
from gradguard.training.monitor import ROUTINE_ENTRIES, CheckMonitor, CheckRequest
from gradguard.training.ranks import ranks_of
from gradguard.training.schedule import Budget, Due, Plan, due_steps, require_step
from gradguard.writers.dispatch import Dispatcher
from gradguard.writers.protocol import Writer

LOG = logging.getLogger("gradguard")
HISTORY = 10_000


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


class Closing:
    """Gives a class with a `close` the context manager that calls it."""

    def close(self) -> None:
        """Be done; once is enough, twice does no harm."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class GradGuard(Closing):
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
        self._ranks = ranks_of(params)
        self._budget = Budget(max_overhead, self._ranks.clock)
        self._constants = require_constants(constants)
        self._blocks = blocks
        self._shapes = _shapes(arrays)
        self._masks = block_masks(blocks, self._shapes)
        self._reduction = require_reduction(reduction)
        self._snapshot = together(snapshot)
        self._on_alert = _require_on_alert(on_alert)
        self._watch = CheckMonitor(require_precision(precision), thresholds, seed, self._ranks)
        self._alerts = Alerts(thresholds)
        if loss is not None and not takes_parameters(loss):
            InPlace(arrays)
        settings = {f"thresholds.{name}": value for name, value in dataclasses.asdict(thresholds).items()}
        self._outlets = Dispatcher(logdir, writers, {"seed": seed} | settings)
        self._one_thread = ExclusiveAccess()
        self._writes: bool | None = None  # the loss to the gradients; unknown before the first check
        self._kept: dict[str, Array] = {}  # float64 copies of the parameters
        self._last_step: int | None = None
        self._closed = False
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
            ValueError: There is no loss, steps go backwards, names or shapes do not fit, or the loss begins to write to
                the gradients.
            GradientError: A bug is confirmed, and `on_alert` is "raise".
            RuntimeError: Another thread is using the guard, or its own loss calls it.
        """
        self._one_thread.refuse()
        began = self._ranks.clock()
        if self._closed:
            raise ValueError("the guard is closed; make a new one, or close it after the last step")
        given = loss if loss is not None else self._loss
        if given is None:
            raise ValueError("there is no loss; pass loss= to GradGuard or to after_backward: loss() or loss(params)")
        step = self._last_step = require_step(step, self._last_step)
        if not self._due(step):
            self._budget.pass_by(self._ranks.clock() - began)
            return None
        report = self._one_thread.run(lambda: self._checked(step, grads, given, constants))
        if report is not None:
            self._tell(report)
        return report

    def state_dict(self) -> dict[str, Any]:
        """What the checks so far have found, for a checkpoint: plain dicts, lists, strings and numbers.

        A guard that takes it with `load_state_dict` makes the same further checks, bit for bit, as this one would (as
        far as `max_overhead` leaves it the time). History and reports are not in it: they are with the writers.

        Raises:
            RuntimeError: Another thread is using the guard.
        """
        return self._one_thread.run(self._state_dict, within=True)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called, at whatever step the training goes on.

        At a step before the last one written, TensorBoard shows what comes in place of what was; JSON lines keep both.

        Raises:
            ValueError: It is no such state, or one of other parameters; nothing has changed then.
            RuntimeError: Another thread is using the guard, or its own loss calls it.
        """
        self._one_thread.run(lambda: self._load(state))

    def close(self) -> None:
        """Close the writers; once is enough, twice does no harm.

        Raises:
            RuntimeError: Another thread is using the guard.
        """
        self._one_thread.run(self._close, within=True)

    def _state_dict(self) -> dict[str, Any]:
        watch = self._watch
        return State(self._shapes, watch.memory, watch.rng, self._alerts.told, self._budget.spent).to_dict()

    def _load(self, state: Mapping[str, Any]) -> None:
        shapes = _shapes(read_parameters(self._params))
        loaded = State.from_dict(state, shapes)
        self._see_shapes(shapes)
        self._watch.memory, self._watch.rng = loaded.memory, loaded.rng
        self._alerts.told = dict(loaded.told)
        self._budget.resume(loaded.spent)
        self._last_step = None
        self._outlets.resume()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._kept.clear()
            self._outlets.close()

    def __getstate__(self) -> dict[str, Any]:
        snapshots = [("snapshot", taken) for taken in self._snapshot.snapshots]
        rule = getattr(self._due, "rule", None)
        require_named([("loss", self._loss), ("on_alert", self._on_alert), ("every_n_steps", rule), *snapshots])
        return self.__dict__ | {"_kept": {}}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # By way of a pickle it would refuse lambdas, which can well be copied.
        copied = memo[id(self)] = object.__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__ | {"_kept": {}}, memo))
        return copied

    def _checked(
        self, step: int, grads: Mapping[str, object], loss: Loss, constants: Mapping[str, float] | None
    ) -> Report | None:
        known = self._constants | require_constants(constants)
        with self._ranks.checking(step):
            plan = self._budget.plan(len(self._params), ROUTINE_ENTRIES)
            if plan is None:
                return None
            started = self._ranks.clock()
            report, alarms = self._check(step, grads, loss, known, plan, started)
            self._publish(report, alarms)
            self._budget.record(self._ranks.clock() - started, report.evaluations)
        return report

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
        # The first check finds out whether the loss writes to the gradients: later ones need no copies of them, then.
        state = Rollback(read_gradients(grads, arrays), self._snapshot, keep=self._writes is not False)
        self._see_shapes(_shapes(arrays))
        subject = CheckTarget(self._params, arrays, loss, self._reduction, state, self._kept)
        request = CheckRequest(self._masks, constants, plan, step, Deadline(self._ranks.clock, started))
        context, alarms = state.run(lambda: self._watch.measure(subject, request))
        state.require_intact()
        self._writes = bool(self._writes or state.written)
        seconds = self._ranks.clock() - started
        report = report_of(context, self._watch.tensors, step, seconds)
        share, alerts = self._budget.share(seconds), self._alerts.of(step, report.tensors)
        return dataclasses.replace(report, overhead=share, alerts=alerts), alarms

    def _see_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Find the blocks anew, and forget what was carried of a tensor, when a model grows."""
        if shapes == self._shapes:
            return
        self._masks = block_masks(self._blocks, shapes)
        for name in [name for name in self._shapes if shapes.get(name) != self._shapes[name]]:
            self._watch.memory.forget(name)
        self._shapes = shapes

    def _publish(self, report: Report, alarms: tuple[str, ...]) -> None:
        """History, log and writers."""
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
        for alert in report.alerts if self._ranks.is_first else ():
            LOG.log(alert.level, "%s", alert.message)
        self._outlets.write(report)

    def _tell(self, report: Report) -> None:
        """Whoever is to be told: an exception of theirs finds everything on record."""
        for alert in report.alerts:
            if callable(self._on_alert):
                self._on_alert(alert)
            elif self._on_alert == "raise" and alert.level >= logging.ERROR:
                raise GradientError(alert, report)


def _shapes(arrays: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


def _require_on_alert(on_alert: str | Callable[[Alert], object]) -> str | Callable[[Alert], object]:
    if callable(on_alert) or on_alert in ("log", "raise"):
        return on_alert
    raise ValueError(f"on_alert is {on_alert!r}; expected 'log', 'raise' or a callable that takes an Alert")
