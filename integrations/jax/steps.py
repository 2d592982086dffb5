"""One training step as a check sees it: where the parameters stand, the loss of this batch, and its gradients."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import jax
import numpy as np

from gradguard.arrays import Array
from gradguard.integrations.jax.losses import CompiledLoss, Form, Loss
from gradguard.integrations.jax.trees import host, named_leaves, require_alive, require_checkable
from gradguard.loss import Reduction, try_twice
from gradguard.perturbation import Restore, run_with_cleanup

MAX_FORMS = 8
"""Forms of the loss that are kept: an argument that is another one at each step must not fill the memory."""


class LossCache:
    """The loss, compiled once for each form in which it is called.

    Args:
        loss: `loss(params, *args)`.
        reduction: Which scalar the gradient is of, if it returns an array.
    """

    def __init__(self, loss: Loss, reduction: Reduction | None) -> None:
        self._loss = loss
        self._reduction = reduction
        self._compiled: dict[object, CompiledLoss] = {}

    def compiled(self, form: Form, params: list[Any], traced: list[Any]) -> CompiledLoss:
        """The compiled loss for calls of a form."""
        # A flag and a number may be equal; and the loss is another one where x64 is enabled.
        kinds = tuple(map(type, form.fixed)), tuple((array.shape, array.dtype) for array in params)
        key = form, kinds, bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]  # made when JAX is imported
        found = self._compiled.pop(key, None) or CompiledLoss(self._loss, form, params, traced, self._reduction)
        self._compiled[key] = found  # the latest comes last
        if len(self._compiled) > MAX_FORMS:
            del self._compiled[next(iter(self._compiled))]
        return found


class Step:
    """One training step; nothing of it is read before a check asks for it.

    It is the loss on its batch, as the core evaluates it: a function of NumPy arrays by name.

    Args:
        losses: The loss of the training.
        params: The tree of parameters.
        args: The further arguments of the loss.
    """

    def __init__(self, losses: LossCache, params: object, args: tuple[object, ...]) -> None:
        self._losses = losses
        self._params = params
        self._args = args

    @cached_property
    def leaves(self) -> dict[str, Any]:
        """The parameters by name, as arrays of JAX.

        Raises:
            TypeError: One of them cannot be checked.
            ValueError: One of them was donated; so too for an argument of the loss.
        """
        leaves = named_leaves(self._params)
        require_checkable(leaves)
        require_alive("argument of the loss", self._args)
        return leaves

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """The parameters by name, as NumPy arrays: float32 where NumPy lacks the dtype."""
        return {name: host(leaf) for name, leaf in self.leaves.items()}

    @cached_property
    def call(self) -> tuple[CompiledLoss, list[Any]]:
        """The compiled loss, and the numbers in its further arguments."""
        form, params, traced = Form.of(self._params, self._args)
        return self._losses.compiled(form, params, traced), traced

    @property
    def unit(self) -> float:
        """The unit roundoff of the coarsest dtype in the loss."""
        return self.call[0].unit

    @property
    def takes_copies(self) -> bool:
        """Whether to try calls with many copies of the parameters: not where these are spread over several devices."""
        on_one = all(len(leaf.devices()) == 1 for leaf in self.leaves.values() if isinstance(leaf, jax.Array))
        return on_one and self.call[0].times.copies_pay

    def __call__(self, params: Mapping[str, Array]) -> Array:
        """The loss at some parameters, in float64 if they are; the losses of copies on a leading axis."""
        compiled, traced = self.call
        name, live = next(iter(self.leaves.items()))
        is_stacked, is_wide = params[name].ndim > live.ndim, self._is_wide(params)
        if is_stacked:
            function = compiled.wide_of_copies if is_wide else compiled.native_of_copies
        else:
            function = compiled.wide if is_wide else compiled.native
        started = time.perf_counter()
        with jax.enable_x64(True) if is_wide else nullcontext():
            losses = host(function(self._placed(params), traced))
        if not is_stacked:
            compiled.times.record(time.perf_counter() - started)
        return losses

    def gradients(self) -> dict[str, Array]:
        """The gradients as the training computes them."""
        compiled, traced = self.call
        found = compiled.gradient(list(self.leaves.values()), traced)
        return {name: host(gradient) for name, gradient in zip(self.leaves, found, strict=True)}

    def exact_gradients(self) -> dict[str, Array]:
        """The gradients in float64 of the operations of the forward pass; JAX raises where it has none."""
        compiled, traced = self.call
        with jax.enable_x64(True):
            wide = {name: array.astype(np.float64) for name, array in self.arrays.items()}
            found = compiled.exact_gradient(self._placed(wide), traced)
            return {name: host(gradient) for name, gradient in zip(self.leaves, found, strict=True)}

    def compile(self, *, in_float64: bool) -> None:
        """Call each form of the loss that a check needs, so that it is compiled before the time of the check begins.

        Args:
            in_float64: Whether the forms in float64 are needed too. A loss that has none is left to the check.
        """
        run_with_cleanup(lambda: self._compile(in_float64=in_float64), snapshot_x64())

    def _compile(self, *, in_float64: bool) -> None:
        self(self.arrays)
        if in_float64:
            wide = {name: array.astype(np.float64) for name, array in self.arrays.items()}
            try_twice(lambda: (self(wide), self.exact_gradients()))

    def _is_wide(self, params: Mapping[str, Array]) -> bool:
        return any(params[name].dtype != array.dtype for name, array in self.arrays.items())

    def _placed(self, params: Mapping[str, Array]) -> list[Any]:
        """Parameters on the devices of the live ones; in their dtypes too, unless in float64."""
        is_wide = self._is_wide(params)
        placed = []
        for name, live in self.leaves.items():
            array = params[name] if is_wide else params[name].astype(live.dtype, copy=False)
            placed.append(jax.device_put(array, live.sharding) if isinstance(live, jax.Array) else array)
        return placed


def snapshot_x64() -> Restore:
    """A snapshot of the x64 setting: a signal may end an evaluation in float64 before JAX has put it back."""
    before = bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]  # it is made when JAX is imported

    def restore() -> None:
        if bool(jax.config.jax_enable_x64) is not before:  # type: ignore[attr-defined]  # as above
            jax.enable_x64(before).__enter__()

    return restore


class LazyMapping(Mapping[str, Array]):
    """Arrays by name that are made when they are first asked for.

    Args:
        make: Makes them.
    """

    def __init__(self, make: Callable[[], Mapping[str, Array]]) -> None:
        self._make = make

    @cached_property
    def _made(self) -> Mapping[str, Array]:
        return self._make()

    def __getitem__(self, name: str) -> Array:
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)
