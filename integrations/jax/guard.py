"""The guard of a training in JAX: which gradients it checks, and when in a training step."""

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from gradguard.containers import read_gradients
from gradguard.integrations.jax.functions import TrainingStep
from gradguard.integrations.jax.losses import Loss
from gradguard.integrations.jax.parameters import Parameters
from gradguard.integrations.jax.steps import LazyMapping, LossCache, snapshot_x64
from gradguard.integrations.jax.tap import Window, is_between_updates, loss_of_window, tapped
from gradguard.integrations.jax.trees import host, named_leaves, require_alive
from gradguard.loss import require_reduction
from gradguard.perturbation import combined_snapshot
from gradguard.report import CheckHistory, Report
from gradguard.training import CloseOnExit, GradGuard, make_schedule

LOG = logging.getLogger("gradguard")
Checked = TypeVar("Checked", Report, Report | None)


class JaxGuard(CloseOnExit):
    """Checks the gradients of a pure loss while a training in JAX runs.

    Call `before_step` before the update, with what the update is about to use. Parameters may be any tree of arrays.
    The steps may be jitted, and may donate their buffers. The guard has compiled forms of the loss of its own: in the
    dtypes of the training, and in float64, for which the global setting of JAX stays as it is. No array of the training
    is written to, and no random key is used up.

    Args:
        loss: `loss(params, *args)`, as the training differentiates it: a function without side effects, jitted or not.
        note: What every report says besides, for integrations.
        **options: Options of `GradGuard`: `every_n_steps`, `logdir`, `constants`, `on_alert`, `reduction` and so on.

    Raises:
        TypeError: The loss cannot be called, or an option is unknown.
    """

    def __init__(self, loss: Loss, *, note: str = "", **options: Any) -> None:
        if not callable(loss):
            raise TypeError(f"loss is a {type(loss).__name__}; expected a callable, loss(params, *args)")
        inspect.signature(GradGuard).bind({}, **options)  # raises where an option is unknown
        reduction = require_reduction(options.get("reduction"))
        self._losses, self._losses_of_windows = LossCache(loss, reduction), LossCache(loss_of_window(loss), reduction)
        self._is_due = make_schedule(options.get("every_n_steps", 100), options.get("start_step", 0))
        self._note = note
        self._is_complete = False
        self._is_compiled = False
        self._options = options | {
            "every_n_steps": self._is_due_or_complete,
            "snapshot": [snapshot_x64, combined_snapshot(options.get("snapshot"))],
        }
        self._is_window_due = False
        self._window: Window | None = None
        self._params: Parameters | None = None
        self._guard: GradGuard | None = None
        self._grads: Mapping[str, object] = {}
        self._state: Mapping[str, Any] | None = None
        self._is_closed = False

    @property
    def report(self) -> Report | None:
        """The latest report."""
        return None if self._guard is None else self._guard.report

    @property
    def history(self) -> CheckHistory:
        """A row for each of the latest checks."""
        return CheckHistory() if self._guard is None else self._guard.history

    def before_step(
        self,
        step: int,
        params: object,
        *args: object,
        grads: object = None,
        value: object = None,
        constants: Mapping[str, float] | None = None,
    ) -> Report | None:
        """Check the gradients of a step that is about to be made, if a check is due.

        Args:
            step: The training step, not before that of the last call.
            params: The parameters before the step.
            *args: The further arguments of the loss at this step: the batch, a random key, statistics.
            grads: The gradients that the optimizer is about to use, a tree like `params`; without them, the guard
                checks those that `jax.grad` of the loss has. They must be those of the loss, not clipped.
            value: The loss that the training itself computed, where it is known; it is compared with the guard's.
            constants: Those that change from step to step; they override the guard's.

        Returns:
            The report, or None where the schedule or the budget skips this step.

        Raises:
            TypeError: The loss or a parameter is of a kind that cannot be checked.
            ValueError: A parameter was donated already, the gradients are of another tree, or the step goes backwards.
            GradientError: A bug is confirmed, and `on_alert` is "raise".
        """
        present = TrainingStep(self._losses, params, args)
        return self._check(GradGuard.after_backward, step, present, _given(present, grads), value, constants)

    def check_now(
        self,
        step: int,
        params: object,
        *args: object,
        grads: object = None,
        value: object = None,
        constants: Mapping[str, float] | None = None,
    ) -> Report:
        """Check the gradients at once, as `GradGuard.check_now` does; otherwise as `before_step`.

        Args:
            step: The training step, not before that of the last call.
            params: As for `before_step`.
            *args: As for `before_step`.
            grads: As for `before_step`.
            value: As for `before_step`.
            constants: As for `before_step`.

        Raises:
            TypeError: As `before_step`.
            ValueError: As `before_step`.
            GradientError: A bug is confirmed, and `on_alert` is "raise".
        """
        present = TrainingStep(self._losses, params, args)
        return self._check(GradGuard.check_now, step, present, _given(present, grads), value, constants)

    def record(self, step: int, params: object, opt_state: object, *args: object) -> None:
        """Keep what a step starts from, where a check is due; `after_step` then makes it.

        With these two calls in place of `before_step`, the gradient that is checked is the one that the optimizer got:
        it keeps it by `gradient_tap()`. Under `optax.MultiSteps` that is the average of a window, and the loss is the
        average over its batches. A check waits for the next window that it sees from its beginning.

        Args:
            step: The training step.
            params: The parameters before the step; they are copied where a check is due.
            opt_state: The state of the optimizer before the step.
            *args: The further arguments of the loss at this step.

        Raises:
            ValueError: The optimizer has no tap, or a parameter was donated already.
        """
        if self._window is None:
            self._is_window_due = self._is_window_due or self._is_due(step)
            if not self._is_window_due or is_between_updates(opt_state):
                return
            require_alive("parameter", params)
            self._window, self._is_window_due = Window.of(step, params, opt_state), False
        self._window.batches.append(args)

    def after_step(
        self, opt_state: object, *, value: object = None, constants: Mapping[str, float] | None = None
    ) -> Report | None:
        """Check the gradient that the optimizer got, if a check is due and the step has completed an update.

        Args:
            opt_state: The state of the optimizer after the step.
            value: The loss that the training itself computed, averaged over the batches of a window.
            constants: As for `before_step`.

        Returns:
            The report, whose step is the first of the window; None where there is no check.

        Raises:
            TypeError: As `before_step`.
            ValueError: As `before_step`.
            GradientError: A bug is confirmed, and `on_alert` is "raise".
        """
        if self._window is None:
            return None
        window, tap = self._window, tapped(opt_state)
        if int(tap.count) == window.count:
            return None
        self._window, self._is_complete = None, True
        present = TrainingStep(self._losses_of_windows, window.params, tuple(window.batches))
        try:
            grads = LazyMapping(lambda: _hosted(tap.gradient))
            return self._check(GradGuard.after_backward, window.step, present, grads, value, constants)
        finally:
            self._is_complete = False

    def state_dict(self) -> dict[str, Any]:
        """The results of all checks so far, for a checkpoint, as `GradGuard.state_dict` returns them.

        Raises:
            ValueError: No step was seen yet.
        """
        if self._guard is None:
            raise ValueError("there is no state before the first call of before_step")
        return self._guard.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from where `state_dict` was called; before the first step, it is read when that comes."""
        if self._guard is None:
            self._state = state
        else:
            self._guard.load_state_dict(state)

    def close(self) -> None:
        """Close the writers, and log what no check has looked at; a second call does nothing."""
        if self._guard is not None:
            self._guard.close()
        elif not self._is_closed:
            LOG.warning("no gradient was checked: before_step was never called")
        self._is_closed = True

    def _check(
        self,
        check: Callable[..., Checked],
        step: int,
        present: TrainingStep,
        grads: Mapping[str, object],
        value: object,
        constants: Mapping[str, float] | None,
    ) -> Checked:
        """What a method of `GradGuard` makes of a step."""
        if self._is_closed:
            raise ValueError("the guard is closed; make a new one, or close it after the last step")
        params, guard = self._attached(present)
        params.bind(present)
        self._grads = grads
        try:
            if check is GradGuard.check_now:
                self._compile()
            return check(guard, step, grads, present, value=value, constants=constants)
        finally:
            params.release()
            self._grads = {}

    def _is_due_or_complete(self, step: int) -> bool:
        """Whether to check now: a window is complete at another step than that at which a check was due.

        The guard asks for that before it looks at the time, so that the loss is compiled here.
        """
        if not (self._is_complete or self._is_due(step)):
            return False
        self._compile()
        return True

    def _compile(self) -> None:
        """Compile the loss before the first check.

        That check is then not short of time because the loss was compiled, nor do later checks wait for as long as it
        would take to compile it again.
        """
        if not self._is_compiled and self._params is not None:
            present = self._params.present
            read_gradients(self._grads, present.arrays)
            present.compile(in_float64=self._options.get("precision") != "native")
            self._is_compiled = True

    def _attached(self, present: TrainingStep) -> tuple[Parameters, GradGuard]:
        """The parameters and the guard that makes the checks, made at the first step."""
        if self._params is None or self._guard is None:
            self._params = Parameters(present, self._note)
            self._guard = GradGuard(self._params, **self._options)
            if self._state is not None:
                self._guard.load_state_dict(self._state)
        return self._params, self._guard


def _given(present: TrainingStep, grads: object) -> LazyMapping:
    """The gradients of a step as the user gave them, or those that the loss has."""
    return LazyMapping(present.gradients if grads is None else lambda: _hosted(grads))


def _hosted(tree: object) -> dict[str, Any]:
    return {name: host(leaf) for name, leaf in named_leaves(tree).items()}
