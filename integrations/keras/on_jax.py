"""The checks of a Keras model on JAX, on a probe batch."""

import random
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from gradguard.integrations.jax import JaxGuard
from gradguard.perturbation import combined_snapshot, run_with_cleanup, snapshot_rng

OTHER_VARIABLES = ("non_trainable_variables", "metrics_variables", "optimizer_variables")
"""The variables that the loss depends on besides, in the order in which `compute_loss_and_updates` takes them."""


class ProbeGuard:
    """Checks the gradient of the loss on a probe batch, which it computes itself where a check is due.

    Args:
        model: The Keras model.
        probe: The batch.
        note: What every report says besides.
        options: Options of `GradGuard`.

    Attributes:
        guard: The guard of the loss as a function of the variables.
    """

    def __init__(self, model: Any, probe: tuple[Any, ...], note: str, options: Mapping[str, Any]) -> None:
        self._model = model
        self._batch = (*keras.tree.map_structure(keras.ops.convert_to_tensor, probe), None)[:3]
        self._names = [variable.path for variable in model.trainable_variables]
        self._streams = combined_snapshot([snapshot_rng(np.random), snapshot_rng(random)])
        self.guard = JaxGuard(self._loss, note=note, **options)
        self._step = 0

    def after_batch(self) -> None:
        """Check, if a check is due."""
        state = {name: list(variables) for name, variables in self._model._jax_state.items()}
        params = OrderedDict(zip(self._names, state["trainable_variables"], strict=True))
        others = [state[name] for name in OTHER_VARIABLES]
        self._step += 1
        # A loss that is traced runs the code of the layers, which may draw.
        run_with_cleanup(lambda: self.guard.before_step(self._step - 1, params, others, self._batch), self._streams())

    def close(self) -> None:
        """Close the writers."""
        self.guard.close()

    def _loss(self, params: Mapping[str, Any], others: list[Any], batch: tuple[Any, ...]) -> Any:
        """The loss as the training step computes it."""
        non_trainable, metrics, optimizer = others
        trainable = [params[name] for name in self._names]
        loss, _ = self._model.compute_loss_and_updates(
            trainable, non_trainable, metrics, *batch, training=True, optimizer_variables=optimizer
        )
        return loss
