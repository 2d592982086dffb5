"""The callback of Keras, which leaves the work to what fits the backend."""

from typing import Any, Protocol

import keras

from gradguard.report import CheckHistory, Report
from gradguard.training import require_options

BACKENDS = ("torch", "jax")
PROBE_NOTE = "The gradient is that of the loss on the probe batch, computed at this check."


class Checks(Protocol):
    """What the checks so far have found, as `GradGuard` keeps it."""

    @property
    def report(self) -> Report | None:
        """The latest report."""

    @property
    def history(self) -> CheckHistory:
        """A row for each of the latest checks."""


class BackendGuard(Protocol):
    """The checks of a model on one backend."""

    @property
    def guard(self) -> Checks:
        """What makes the checks."""

    def after_batch(self) -> None:
        """Check, if a check is due and this is the place for it."""

    def close(self) -> None:
        """Close the writers, and leave the model as it was."""


class GradGuardCallback(keras.callbacks.Callback):
    """Checks the gradients of a model while `fit` trains it.

    On PyTorch it checks the gradients that the optimizer is given for each batch, before they are clipped. On JAX no
    gradient leaves the compiled training step, so that it needs a probe batch: it checks the gradient of the loss on
    that batch, with the variables as each training batch has left them. On PyTorch, too, a probe batch may be given.
    Afterwards the model, its metrics and the random streams are as they were. Steps are batches, counted from 0.

    Args:
        probe: The probe batch: `(x, y)` or `(x, y, sample_weight)`, as `model.train_on_batch` takes them.
        **options: Options of `GradGuard`: `every_n_steps`, `logdir`, `constants` and so on.

    Raises:
        TypeError: There is no option of that name, or the probe is no such tuple.
        ValueError: Keras runs on another backend, or on JAX without a probe.
    """

    def __init__(self, probe: tuple[Any, ...] | None = None, **options: Any) -> None:
        super().__init__()
        require_options(options, ("reduction",))
        backend = keras.backend.backend()
        if backend not in BACKENDS:
            raise ValueError(
                f"Keras runs on {backend}; GradGuardCallback works on {' and '.join(BACKENDS)}: set KERAS_BACKEND to "
                "one of them before keras is imported, or call gradguard.GradGuard in a training loop of your own"
            )
        if backend == "jax" and probe is None:
            raise ValueError(
                "on JAX, Keras does not expose the gradients of the training; pass a batch to compute them on: "
                "probe=(x[:32], y[:32])"
            )
        if probe is not None and not (isinstance(probe, tuple) and len(probe) in (2, 3)):
            raise TypeError("probe is not a tuple of two or three; expected (x, y) or (x, y, sample_weight)")
        self._probe = probe
        self._options = options
        self._guard: BackendGuard | None = None

    @property
    def report(self) -> Report | None:
        """The latest report."""
        return None if self._guard is None else self._guard.guard.report

    @property
    def history(self) -> CheckHistory:
        """A row for each of the latest checks."""
        return CheckHistory() if self._guard is None else self._guard.guard.history

    def on_train_begin(self, logs: Any = None) -> None:
        """Make the guard.

        Raises:
            ValueError: The gradients of this model are not to be had.
        """
        if keras.backend.backend() == "jax":
            from gradguard.integrations.keras.on_jax import ProbeGuard

            assert self._probe is not None  # noqa: S101 - the constructor has asked for it
            self._guard = ProbeGuard(self.model, self._probe, PROBE_NOTE, self._options)
            return
        from gradguard.integrations.keras.on_torch import TorchProbeGuard, TrainStepGuard

        if self._probe is None:
            self._guard = TrainStepGuard(self.model, self._options)
        else:
            self._guard = TorchProbeGuard(self.model, self._probe, PROBE_NOTE, self._options)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Check on the probe batch, if a check is due."""
        if self._guard is not None:
            self._guard.after_batch()

    def on_train_end(self, logs: Any = None) -> None:
        """Close the writers."""
        if self._guard is not None:
            self._guard.close()
