"""The calls of `torch.autograd.Function`s in one forward and backward pass of a loss, recorded."""

import random
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import _get_current_function_mode_stack

from gradguard.integrations.torch.functions.calls import FunctionCall
from gradguard.integrations.torch.functions.layout import copied, memory_of_copy
from gradguard.integrations.torch.functions.leaves import LeavesMode
from gradguard.integrations.torch.overrides.autograd_functions import (
    INNER_APPLY,
    RECORDERS,
    TRANSFORMED,
    intercept_calls,
    release_calls,
)
from gradguard.integrations.torch.replay.forwards import AutocastState
from gradguard.integrations.torch.replay.state import RandomStreams
from gradguard.integrations.torch.tensors import PERTURBABLE_DTYPES
from gradguard.perturbation import combined_snapshot, run_with_cleanup, snapshot_rng

MAX_BYTES = 2**28
"""Memory for copies of inputs and upstream gradients: 256 MiB."""
MAX_KINDS = 4
"""Kinds of calls of one Function that are kept: other dimensions, other flags, other inputs that need a gradient."""


@dataclass(slots=True)
class RecordedFunction:
    """The calls of one Function whose backward pass ran.

    Attributes:
        name: As the user calls it.
        count: How many there were.
        calls: Those that were kept, by kind and then by their number.
        refusal: Why some or all cannot be checked; "" where nothing prevents it.
        is_differentiated_twice: Whether its backward pass was to be differentiated too.
        started: How many calls of each kind there were, those included whose backward pass did not run.
    """

    name: str
    count: int = 0
    calls: dict[object, dict[int, FunctionCall]] = field(default_factory=dict)
    refusal: str = ""
    is_differentiated_twice: bool = False
    started: dict[object, int] = field(default_factory=dict)


def _sum_of(losses: object) -> list[tuple[Tensor, Tensor | None]]:
    """The sum of the losses, in which their backward pass starts."""
    return [(losses.sum(), None)] if isinstance(losses, Tensor) else []


class CallRecorder(AbstractContextManager[None]):
    """Context in which the calls of Functions in this thread are recorded.

    Of each kind, the calls number 1, 2, 4, 8 and so on are kept: the first and the last ones of a recurrent network
    often begin or end with zeros, which hide errors. A call counts when its backward pass runs, so that the second
    forward pass of a checkpoint does not.

    Attributes:
        functions: What was recorded, by class, in the order of the backward pass.
        hooks: The user's hooks that change gradients in the training, as in "`scale` (model.py:31)".
    """

    def __init__(self) -> None:
        self.hooks: dict[str, None] = {}
        self.functions: dict[type[Function], RecordedFunction] = {}
        self._seen: dict[type[Function], RecordedFunction] = {}
        self._bytes_left = MAX_BYTES
        self._mode = LeavesMode()

    def record(
        self,
        evaluate: Callable[[], object],
        seeds: Callable[[Any], Iterable[tuple[Tensor, Tensor | None]]] = _sum_of,
    ) -> None:
        """Make a forward and a backward pass, of which nothing reaches the training's gradients and hooks.

        Args:
            evaluate: The loss.
            seeds: The tensors in which the backward pass starts, each with its upstream gradient, from what the loss
                returns.
        """
        self._mode = LeavesMode()

        def passes() -> None:
            with self, torch.enable_grad():
                with self._mode:
                    result = evaluate()
                self.hooks |= self._mode.hooks
                roots = [(root, upstream) for root, upstream in seeds(result) if root.requires_grad]
                if roots and self._mode.leaves:
                    tensors, upstream = zip(*roots, strict=True)
                    torch.autograd.grad(tensors, self._mode.leaves, upstream, allow_unused=True)

        run_with_cleanup(passes, self._end)

    def _end(self) -> None:
        self._mode.__exit__(None, None, None)
        self.__exit__(None, None, None)

    def __enter__(self) -> None:
        RECORDERS[threading.get_ident()] = self.call
        intercept_calls()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        RECORDERS.pop(threading.get_ident(), None)
        release_calls()

    def call(self, function: type[Function], args: tuple[Any, ...]) -> Any:
        """Call a Function, recorded where its backward pass may come to run."""
        apply = INNER_APPLY.__get__(None, function)
        if self._mode in _get_current_function_mode_stack():  # type: ignore[no-untyped-call]  # not in a backward pass
            args = self._mode.substitute(args)
        needed = tuple(i for i, arg in enumerate(args) if isinstance(arg, Tensor) and arg.requires_grad)
        if not needed or not torch.is_grad_enabled() or _is_of_pytorch(function):
            return apply(*args)
        recorded = self._seen.setdefault(function, RecordedFunction(_name(function)))
        number, kind = self._number(recorded, args)
        kept = self._kept(function, args, needed, recorded) if number.bit_count() == 1 else None
        output = apply(*args)
        node = _node_of(output, function)
        if node is not None:
            if kept is not None:
                kept = replace(kept, written=_written(kept, args))
            node.register_prehook(partial(self._received, function, kept, number, kind))
        return output

    def _number(self, recorded: RecordedFunction, args: tuple[Any, ...]) -> tuple[int, object]:
        """The number of a call among those of its kind, from 1; 0 for a kind that is one too many."""
        kind = tuple(map(_kind, args))
        if kind not in recorded.started and len(recorded.started) == MAX_KINDS:
            return 0, kind
        recorded.started[kind] = recorded.started.get(kind, 0) + 1
        return recorded.started[kind], kind

    def _kept(
        self, function: type[Function], args: tuple[Any, ...], needed: tuple[int, ...], recorded: RecordedFunction
    ) -> FunctionCall | None:
        """A call before it is made; None where it cannot be checked."""
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        refusal = _refusal(function, tensors, [args[i] for i in needed]) or self._refusal_of_copies(tensors)
        if refusal:
            recorded.refusal = refusal
            return None
        streams = RandomStreams({tensor.device for tensor in tensors})
        capture = combined_snapshot([streams.capture, snapshot_rng(np.random), snapshot_rng(random)])
        copies = tuple(copied(arg) if isinstance(arg, Tensor) else arg for arg in args)
        return FunctionCall(function, copies, needed, AutocastState.current(tensors[0].device.type), capture())

    def _refusal_of_copies(self, tensors: Iterable[Tensor]) -> str:
        """Reserve memory for copies of some tensors; why that is refused, or ""."""
        size = sum(map(memory_of_copy, tensors))
        if size > self._bytes_left:
            return f"copies of its inputs and upstream gradients would take more than {MAX_BYTES >> 20} MiB"
        self._bytes_left -= size
        return ""

    def _received(
        self,
        function: type[Function],
        kept: FunctionCall | None,
        number: int,
        kind: object,
        cotangents: tuple[Tensor | None, ...],
    ) -> None:
        """Note a backward pass, with the upstream gradients that it receives."""
        recorded = self.functions.setdefault(function, self._seen[function])
        recorded.count += 1
        recorded.is_differentiated_twice |= torch.is_grad_enabled()
        if kept is None:
            return
        given = [cotangent for cotangent in cotangents if cotangent is not None]
        refusal = _refusal(function, given, ()) or self._refusal_of_copies(given)
        if refusal:
            recorded.refusal = refusal
            return
        copies = tuple(None if cotangent is None else copied(cotangent) for cotangent in cotangents)
        recorded.calls.setdefault(kind, {})[number] = replace(kept, cotangents=copies)


def _is_of_pytorch(function: type[Function]) -> bool:
    return function.__module__.partition(".")[0] == "torch" and function.__module__ != TRANSFORMED


def _name(function: type[Function]) -> str:
    """The name of a class, without what `torch.func` adds to it."""
    if function.__module__ == TRANSFORMED:
        return function.__name__.removeprefix("Vmapped").removesuffix("Generated")
    return function.__qualname__.rpartition("<locals>.")[2]


def _refusal(function: type[Function], tensors: Iterable[Tensor], needed: Iterable[Tensor]) -> str:
    """Why a call cannot be made again, in a clause; "" where it can be."""
    if function.__module__ == TRANSFORMED:
        return "it is called within a transform of torch.func, whose single calls cannot be repeated"
    for tensor in tensors:
        if tensor.layout is not torch.strided or type(tensor) not in (Tensor, nn.Parameter):
            return (
                f"an input or upstream gradient is a {type(tensor).__name__} of layout {tensor.layout}; expected dense "
                "tensors"
            )
    for tensor in needed:
        if tensor.dtype not in PERTURBABLE_DTYPES:
            return f"an input that needs a gradient is {tensor.dtype}; expected real numbers"
    return ""


def _kind(arg: Any) -> object:
    """What distinguishes kinds of calls in an argument: numbers, which may count steps, do not."""
    if isinstance(arg, Tensor):
        return arg.dtype, arg.dim(), arg.requires_grad
    return arg if isinstance(arg, bool | str | None) else type(arg)


def _node_of(output: Any, function: type[Function]) -> Any:
    """The node of a call in the graph, which receives its upstream gradients; None where autograd records none."""
    with torch._C.DisableTorchFunction():
        outputs = output if isinstance(output, tuple) else (output,)
        nodes = [each.grad_fn for each in outputs if isinstance(each, Tensor)]
    return next((node for node in nodes if getattr(node, "_forward_cls", None) is function), None)


def _written(call: FunctionCall, args: tuple[Any, ...]) -> frozenset[int]:
    """The positions of the tensors to which a call has written."""
    pairs = enumerate(zip(call.args, args, strict=True))
    return frozenset(i for i, (before, arg) in pairs if isinstance(arg, Tensor) and not torch.equal(before, arg))
