"""The exact gradient of a loss, by one reverse pass of autograd in which no backward pass by hand takes part.

Autograd records the loss on float64 copies of the parameters, and the forward pass of each custom Function as ordinary
operations. It also records what a training keeps from it on purpose, by `detach` or `no_grad`: the loss depends on
that all the same. One reverse pass then gives the gradient of every entry. An operation whose own derivative is wrong,
or whose result autograd does not see, makes it wrong; differences of the loss along directions find that out.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.hooks import RemovableHandle

from gradguard.integrations.torch.overrides.autograd_functions import InliningMode
from gradguard.integrations.torch.overrides.substitution import DETACHING_FUNCTIONS, NARROW_DTYPES
from gradguard.perturbation import run_with_cleanup

OVERWRITTEN = "modified by an inplace operation"
"""Part of PyTorch's message where the loss has overwritten a tensor that the reverse pass needs."""
GRAPH_NODE = Tensor.grad_fn.__get__  # type: ignore[union-attr]  # a property
NUMBERS = frozenset({Tensor.__float__, Tensor.__int__, Tensor.__complex__})
"""Functions that make a number of a tensor, of which PyTorch warns where the tensor is part of a graph."""
REDUCTIONS = {"sum": Tensor.sum, "mean": Tensor.mean}


class RecordedMode(InliningMode):
    """While it is active, autograd records each operation, on float64 copies of the parameters.

    Tensors from before are never recorded: operations receive copies of them too, so that no buffer or hidden state of
    the training becomes part of the graph. Hooks on gradients are not registered.

    Args:
        pairs: Tensors, each with its substitute.
        training_dtype: The dtype of the training.
        parameters: The tensors among them that gradients are of.
        copies_saved: Whether to copy each tensor that autograd saves, since the loss overwrites some of them.

    Attributes:
        leaves: The substitutes for the parameters, on the memory of those that were given.
        losses: What the latest loss returned in this mode, with its graph.
    """

    def __init__(
        self,
        pairs: Iterable[tuple[Tensor, Tensor]],
        training_dtype: torch.dtype,
        parameters: Sequence[Tensor],
        *,
        copies_saved: bool = False,
    ) -> None:
        super().__init__(pairs, training_dtype, None)
        # The ids of what operations have returned: a tensor from before lives on, so that none of them is its id.
        self._made: set[int] = set()
        self.leaves = [self.substitute(tensor).detach().requires_grad_() for tensor in parameters]
        for tensor, leaf in zip(parameters, self.leaves, strict=True):
            self.add_substitute(tensor, leaf)
        self.losses: object = None
        self._saving = saved_tensors_hooks(_copied, _as_it_is) if copies_saved else None
        self._is_saving = False

    def _open(self) -> None:
        if self._saving is not None:
            self._saving.__enter__()
            self._is_saving = True

    def _close(self) -> None:
        if self._saving is not None and self._is_saving:
            self._is_saving = False
            self._saving.__exit__(None, None, None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._C._set_grad_enabled:  # the loss sees the setting that it made
            return func(*args)
        if func is Tensor.register_hook:
            return RemovableHandle(OrderedDict())
        if func in NUMBERS:
            return func(self.substitute(args[0]).detach())
        if func == GRAPH_NODE:  # a module registers the hooks of its backward pass there
            return None
        return super().__torch_function__(func, types, args, kwargs)

    def result_of(self, losses: object) -> object:
        """The losses without their graph, which is kept."""
        self.losses = losses
        with torch._C.DisableTorchFunction():
            return losses.detach() if isinstance(losses, Tensor) else losses

    def _call(self, func: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        # Autograd refuses to record a result that is written to a given tensor.
        out = kwargs.pop("out") if isinstance(kwargs.get("out"), Tensor) else None
        with torch.enable_grad():
            attached = func in DETACHING_FUNCTIONS
            result = args[0].view_as(args[0]) if attached else super()._call(func, args, kwargs)
            if out is not None:
                result = out.copy_(result)
        self._note_made(result)
        return result

    def _note_made(self, result: Any) -> None:
        if isinstance(result, Tensor):
            self._made.add(id(result))
        elif isinstance(result, tuple | list | dict):
            for item in result.values() if isinstance(result, dict) else result:
                self._note_made(item)

    def _substitute_tensor(self, tensor: Tensor) -> Tensor:
        is_number = tensor.is_floating_point() or tensor.is_complex()
        if id(tensor) in self._substitutes or id(tensor) in self._made or not is_number:
            return super()._substitute_tensor(tensor)
        dtype = torch.float64 if tensor.dtype in NARROW_DTYPES else tensor.dtype
        substitute = tensor.detach().to(dtype, copy=True).requires_grad_(tensor.requires_grad)
        self.add_substitute(tensor, substitute)
        return substitute


def gradients_by_reverse_pass(
    loss: Callable[[], object],
    pairs: Sequence[tuple[Tensor, Tensor]],
    training_dtype: torch.dtype,
    parameters: Sequence[Tensor],
    reduction: str | None,
) -> list[Tensor] | None:
    """The exact gradients of a loss in float64; None where it is no tensor that depends on a parameter, or no scalar.

    It raises whatever the loss or autograd raises.

    Args:
        loss: Evaluates the loss, and hands what it returned to the mode that is active.
        pairs: Tensors, each with its substitute.
        training_dtype: The dtype of the training.
        parameters: The tensors among them that the gradients are of.
        reduction: Which scalar the gradients are of, where the loss returns several numbers: "sum" or "mean".
    """

    def reverse_pass(*, copies_saved: bool) -> list[Tensor] | None:
        mode = RecordedMode(pairs, training_dtype, parameters, copies_saved=copies_saved)

        def evaluate() -> None:
            with mode:
                loss()

        run_with_cleanup(evaluate, lambda: mode.__exit__(None, None, None))
        return _gradients_of(mode.losses, mode.leaves, reduction)

    try:
        return reverse_pass(copies_saved=False)
    except RuntimeError as error:  # the forward pass of a Function may overwrite what autograd needs
        if OVERWRITTEN not in str(error):
            raise
    return reverse_pass(copies_saved=True)


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _gradients_of(losses: object, leaves: Sequence[Tensor], reduction: str | None) -> list[Tensor] | None:
    """The gradients of a scalar in float64, zeros where it does not depend on a tensor; None where it has none."""
    if not isinstance(losses, Tensor) or not losses.requires_grad or (reduction is None and losses.numel() != 1):
        return None
    with torch.enable_grad():
        total = REDUCTIONS[reduction or "sum"](losses.double())
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return [
        torch.zeros_like(leaf) if gradient is None else gradient.to_dense()
        for leaf, gradient in zip(leaves, found, strict=True)
    ]
