"""The forward passes of a training step, recorded so that the loss can repeat each from the same state.

When the loss repeats a pass, a dropout mask is drawn from the same position of the random stream, and a hidden state, a
spectral norm or a running statistic is what it was before the pass and not after it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from gradguard.integrations.torch.replay.state import RandomStreams
from gradguard.integrations.torch.tensors import unit_roundoff
from gradguard.perturbation import Restore, Snapshot

MAX_FORWARDS = 256
"""Forward passes of one step that are recorded; of a longer step, the latest are."""
MAX_OUTPUT_SAMPLES = 64
"""Entries of an output that are compared with those of the repeated pass."""
OUTPUT_TOLERANCE = 1e-2
"""Relative distance of two outputs of one pass: another choice of kernels rounds differently."""
OUTPUT_TOLERANCE_IN_ROUNDOFFS = 64
"""The same in unit roundoffs of the output, where that is more: 0.25 in bfloat16."""


@dataclass(frozen=True)
class AutocastState:
    """The autocast of a forward pass.

    Attributes:
        device: The type of the device.
        dtype: The dtype that autocast converts to; None where it is off.
    """

    device: str
    dtype: torch.dtype | None

    @classmethod
    def current(cls, device: str) -> "AutocastState":
        """The autocast of this moment."""
        return cls(device, torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None)

    def enter_again(self) -> torch.autocast:
        """The same autocast, without its cache, which would return parameters from before they were perturbed."""
        return torch.autocast(self.device, dtype=self.dtype, enabled=self.dtype is not None, cache_enabled=False)


@dataclass(frozen=True)
class Forward:
    """One forward pass of the training.

    Attributes:
        restore: Restores the random streams, buffers, attributes and whatever else the pass started from.
        inputs: The tensors among its arguments, while they live, with their versions.
        outputs: For each floating tensor that it returned, some entries and the tolerance of their relative distance.
    """

    restore: Restore
    inputs: tuple[tuple["ref[Tensor]", int], ...]
    outputs: list[tuple[Tensor, float]] = field(default_factory=list)


class ForwardRecorder:
    """Records the forward passes of a module between two updates, and repeats their starting points for the loss.

    Args:
        module: The module that the training calls.
        capture: Captures everything that a forward pass starts from.
        streams: The random streams among that.
        device: The type of the device that the module computes on.

    Attributes:
        autocast: The autocast of the latest forward pass; None before the first one.
        is_outdated: Whether the parameters have been updated since the recorded forward passes.
    """

    def __init__(self, module: nn.Module, capture: Snapshot, streams: RandomStreams, device: str) -> None:
        self._capture = capture
        self._streams = streams
        self._device = device
        self._recorded: deque[Forward] = deque(maxlen=MAX_FORWARDS)
        self._is_step_over = False
        self._replay: Replay | None = None
        self.autocast: AutocastState | None = None
        self.is_outdated = False
        self._running: list[Forward] = []
        self._hooks = [
            module.register_forward_pre_hook(ForwardHook(self._before_forward), with_kwargs=True),
            module.register_forward_hook(ForwardHook(self._after_forward)),
        ]

    def stop(self) -> None:
        """Remove the hooks from the module."""
        for hook in self._hooks:
            hook.remove()

    def end_step(self) -> None:
        """Let the next forward pass begin a new step: the gradients of the recorded ones have been used."""
        self._is_step_over = True

    def end_step_by_update(self) -> None:
        """As `end_step`, after the optimizer has moved the parameters away from where the passes were made."""
        self.end_step()
        self.is_outdated = bool(self._recorded)

    @property
    def count(self) -> int:
        """The number of recorded forward passes since the last update."""
        return len(self._recorded)

    @contextmanager
    def replaying(self, skipped: int, *, compare: bool = False) -> Iterator["Replay"]:
        """Context of one evaluation of the loss: each forward pass in it starts where that of the training started.

        Args:
            skipped: How many of the first recorded passes the loss leaves out.
            compare: Whether to compare inputs, outputs and random draws with those of the training.
        """
        self._replay = Replay(list(self._recorded)[skipped:], self._streams if compare else None)
        try:
            yield self._replay
        finally:
            self._replay = None

    def _before_forward(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._replay is not None:
            self._replay.before_forward(args, kwargs)
        elif torch.is_grad_enabled():
            if self._is_step_over:
                self._recorded.clear()
                self._running.clear()
                self._is_step_over = self.is_outdated = False
            inputs = tuple((ref(tensor), _version(tensor)) for tensor in tensors_in((args, kwargs)))
            self.autocast = AutocastState.current(self._device)
            self._recorded.append(Forward(self._capture(), inputs))
            self._running.append(self._recorded[-1])

    def _after_forward(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if self._replay is not None:
            self._replay.after_forward(output)
        elif torch.is_grad_enabled() and self._running:
            samples = [(sample, output_tolerance(sample.dtype)) for sample in _output_samples(output)]
            self._running.pop().outputs.extend(samples)


class Replay:
    """One evaluation of the loss, with the forward passes that it repeats.

    Args:
        forwards: The recorded passes that the loss repeats, in order.
        streams: The random streams, where the evaluation is compared with the training; otherwise None.

    Attributes:
        calls: How often the loss has called the module so far.
        differing_inputs: The inputs that differ from those of the training, such as "input 1".
        output_distance: The largest relative distance of an output from the training's that is over its tolerance.
    """

    def __init__(self, forwards: list[Forward], streams: RandomStreams | None) -> None:
        self.calls = 0
        self.differing_inputs: list[str] = []
        self.output_distance = 0.0
        self._running: list[Forward | None] = []
        self._forwards = forwards
        self._streams = streams
        self._start = streams.positions() if streams is not None else []
        self._drew_before_module = False

    def before_forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Restore what the training's pass started from, as the loss calls the module."""
        position, self.calls = self.calls, self.calls + 1
        if self._streams is not None and position == 0:
            self._drew_before_module = self._has_drawn
        self._running.append(self._forwards[position] if position < len(self._forwards) else None)
        if position >= len(self._forwards):
            return
        if self._streams is not None:
            self.differing_inputs += _differing_inputs(self._forwards[position].inputs, tensors_in((args, kwargs)))
        self._forwards[position].restore()

    def after_forward(self, output: Any) -> None:
        """Compare an output of the module with that of the training."""
        forward = self._running.pop() if self._running else None
        if self._streams is not None and forward is not None:
            for (before, tolerance), now in zip(forward.outputs, _output_samples(output), strict=False):
                distance = relative_distance(before, now)
                self.output_distance = max(self.output_distance, distance if distance > tolerance else 0.0)

    @property
    def draws_outside_module(self) -> bool:
        """Whether the loss draws random numbers before it calls the module, or without calling it."""
        return self._drew_before_module if self.calls else self._has_drawn

    @property
    def _has_drawn(self) -> bool:
        now = self._streams.positions() if self._streams is not None else []
        return not all(torch.equal(before, after) for before, after in zip(self._start, now, strict=True))


class ForwardHook:
    """A forward hook of a module; in a copy of the module, or a saved one, it does nothing.

    Args:
        callback: What a forward pass calls.
    """

    def __init__(self, callback: Callable[[nn.Module, tuple[Any, ...], Any], None]) -> None:
        self._callback = callback

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # it is not part of the compiled module
    def __call__(self, module: nn.Module, args: tuple[Any, ...], more: Any = None) -> None:  # noqa: D102 - as a module calls it
        self._callback(module, args, more)

    def __reduce__(self) -> tuple[Any, ...]:
        # A function of the standard library that takes three arguments and does nothing, so that a saved model loads
        # where gradguard is not installed.
        return getattr, (nullcontext(), "__exit__")


def tensors_in(inputs: object) -> list[Tensor]:
    """The tensors among nested inputs, in order."""
    if isinstance(inputs, Tensor):
        return [inputs]
    items = inputs.values() if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple | list) else ()
    return [tensor for item in items for tensor in tensors_in(item)]


def _output_samples(output: Any) -> list[Tensor]:
    """Up to `MAX_OUTPUT_SAMPLES` entries of each floating tensor in an output, evenly spaced."""
    flat = [
        tensor.detach().reshape(-1) for tensor in tensors_in(output) if tensor.is_floating_point() and tensor.numel()
    ]
    return [values[:: -(-values.numel() // MAX_OUTPUT_SAMPLES)].clone() for values in flat]


def output_tolerance(dtype: torch.dtype) -> float:
    """The relative distance of two outputs of one computation that another choice of kernels explains."""
    return max(OUTPUT_TOLERANCE, OUTPUT_TOLERANCE_IN_ROUNDOFFS * unit_roundoff(dtype))


def relative_distance(before: Tensor, now: Tensor) -> float:
    """The distance of two tensors relative to the size of the first; 1 where the shapes differ."""
    if before.shape != now.shape:
        return 1.0
    before, now = before.double(), now.double()
    return float((now - before).norm() / before.norm()) if before.norm() > 0 else float(now.norm() > 0)


def _differing_inputs(before: Iterable[tuple["ref[Tensor]", int]], now: list[Tensor]) -> list[str]:
    """The inputs that differ, such as "input 1", each with the reason where that is known."""
    pairs = zip(((reference(), version) for reference, version in before), now, strict=False)
    return [
        f"input {i}{'' if old is not new else ', which was changed in place since'}"
        for i, ((old, version), new) in enumerate(pairs)
        if old is not None and not _is_same(old, version, new)
    ]


def _is_same(old: Tensor, version: int, new: Tensor) -> bool:
    if old is new:
        return _version(new) == version
    return old.shape == new.shape and old.device == new.device and torch.equal(old, new.to(old.dtype))


def _version(tensor: Tensor) -> int:
    """How often a tensor has been written to, as far as PyTorch counts it."""
    return 0 if tensor.is_inference() else tensor._version
