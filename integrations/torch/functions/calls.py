"""One call of a `torch.autograd.Function`, recorded so that its forward and backward pass can be made again."""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gradguard.integrations.torch.distributed.alone import alone
from gradguard.integrations.torch.functions.layout import copied, shares_memory
from gradguard.integrations.torch.replay.forwards import AutocastState
from gradguard.perturbation import Restore


@dataclass(frozen=True)
class FunctionCall:
    """One call of a Function; nothing that it does reaches the tensors of the training.

    Attributes:
        function: The class.
        args: Copies of its arguments from before the call, in their memory layout.
        needed: The positions of the arguments that needed a gradient.
        autocast: The autocast of the call.
        restore: Restores the random streams from which the call drew.
        written: The positions of the tensors to which the call wrote.
        cotangents: The upstream gradient of each output, as the backward pass received it; None where there was none.
    """

    function: type[Function]
    args: tuple[Any, ...]
    needed: tuple[int, ...]
    autocast: AutocastState
    restore: Restore
    written: frozenset[int] = frozenset()
    cotangents: tuple[Tensor | None, ...] = ()

    @cached_property
    def leaves(self) -> dict[int, Tensor]:
        """The inputs that needed a gradient, by position, in their memory layout."""
        return {i: copied(self.args[i]).requires_grad_() for i in self.needed}

    @cached_property
    def names(self) -> list[str]:
        """What the inputs are called, as in "input 3 (`w`)"."""
        return input_names(self.function, len(self.args))

    def apart(self) -> "FunctionCall":
        """The same call with inputs of which each entry can be moved by itself."""
        return self._with_args({i: self.args[i].contiguous() for i in self.needed if shares_memory(self.args[i])})

    def contiguous(self) -> "FunctionCall":
        """The same call with inputs and upstream gradients that are all contiguous."""
        tensors = {i: arg.contiguous() for i, arg in enumerate(self.args) if isinstance(arg, Tensor)}
        cotangents = tuple(None if cotangent is None else cotangent.contiguous() for cotangent in self.cotangents)
        return replace(self._with_args(tensors), cotangents=cotangents)

    def with_random_cotangents(self, generator: torch.Generator) -> "FunctionCall":
        """The same call with a random upstream gradient of every differentiable output."""
        with torch.enable_grad(), self.autocast.enter_again():
            outputs = self.outputs()
        return replace(self, cotangents=tuple(_random_like(output, generator) for output in outputs))

    def outputs(self) -> tuple[Any, ...]:
        """What the call returns for the leaves as they are."""
        self.restore()
        args = [self.leaves.get(i, arg) for i, arg in enumerate(self.args)]
        # The call may write to nothing with which the next one begins, and PyTorch lets none write to a leaf.
        args = [arg.clone() if i in self.written else arg for i, arg in enumerate(args)]
        with alone():
            output = self.function.apply(*args)  # type: ignore[no-untyped-call]  # PyTorch's
        return output if isinstance(output, tuple) else (output,)

    def gradients(self) -> dict[int, Tensor]:
        """What its backward pass returns for the upstream gradients, by position; zeros where it returns nothing."""
        with torch.enable_grad(), self.autocast.enter_again():
            outputs = self.outputs()
            given = [pair for pair in self.with_cotangents(outputs) if pair[0].requires_grad]
        found: Sequence[Tensor | None] = [None] * len(self.leaves)
        if given:
            results, cotangents = zip(*given, strict=True)
            with alone():
                found = torch.autograd.grad(results, list(self.leaves.values()), cotangents, allow_unused=True)
        return {
            i: torch.zeros_like(leaf) if gradient is None else gradient.to_dense()
            for (i, leaf), gradient in zip(self.leaves.items(), found, strict=True)
        }

    def with_cotangents(self, outputs: Sequence[Any]) -> list[tuple[Tensor, Tensor]]:
        """The outputs that have an upstream gradient, each with it."""
        pairs = zip(outputs, self.cotangents, strict=True)
        return [(output, cotangent) for output, cotangent in pairs if cotangent is not None]

    def _with_args(self, others: dict[int, Tensor]) -> "FunctionCall":
        return replace(self, args=tuple(others.get(i, arg) for i, arg in enumerate(self.args)))


def has_setup_context(function: type[Function]) -> bool:
    """Whether a Function sets up its context apart, so that `forward` takes none."""
    return function.setup_context is not Function.setup_context


def input_names(function: type[Function], count: int) -> list[str]:
    """What the inputs of a Function are called, as in "input 3 (`w`)"."""
    parameters = list(inspect.signature(function.forward).parameters.values())
    return named_inputs(parameters if has_setup_context(function) else parameters[1:], count)


def named_inputs(parameters: Iterable[inspect.Parameter], count: int) -> list[str]:
    """What so many positional arguments are called, as in "input 3 (`w`)"; those without a name, "input 3"."""
    names = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return [f"input {i} (`{names[i]}`)" if i < len(names) else f"input {i}" for i in range(count)]


def _random_like(output: Any, generator: torch.Generator) -> Tensor | None:
    if not isinstance(output, Tensor) or not output.requires_grad:
        return None
    return torch.randn(output.shape, generator=generator).to(output)
