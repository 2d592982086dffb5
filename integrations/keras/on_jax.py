"""The checks of a Keras model on JAX, on a probe batch."""

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import keras
import numpy as np

from gradguard.arrays import Array
from gradguard.perturbation import snapshot_rng
from gradguard.training import GradGuard

OTHER_VARIABLES = ("non_trainable_variables", "metrics_variables", "optimizer_variables")
"""The variables that the loss depends on besides, in the order in which `compute_loss_and_updates` takes them."""
PROBE_NOTE = "The gradient is that of the loss on the probe batch, computed at this check."


class LazyArrays(Mapping[str, Array]):
    """NumPy arrays by name, made together when the first one is read: only then a check is due.

    Args:
        names: The names.
        note: What the reports say besides.

    Attributes:
        note: As given.
    """

    def __init__(self, names: list[str], note: str = "") -> None:
        self.note = note
        self._names = names
        self._compute: Callable[[], list[Any]] = list
        self._arrays: dict[str, Array] | None = None

    def become(self, compute: Callable[[], list[Any]]) -> None:
        """From now on they are what `compute` returns, in the order of the names."""
        self._compute, self._arrays = compute, None

    def __getitem__(self, name: str) -> Array:
        if self._arrays is None:
            self._arrays = {each: np.array(array) for each, array in zip(self._names, self._compute(), strict=True)}
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class ProbeGuard:
    """Checks the gradient of the loss on a probe batch, which it computes itself where a check is due.

    Args:
        model: The Keras model.
        probe: The batch.
        options: Options of `GradGuard`.
    """

    def __init__(self, model: Any, probe: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        self._model = model
        self._batch = (*keras.tree.map_structure(keras.ops.convert_to_tensor, probe), None)[:3]
        self._names = [variable.path for variable in model.trainable_variables]
        self._params, self._gradients = LazyArrays(self._names, PROBE_NOTE), LazyArrays(self._names)
        self._params.become(lambda: [variable.value for variable in model.trainable_variables])
        snapshots = [snapshot_rng(np.random), snapshot_rng(random), *_several(options.get("snapshot"))]
        self.guard = GradGuard(self._params, **{**options, "snapshot": snapshots})
        self._loss = jax.jit(self._loss_of)
        self._gradient = jax.jit(jax.grad(self._loss_of))
        self._step = 0

    def after_batch(self) -> None:
        """Check, if a check is due."""
        state = {name: list(variables) for name, variables in self._model._jax_state.items()}
        trainable, others = state["trainable_variables"], [state[name] for name in OTHER_VARIABLES]

        def loss(params: Mapping[str, Array]) -> Any:
            arrays = [np.asarray(params[name], array.dtype) for name, array in zip(self._names, trainable, strict=True)]
            return self._loss(arrays, *others)

        self._params.become(lambda: trainable)
        self._gradients.become(lambda: list(self._gradient(trainable, *others)))
        self._step += 1
        self.guard.after_backward(self._step - 1, self._gradients, loss)

    def close(self) -> None:
        """Close the writers."""
        self.guard.close()

    def _loss_of(self, trainable: Any, non_trainable: Any, metrics: Any, optimizer: Any) -> Any:
        """The loss on the probe batch, as the training step computes it."""
        loss, _ = self._model.compute_loss_and_updates(
            trainable, non_trainable, metrics, *self._batch, training=True, optimizer_variables=optimizer
        )
        return loss


def _several(snapshot: Any) -> list[Any]:
    """The snapshots of the user: none, one or several."""
    return [] if snapshot is None else [snapshot] if callable(snapshot) else list(snapshot)
