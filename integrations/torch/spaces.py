"""Where the parameters of a module are perturbed: in place, on float64 copies, or on float64 copies with tangents."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import TracebackType

import torch
from torch import Tensor

from gradguard.integrations.torch.overrides.forward_mode import DualTensorMode, PerturbedTangent
from gradguard.integrations.torch.overrides.reverse_mode import gradients_by_reverse_pass
from gradguard.integrations.torch.overrides.substitution import Float64Mode, SubstitutionMode
from gradguard.integrations.torch.overrides.vectorized import CopyLimit, StackedParameter, VectorizedCopies
from gradguard.integrations.torch.tensors import (
    PERTURBABLE_DTYPES,
    DeviceArrays,
    HostArrays,
    PerturbedTorchTensor,
    spacing,
)
from gradguard.perturbation import Copies, Moved, PerturbedTensor

Tensors = Callable[[], Iterable[Tensor]]
"""Some tensors of a module, as they are when it is called."""


class NativeSpace:
    """The live parameters, each perturbed in its own dtype: `gradguard.perturbation.protocols.Space`.

    Args:
        tensors: The parameters by name.
        written: Returns the tensors that the loss may write to, besides.
    """

    precision = "native"

    def __init__(self, tensors: Mapping[str, Tensor], written: Tensors = tuple) -> None:
        self.arrays = HostArrays(tensors)
        self._tensors = tensors
        self._written = written
        self._limit = CopyLimit(total_bytes(tensors))

    def spacing(self, name: str) -> float:
        """The distance from the largest entry of a tensor to the next number of its dtype."""
        return spacing(self._tensors[name])

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:
        """The parameter, to be perturbed within a `with`, which restores it."""
        return Moved(PerturbedTorchTensor(self._tensors[name]))

    def installed(self) -> AbstractContextManager[object]:
        """No context: the loss reads the live parameters."""
        return nullcontext()

    def max_copies(self) -> int:
        """The largest number of copies in one call of the loss."""
        return self._limit.max_copies()

    def copies(self, names: Sequence[str]) -> Copies:
        """Copies of the named parameters in their dtypes."""
        return stacked_copies(
            self._tensors, self._tensors, names, lambda: SubstitutionMode(()), self._written, self._limit
        )


class Float64Space:
    """Float64 copies of the parameters on their devices; the loss runs on them.

    Args:
        tensors: The parameters under check, by name.
        others: Other parameters that the loss may read.
        written: Returns the tensors that it may write to.
    """

    precision = "float64"

    def __init__(self, tensors: Mapping[str, Tensor], others: Iterable[Tensor], written: Tensors = tuple) -> None:
        self._live = tensors
        self._written = written
        self._tensors = {name: _float64_copy(tensor) for name, tensor in tensors.items()}
        self._limit = CopyLimit(total_bytes(self._tensors))
        self.arrays = HostArrays(self._tensors)
        self._pairs = [(tensor, self._tensors[name]) for name, tensor in tensors.items()]
        self._pairs += [(tensor, _float64_copy(tensor)) for tensor in others if tensor.dtype in PERTURBABLE_DTYPES]
        self._training_dtype = next(iter(tensors.values())).dtype

    def spacing(self, name: str) -> float:
        """The distance from the largest entry of a tensor to the next float64."""
        return spacing(self._tensors[name])

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:
        """The copy, to be perturbed within a `with`, which restores it."""
        return Moved(PerturbedTorchTensor(self._tensors[name]))

    def installed(self) -> AbstractContextManager[object]:
        """The context in which every operation of PyTorch receives the copies, and float64 for all other tensors."""
        return self._float64_mode()

    def max_copies(self) -> int:
        """The largest number of copies in one call of the loss."""
        return self._limit.max_copies()

    def copies(self, names: Sequence[str]) -> Copies:
        """Copies of the named parameters in float64."""
        return stacked_copies(self._live, self._tensors, names, self._float64_mode, self._written, self._limit)

    def exact_gradients(self, loss: Callable[[], object], reduction: str | None) -> dict[str, Tensor] | None:
        """The gradients of a loss by one reverse pass, by name; None where autograd does not have them.

        It raises whatever the loss or autograd raises.

        Args:
            loss: Evaluates the loss, as `ReplayedLoss` does.
            reduction: Which scalar the gradients are of, where the loss returns several numbers: "sum" or "mean".
        """
        parameters = list(self._live.values())
        gradients = gradients_by_reverse_pass(loss, self._pairs, self._training_dtype, parameters, reduction)
        return None if gradients is None else dict(zip(self._live, gradients, strict=True))

    def _float64_mode(self) -> Float64Mode:
        return Float64Mode(self._pairs, self._training_dtype)


class ForwardModeSpace(Float64Space):
    """Float64 copies of the parameters with tangents: a displacement sets a tangent, and the loss returns its own.

    The arguments are those of `Float64Space`.
    """

    precision = "forward"

    def __init__(self, tensors: Mapping[str, Tensor], others: Iterable[Tensor], written: Tensors = tuple) -> None:
        super().__init__(tensors, others, written)
        self._perturbed: dict[str, PerturbedTangent] = {}

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:
        """The copy, whose tangent may be set within a `with`, which resets it to 0.

        The loss that several of them move at once has the sum of their derivatives.
        """
        return _MovedTangent(self._perturbed, name, PerturbedTangent.of(self._tensors[name]))

    def installed(self) -> AbstractContextManager[object]:
        """The context in which every operation of PyTorch receives the copies, the perturbed ones with tangents."""
        perturbed = [(self._live[name], tangent) for name, tangent in self._perturbed.items()]
        return DualTensorMode(self._pairs, self._training_dtype, perturbed)

    def copies(self, names: Sequence[str]) -> Copies:
        """Copies of the named parameters with tangents, in float64: vmap runs within forward mode."""
        copies = {name: repeated(self._tensors[name], len(names)) for name in set(names)}
        tangents = {name: torch.zeros_like(stack) for name, stack in copies.items()}
        perturbed = [
            PerturbedTangent(copies[name][row], tangents[name][row], self._tensors[name])
            for row, name in enumerate(names)
        ]
        stacked = [StackedParameter(self._live[name], stack, tangents[name]) for name, stack in copies.items()]
        make_mode = partial(DualTensorMode, self._pairs, self._training_dtype)
        return VectorizedCopies(stacked, perturbed, make_mode, self._written, self._limit)


class _MovedTangent(Moved):
    """A tensor whose tangent is set for the time of a `with`.

    Args:
        perturbed: The tensors that have a tangent at this moment, by name.
        name: The tensor.
        tangent: The tensor with its tangent.
    """

    def __init__(self, perturbed: dict[str, PerturbedTangent], name: str, tangent: PerturbedTangent) -> None:
        super().__init__(tangent)
        self._perturbed = perturbed
        self._name = name
        self._tangent = tangent

    def __enter__(self) -> PerturbedTensor:
        self._perturbed[self._name] = self._tangent
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._perturbed.get(self._name) is self._tangent:
            del self._perturbed[self._name]


def stacked_copies(
    lives: Mapping[str, Tensor],
    starts: Mapping[str, Tensor],
    names: Sequence[str],
    make_mode: Callable[[], SubstitutionMode],
    written: Tensors,
    limit: CopyLimit,
) -> VectorizedCopies:
    """K copies of the named parameters, each to be perturbed in one of them.

    Args:
        lives: The live parameters by name.
        starts: The unperturbed values, by the same names.
        names: For each of the K copies, the tensor that may be perturbed.
        make_mode: Makes the mode in which the loss is evaluated.
        written: Returns the tensors that the loss may write to.
        limit: Learns how much memory the loss takes.
    """
    copies = {name: repeated(starts[name], len(names)) for name in set(names)}
    device_arrays = {name: DeviceArrays(stack.device) for name, stack in copies.items()}
    perturbed = [
        PerturbedTorchTensor(copies[name][row], starts[name].detach(), device_arrays[name])
        for row, name in enumerate(names)
    ]
    stacked = [StackedParameter(lives[name], stack) for name, stack in copies.items()]
    return VectorizedCopies(stacked, perturbed, make_mode, written, limit)


def repeated(tensor: Tensor, count: int) -> Tensor:
    """Copies of a tensor on a new leading axis, shape (count, *tensor.shape)."""
    return tensor.detach().expand(count, *tensor.shape).clone()


def total_bytes(tensors: Mapping[str, Tensor]) -> int:
    """The size of all tensors together, in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _float64_copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float64, copy=True)
