"""The parameters of the present step, as gradguard moves them: `gradguard.perturbation.protocols.MovableParameters`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import numpy as np

from gradguard.arrays import Array
from gradguard.integrations.jax.steps import Step
from gradguard.integrations.jax.trees import unit_roundoff
from gradguard.loss import StackFactory, try_twice
from gradguard.perturbation import Copies, Float64Copies, NativeCopies, PerturbedArray, PerturbedTensor, Space


class Parameters(Mapping[str, Array]):
    """The parameters of the present step; between steps, their shapes only.

    Args:
        step: The first step.
        note: What the reports say besides.

    Attributes:
        note: As given.
    """

    def __init__(self, step: Step, note: str = "") -> None:
        self.note = note
        self._step: Step | None = step
        self._shapes: dict[str, Array] = {}

    def bind(self, step: Step) -> None:
        """Make this the present step."""
        self._step = step

    def release(self) -> None:
        """Forget the present step and its arrays."""
        if self._step is not None and "arrays" in vars(self._step):
            zero = np.zeros((), np.float32)
            self._shapes = {name: np.broadcast_to(zero, array.shape) for name, array in self._step.arrays.items()}
        self._step = None

    @property
    def _arrays(self) -> Mapping[str, Array]:
        return self._shapes if self._step is None else self._step.arrays

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    @property
    def present(self) -> Step:
        """The present step."""
        if self._step is None:
            raise ValueError("there is no step; a check is made within before_step or after_step only")
        return self._step

    @property
    def unit(self) -> float:
        """The unit roundoff of the coarsest dtype in the loss and among the parameters."""
        dtypes = {leaf.dtype for leaf in self.present.leaves.values()}
        return max(self.present.unit, *map(unit_roundoff, dtypes))

    def native(self) -> Space:
        """The parameters in their dtypes."""
        dtypes = {name: leaf.dtype for name, leaf in self.present.leaves.items()}
        rounded = {name: dtype for name, dtype in dtypes.items() if dtype.kind != "f"}
        if rounded:
            return RoundedCopies(self.present.arrays, rounded)
        arrays = self.present.arrays
        return StackedNative(arrays) if self.present.takes_copies else NativeCopies(arrays)

    def float64_copies(self) -> Space:
        """Float64 copies of them."""
        arrays = self.present.arrays
        return StackedFloat64(arrays) if self.present.takes_copies else Float64Copies(arrays)

    def tangents(self) -> Space | None:
        """None: the reverse pass has the derivatives."""
        return None

    def exact_gradients(self, _loss: Callable[..., object], _reduction: str | None) -> Mapping[str, Array] | None:
        """The gradients of the loss in float64 by one reverse pass, in which no custom rule takes part.

        Returns:
            The gradients by name; None where JAX has no derivative of an operation of the loss.
        """
        gradients = try_twice(self.present.exact_gradients)
        return None if isinstance(gradients, Exception) else gradients


class StackedNative(NativeCopies):
    """The parameters in their dtypes, of which one call may take several copies: a `CopyFactory`."""

    def max_copies(self) -> int:  # noqa: D102 - as in CopyFactory
        return StackFactory(self, pads=True).max_copies()

    def copies(self, names: Sequence[str]) -> Copies:  # noqa: D102 - as in CopyFactory
        return StackFactory(self, pads=True).copies(names)


class StackedFloat64(Float64Copies):
    """Float64 copies of the parameters, of which one call may take several copies: a `CopyFactory`."""

    def max_copies(self) -> int:  # noqa: D102 - as in CopyFactory
        return StackFactory(self, pads=True).max_copies()

    def copies(self, names: Sequence[str]) -> Copies:  # noqa: D102 - as in CopyFactory
        return StackFactory(self, pads=True).copies(names)


class RoundedCopies(NativeCopies):
    """Parameters of which some have a dtype that NumPy lacks: float32 arrays of the numbers of that dtype.

    Args:
        arrays: The parameters.
        dtypes: The dtypes of those that are rounded.
    """

    def __init__(self, arrays: Mapping[str, Array], dtypes: Mapping[str, Any]) -> None:
        super().__init__(arrays)
        self._dtypes = dtypes

    def spacing(self, name: str) -> float:  # noqa: D102 - as in Space
        dtype = self._dtypes.get(name, np.float32)
        return super().spacing(name) * unit_roundoff(dtype) / unit_roundoff(np.float32)

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:  # noqa: D102 - as in Space
        moving = super().moving(name)
        return _Rounded(moving, self._dtypes[name]) if name in self._dtypes else moving


class _Rounded(AbstractContextManager[PerturbedTensor]):
    """A tensor that is rounded to a dtype, to move for the time of a `with`."""

    def __init__(self, moving: AbstractContextManager[Any], dtype: Any) -> None:
        self._moving = moving
        self._dtype = dtype

    def __enter__(self) -> PerturbedTensor:
        tensor = self._moving.__enter__()
        return RoundedArray(tensor.array, tensor.base, self._dtype)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._moving.__exit__(kind, error, trace)


class RoundedArray(PerturbedArray):
    """A float32 array of numbers that another dtype holds.

    Args:
        array: The array that the loss sees.
        base: Its unmoved values.
        dtype: The dtype.
    """

    def __init__(self, array: Array, base: Array, dtype: Any) -> None:
        super().__init__(array, base)
        self._dtype = dtype

    def write(self, values: Array) -> None:  # noqa: D102 - as in PerturbedTensor
        super().write(np.asarray(values).astype(self._dtype).astype(np.float32))

    def displace(self, vector: Array, amount: float, gradient: Array) -> tuple[float, float]:  # noqa: D102 - as in PerturbedTensor
        with np.errstate(over="ignore", invalid="ignore"):
            self.write(self.base + amount * vector.astype(np.float64))
            moved = self.array.astype(np.float64) - self.base
        moved[~np.isfinite(self.base)] = 0  # an entry that is nan or inf does not move
        return float(np.vdot(moved, vector)), float(np.vdot(moved, gradient))

    def displace_entry(self, index: tuple[int, ...], amount: float) -> float:  # noqa: D102 - as in PerturbedTensor
        start = float(self.base[index])
        self.array[index] = np.asarray(start + amount).astype(self._dtype)
        return float(self.array[index]) - start
