"""The callback of a training: it checks when a check is due, records the report and raises the alerts."""

import copy
import dataclasses
import inspect
import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from gradguard.arrays import Array, Blocks, block_masks, require_constants
from gradguard.checks import report_of
from gradguard.containers import ArrayContainer, read_gradients, read_parameters
from gradguard.differences import RoundedValue, require_one_number
from gradguard.environment import Place, own_numerics, with_short_traceback
from gradguard.examination import Deadline
from gradguard.functions import CallsFunctions, with_functions
from gradguard.intended import require_expected, undeclared_entries
from gradguard.loss import Loss, loss_of_mapping, require_reduction, takes_parameters
from gradguard.measurement import CheckTarget, MeasurementContext, require_precision
from gradguard.perturbation import InPlace, Rollback, Snapshot, combined_snapshot, reached_state
from gradguard.report import CheckHistory, EvaluationBar, Report, Thresholds, log_message
from gradguard.training.alerts import (
    AlertAction,
    Alerts,
    GradientError,
    log_messages,
    open_at_the_end,
    require_alert_actions,
)
from gradguard.training.checkpoint import State, require_picklable
from gradguard.training.exclusive import ExclusiveAccess
from gradguard.training.memory import CheckRequest
from gradguard.training.monitor import CheckMonitor
from gradguard.training.ranks import SINGLE_PROCESS, ranks_of
from gradguard.training.schedule import Budget, PeriodicSchedule, Schedule, make_schedule, require_step
from gradguard.writers.dispatch import Dispatcher
from gradguard.writers.files import MAX_MEGABYTES
from gradguard.writers.protocol import Writer

LOG = logging.getLogger("gradguard")
Checked = TypeVar("Checked", Report, Report | None)


class CloseOnExit:
    """Base class of context managers that call `close` on exit."""

    def close(self) -> None:
        """Release what the object holds; a second call does nothing."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class GradGuard(CloseOnExit):
    """Checks the gradients of a training while it runs; call `after_backward` between backward and update.

    Each check screens all tensors at once, and looks closer at those that disagree. The first one also measures own
    numbers of each tensor, until ten seconds are over. A later one measures those of one tensor, in turn, or screens a
    group of tensors that the others hide, and takes at most 24 evaluations of the loss while nothing disagrees. What
    disagrees may take ten seconds more. What does not fit goes on at the next check.

    Args:
        params: The parameters: the mapping that the model itself uses, its nested mappings, lists and tuples, its one
            array, or `attributes(model, ...)`; every check reads them again.
        loss: `loss()` reads the live arrays, `loss(params)` takes a container of the same form; it may be passed with
            each call instead.
        every_n_steps: Check at most every n steps, or a callable that says whether a check is due at a step.
        start_step: No check before this step.
        max_overhead: The share of wall time that the checks after the first one may take; None for no bound.
        thresholds: What alerts besides confirmed bugs, and below which discrepancy an error is no bug.
        constants: Numbers of the training by name, such as `{"timesteps": 39}`, by which a ratio is explained.
        blocks: Named parts of tensors, such as `{"W": gates("ifog", axis=1)}`.
        reduction: "sum" or "mean", where the loss returns an array of unreduced losses.
        precision: "native" perturbs the live arrays, "float64" evaluates the loss on float64 copies of them, and "auto"
            does so if the copies have provably the same loss.
        snapshot: A callable that captures state which an evaluation of the loss changes, and returns the callable
            that restores it; or several of these.
        logdir: The directory of the run's TensorBoard event files; None for no event file.
        max_log_megabytes: The size of these files together. Details of older checks are dropped, changes are kept.
        writers: Further writers of the reports.
        on_alert: "log", "raise" (a confirmed bug raises `GradientError`), a callable that takes each `Alert`, or a list
            of these. Every alert is logged in any case, and handed to all callables before one is raised.
        expected: The tensors whose gradient differs on purpose, each with the reason, such as
            `{"Wh": "truncated BPTT"}`; a block as in "Wh:forget" and patterns such as "encoder.*" are allowed too.
            They take turns in being measured. The verdict is `expected`, which is no bug, and there is no alert unless
            the difference becomes another one than at first.
        seed: Seed of the random directions and entries.

    Attributes:
        report: The latest report; None before the first check.
        history: A row for each check, 10,000 at most: of older checks, rows without a change are thinned.

    Raises:
        TypeError: An argument is of a kind that cannot be checked; the message names it.
        ValueError: The value of an option is out of its range; the message says what was expected.
    """

    def __init__(
        self,
        params: ArrayContainer,
        loss: Loss | None = None,
        *,
        every_n_steps: int | Schedule = 100,
        start_step: int = 0,
        max_overhead: float | None = 0.01,
        thresholds: Thresholds = Thresholds(),  # noqa: B008 - it is frozen
        constants: Mapping[str, float] | None = None,
        blocks: Blocks | None = None,
        reduction: str | None = None,
        precision: str = "auto",
        snapshot: Snapshot | Iterable[Snapshot] | None = None,
        logdir: str | os.PathLike[str] | None = None,
        max_log_megabytes: float = MAX_MEGABYTES,
        writers: Iterable[Writer] = (),
        on_alert: AlertAction | Sequence[AlertAction] = "log",
        expected: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(thresholds, Thresholds):
            raise TypeError(f"thresholds is a {type(thresholds).__name__}; expected gradguard.Thresholds(...)")
        given = read_parameters(params)
        arrays = given.arrays
        self._params = params
        self._loss = loss
        self._is_due = make_schedule(every_n_steps, start_step)
        self._ranks = ranks_of(given.mapping)
        self._budget = Budget(max_overhead, self._ranks.clock)
        self._constants = require_constants(constants)
        self._blocks = blocks
        self._shapes = _shapes(arrays)
        self._masks = block_masks(blocks, self._shapes)
        self._expected = expected
        self._declared = require_expected(expected, self._shapes, self._masks)
        self._reduction = require_reduction(reduction)
        self._snapshot = combined_snapshot(snapshot)
        self._on_alert = require_alert_actions(on_alert)
        self._monitor = CheckMonitor(require_precision(precision), thresholds, seed)
        self._alerts = Alerts(thresholds)
        if loss is not None and not takes_parameters(loss):
            InPlace(arrays)  # raises where an array cannot be perturbed in place
        self._dispatcher = Dispatcher(logdir, writers, max_log_megabytes)
        self._access = ExclusiveAccess()
        self._loss_writes_gradients: bool | None = None  # None before the first check
        self._written: set[Place] | None = None  # where the loss writes to; None before the first check
        self._float64_copies: dict[str, Array] = {}  # of the parameters, from check to check
        self._last_step: int | None = None
        self._was_due = False  # whether a check was due at any step so far
        self._closed = False
        self.report: Report | None = None
        self.history = CheckHistory()

    @with_short_traceback
    def after_backward(
        self,
        step: int,
        grads: ArrayContainer,
        loss: Loss | None = None,
        *,
        value: object = None,
        constants: Mapping[str, float] | None = None,
    ) -> Report | None:
        """Check the gradients that the optimizer is about to use, if a check is due.

        Args:
            step: The training step, not before that of the last call.
            grads: The gradients in a container of the form of `params`, or by its names: accumulated, unscaled, not yet
                clipped.
            loss: The loss on the batch of these gradients; required unless the guard has one.
            value: The loss that the training itself computed on this batch, one number. It is read at a check only.
                Where the guard's loss is another one, the verdict is `other_loss`, and nothing is measured.
            constants: Those that change from step to step, such as the number of timesteps; they override the guard's.

        Returns:
            The report, or None where the schedule or the budget skips this step.

        Raises:
            TypeError: The loss, its value or an array is of a kind that cannot be checked.
            ValueError: There is no loss, the step goes backwards, names or shapes do not match, or the loss writes to
                the gradients although it did not at the first check.
            GradientError: A bug is confirmed, and `on_alert` is "raise".
            RuntimeError: Another thread is using the guard, or the guard's own loss calls it.
        """
        self._access.require_free()
        start = self._ranks.clock()
        step, loss = self._require_call(step, loss, value)
        if not self._is_due(step):
            self._budget.record_skipped_step(self._ranks.clock() - start)
            return None
        return self._checked(lambda: self._check_within_budget(step, grads, loss, value, constants))

    @with_short_traceback
    def check_now(
        self,
        step: int,
        grads: ArrayContainer,
        loss: Loss | None = None,
        *,
        value: object = None,
        constants: Mapping[str, float] | None = None,
    ) -> Report:
        """Check the gradients at once, whatever the schedule and the budget say; otherwise as `after_backward`.

        The time that it takes counts in the budget, so that scheduled checks may come later. In a training of several
        processes, all of them must call it.

        Args:
            step: The training step, not before that of the last call.
            grads: As for `after_backward`.
            loss: As for `after_backward`.
            value: As for `after_backward`.
            constants: As for `after_backward`.

        Raises:
            TypeError: As `after_backward`.
            ValueError: As `after_backward`.
            GradientError: A bug is confirmed, and `on_alert` is "raise".
            RuntimeError: As `after_backward`.
        """
        self._access.require_free()
        step, loss = self._require_call(step, loss, value)
        return self._checked(lambda: self._check_at_once(step, grads, loss, value, constants))

    def may_check(self, step: int) -> bool:
        """Whether a check may be made at a coming step; where not, an integration need not prepare for one."""
        if not isinstance(self._is_due, PeriodicSchedule):  # a rule of the user's is asked once a step
            return True
        return self._is_due(step) and (self._ranks is not SINGLE_PROCESS or self._budget.affords_check)

    def skip_step(self, step: int) -> None:
        """Take notice of a step at which `may_check` has said that no check may be made.

        Raises:
            ValueError: The step goes backwards.
        """
        self._last_step = require_step(step, self._last_step)

    def state_dict(self) -> dict[str, Any]:
        """The results of all checks so far, for a checkpoint: plain dicts, lists, strings and numbers.

        A guard that loads the state with `load_state_dict` makes the same further checks as this one would, bit for
        bit, as far as `max_overhead` leaves it the time. The state holds no history and no reports: the writers do.

        Raises:
            RuntimeError: Another thread is using the guard.
        """
        return self._access.run(self._state_dict, reentrant=True)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from where `state_dict` was called; the training may resume at any step.

        Where it resumes before the last recorded step, TensorBoard replaces the later records; JSON lines keep both.

        Raises:
            ValueError: `state` is something else, or the state of other parameters; the guard is then unchanged.
            RuntimeError: Another thread is using the guard, or the guard's own loss calls it.
        """
        self._access.run(lambda: self._load(state))

    def close(self) -> None:
        """Close the writers, and log what no check has looked at; a second call does nothing.

        Raises:
            RuntimeError: Another thread is using the guard.
        """
        self._access.run(self._close, reentrant=True)

    def _state_dict(self) -> dict[str, Any]:
        monitor = self._monitor
        return State(self._shapes, monitor.memory, monitor.rng, self._alerts.standing, self._budget.spent).to_dict()

    def _load(self, state: Mapping[str, Any]) -> None:
        shapes = _shapes(read_parameters(self._params).arrays)
        loaded = State.from_dict(state, shapes)
        self._update_shapes(shapes)
        self._monitor.memory, self._monitor.rng = loaded.memory, loaded.rng
        self._alerts.standing = dict(loaded.told)
        self._budget.resume(loaded.spent)
        self._last_step = None
        self._dispatcher.resume()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._float64_copies.clear()
            for line in self._left_open() if self._ranks.is_first else ():
                LOG.warning("%s", line)
            self._dispatcher.close()

    def _left_open(self) -> Iterable[str]:
        """What the checks of the training leave open, in lines."""
        if self.report is not None:
            return open_at_the_end(self._shapes, self._monitor.memory.tensors)
        if self._last_step is None:
            return (log_message("no gradient was checked: after_backward was never called"),)
        if self._was_due:  # and raised
            return ()
        when = f"no check was due up to step {self._last_step}; every_n_steps and start_step say when one is"
        return (log_message(f"no gradient was checked: {when}"),)

    def __getstate__(self) -> dict[str, Any]:
        snapshots = [("snapshot", snapshot) for snapshot in self._snapshot.snapshots]
        rule = getattr(self._is_due, "rule", None)
        actions = [("on_alert", action) for action in self._on_alert]
        require_picklable([("loss", self._loss), *actions, ("every_n_steps", rule), *snapshots])
        return self.__dict__ | {"_float64_copies": {}}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # The default goes through `__getstate__`, which refuses lambdas; a deep copy can hold them.
        copied = memo[id(self)] = object.__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__ | {"_float64_copies": {}}, memo))
        return copied

    def _require_call(self, step: int, loss: Loss | None, value: object) -> tuple[int, Loss]:
        """The step and the loss of a call that may be made; it is the last call from now on."""
        if self._closed:
            raise ValueError("the guard is closed; make a new one, or close it after the last step")
        chosen_loss = loss if loss is not None else self._loss
        if chosen_loss is None:
            raise ValueError("there is no loss; pass loss= to GradGuard or to after_backward: loss() or loss(params)")
        if value is not None:
            require_one_number(value)
        self._last_step = require_step(step, self._last_step)
        return self._last_step, chosen_loss

    def _checked(self, check: Callable[[], Checked]) -> Checked:
        """What a check that is due returns, after its alerts are delivered."""
        self._was_due = True
        report = self._access.run(check)
        if report is not None:
            self._deliver_alerts(report)
        return report

    @own_numerics
    def _check_within_budget(
        self,
        step: int,
        grads: ArrayContainer,
        loss: Loss,
        value: object,
        constants: Mapping[str, float] | None,
    ) -> Report | None:
        """Make a check and record it; None where the budget leaves no time for it."""
        known = self._constants | require_constants(constants)
        with self._ranks.checking(step):
            return self._recorded_check(step, grads, loss, value, known) if self._budget.affords_check else None

    @own_numerics
    def _check_at_once(
        self,
        step: int,
        grads: ArrayContainer,
        loss: Loss,
        value: object,
        constants: Mapping[str, float] | None,
    ) -> Report:
        """Make a check and record it, whatever the budget says."""
        known = self._constants | require_constants(constants)
        with self._ranks.checking(step):
            return self._recorded_check(step, grads, loss, value, known)

    def _recorded_check(
        self, step: int, grads: ArrayContainer, loss: Loss, value: object, constants: Mapping[str, float]
    ) -> Report:
        start = self._ranks.clock()
        report, alarms = self._check(step, grads, loss, value, constants, start)
        self._record(report, alarms)
        self._budget.record_check(self._ranks.clock() - start, report.evaluations)
        return report

    def _check(
        self,
        step: int,
        grads: ArrayContainer,
        loss: Loss,
        value: object,
        constants: Mapping[str, float],
        start: float,
    ) -> tuple[Report, tuple[str, ...]]:
        """Make a check that started at `start`; its report, and the tensors whose routine probes raised an alarm."""
        given = read_parameters(self._params)
        arrays, gradients = given.arrays, read_gradients(grads, given.arrays)
        # Later checks need no copies of the gradients where the first one has shown that the loss does not write there.
        state = Rollback(
            gradients,
            self._snapshot,
            keep=self._loss_writes_gradients is not False,
            reached=reached_state(loss, self._params, (*arrays.values(), *gradients.values()), self._written),
        )
        self._update_shapes(_shapes(arrays))
        computed = None if value is None else RoundedValue.of(value)
        bar = EvaluationBar("gradguard", shown=self._ranks.is_first)
        target = CheckTarget(
            given.mapping,
            arrays,
            loss_of_mapping(loss, given.filled),
            self._reduction,
            state,
            self._float64_copies,
            value=computed,
            on_evaluations=bar.add,
            inside=undeclared_entries(self._declared, self._masks),
        )
        request = CheckRequest(self._masks, constants, step, Deadline(self._ranks.clock, start), self._declared)

        def measure() -> tuple[MeasurementContext, tuple[str, ...]]:
            context, alarms = self._monitor.measure(target, request)
            state.reached.attribute(context.evaluate_live)
            return context, alarms

        with bar:
            context, alarms = state.run(measure)
        state.require_intact()
        self._written = (self._written or set()) | state.reached.written
        self._loss_writes_gradients = bool(self._loss_writes_gradients or state.written)
        seconds = self._ranks.clock() - start
        report = report_of(context, self._monitor.tensors, step, seconds)
        if report.verdict.is_bug and isinstance(loss, CallsFunctions):
            functions = state.run(loss.check_functions)
            report = with_functions(report, functions, getattr(loss, "gradient_hooks", ()))
        said = " ".join(filter(None, [report.explanation, getattr(self._params, "note", "")]))
        share, alerts = self._budget.share(seconds), self._alerts.of(step, report.tensors)
        return dataclasses.replace(report, explanation=said, overhead=share, alerts=alerts), alarms

    def _update_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Where the model has grown: find the blocks again, and forget the state of tensors whose shape changed."""
        if shapes == self._shapes:
            return
        self._masks = block_masks(self._blocks, shapes)
        self._declared = require_expected(self._expected, shapes, self._masks)
        for name in [name for name in self._shapes if shapes.get(name) != self._shapes[name]]:
            self._monitor.memory.forget(name)
        self._shapes = shapes

    def _record(self, report: Report, alarms: tuple[str, ...]) -> None:
        """Put the report into the history and hand it to the writers; log its alerts."""
        self.report = report
        self.history.add(report, alarms)
        for level, message in log_messages(report.alerts) if self._ranks.is_first else ():
            LOG.log(level, "%s", message)
        self._dispatcher.write(report)

    def _deliver_alerts(self, report: Report) -> None:
        """Call `on_alert`, or raise: after the report is recorded, so that an exception loses nothing."""
        for alert in report.alerts:
            for action in filter(callable, self._on_alert):
                action(alert)
        for alert in report.alerts if "raise" in self._on_alert else ():
            if alert.level >= logging.ERROR:
                raise GradientError(alert, report)


def require_options(options: Mapping[str, Any], excluded: Collection[str]) -> None:
    """Refuse names of options that `GradGuard` does not have, or that an integration sets itself.

    Raises:
        TypeError: There is one; the message lists the valid ones.
    """
    names = [name for name in inspect.signature(GradGuard).parameters if name not in ("params", "loss", *excluded)]
    unknown = [name for name in options if name not in names]
    if unknown:
        raise TypeError(f"there is no option {unknown[0]!r}; the options are {', '.join(names)}")


def _shapes(arrays: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}
