"""The parameters of a module and their gradients, as mappings from names to NumPy arrays."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from gradguard.arrays import Array
from gradguard.integrations.torch.overrides.forward_mode import load_forward_mode
from gradguard.integrations.torch.spaces import Float64Space, ForwardModeSpace, NativeSpace, Tensors
from gradguard.integrations.torch.tensors import HostArrays, host, unit_roundoff
from gradguard.loss import try_twice
from gradguard.perturbation import Space
from gradguard.training import SINGLE_PROCESS, Ranks


class Gradients(Mapping[str, Array]):
    """The gradients by the names of their parameters: zeros where there is none, dense where they are sparse."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = parameters

    def __getitem__(self, name: str) -> Array:
        parameter = self._parameters[name]
        if parameter.grad is None:
            return np.zeros(parameter.shape, np.float32)
        return host(parameter.grad.to_dense())

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)


class Parameters(HostArrays):
    """The parameters under check, by name: `gradguard.perturbation.protocols.MovableParameters`.

    Args:
        checked: The parameters under check.
        others: Returns other parameters that the loss reads and does not write to, of which one copy serves all
            evaluations: frozen ones, or those of another optimizer.
        ranks: The processes of the training.
        written: Returns what the loss may write to: the buffers of the module, and frozen parameters that it moves.

    Attributes:
        autocast: The dtype to which autocast converts in the training's forward pass; None without autocast.
        note: What the explanation of each report says besides.
        ranks: As given.
    """

    def __init__(
        self,
        checked: Mapping[str, Tensor],
        others: Tensors = tuple,
        ranks: Ranks = SINGLE_PROCESS,
        written: Tensors = tuple,
    ) -> None:
        super().__init__(checked)
        self._others = others
        self._written = written
        self.ranks = ranks
        self.autocast: torch.dtype | None = None
        self.note = ""

    @property
    def unit(self) -> float:
        """The unit roundoff of the coarsest dtype in which the gradients were computed."""
        dtypes = {tensor.dtype for tensor in self.tensors.values()}
        dtypes |= {tensor.grad.dtype for tensor in self.tensors.values() if tensor.grad is not None}
        return max(unit_roundoff(dtype) for dtype in dtypes | ({self.autocast} if self.autocast else set()))

    def native(self) -> Space:
        """The space of the live parameters."""
        return NativeSpace(self.tensors, self._written)

    def float64_copies(self) -> Space:
        """The space of float64 copies of all parameters."""
        return Float64Space(self.tensors, self._others(), self._written)

    def tangents(self) -> Space | None:
        """The space of float64 copies with tangents."""
        load_forward_mode()
        return ForwardModeSpace(self.tensors, self._others(), self._written)

    def exact_gradients(self, loss: Callable[[], object], reduction: str | None) -> Mapping[str, Array] | None:
        """The gradients of a loss in float64 by one reverse pass, in which custom Functions take part by their forward.

        It needs the memory of one training step in float64: copies of all parameters, the graph of the loss (that of
        the operations of each Function, without checkpointing), and the gradients.

        Args:
            loss: Evaluates the loss, as `ReplayedLoss` does. The caller restores what an evaluation disturbs, before
                and after.
            reduction: Which scalar the gradients are of, where the loss returns several numbers: "sum" or "mean".

        Returns:
            The gradients by name; None where autograd does not have them, or the loss raises. They are wrong where a
            part of the loss is hidden from autograd, which only differences of the loss show.
        """

        def differentiate() -> dict[str, Array] | None:
            space = Float64Space(self.tensors, self._others(), self._written)
            gradients = space.exact_gradients(loss, reduction)
            return None if gradients is None else {name: host(gradient) for name, gradient in gradients.items()}

        result = try_twice(differentiate)
        return None if isinstance(result, Exception) else result

    def gradients(self) -> Mapping[str, Array]:
        """The gradients of the parameters."""
        return Gradients(self.tensors)

    @property
    def device(self) -> str:
        """The type of the device that holds the parameters, such as "cpu" or "cuda"."""
        return next(iter(self.tensors.values())).device.type
