"""The forward passes of the training, so that the loss starts each anew from what the gradient was computed with.

A dropout mask is drawn from where the random stream stood then, and a hidden state, a spectral norm or a statistic is
what it was before the forward pass, not after it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from gradguard.integrations.torch.replay.state import Streams
from gradguard.perturbation.snapshots import Restore, Snapshot

REMEMBERED = 256  # forward passes
SAMPLED = 64  # numbers of an output
ALIKE = 1e-2  # relative distance between outputs of one forward pass: kernels may round differently
ALIKE_IN_ROUNDOFFS = 64


@dataclass(frozen=True)
class Autocast:
    """What a forward pass cast to; nothing where `dtype` is None."""

    device: str
    dtype: torch.dtype | None

    @classmethod
    def current(cls, device: str) -> "Autocast":
        """As it is here."""
        return cls(device, torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None)

    def again(self) -> torch.autocast:
        """The same; without its cache, which would hold parameters as they were before they moved."""
        return torch.autocast(self.device, dtype=self.dtype, enabled=self.dtype is not None, cache_enabled=False)


@dataclass(frozen=True)
class Forward:
    """One forward pass of the training.

    Attributes:
        restore: Puts back the random streams, buffers, attributes and whatever else it started from.
        inputs: The tensors that it was called with, while they live.
        outputs: Some numbers of each tensor that it returned, and how far from them the same pass may end up.
    """

    restore: Restore
    inputs: tuple["ref[Tensor]", ...]
    outputs: list[tuple[Tensor, float]] = field(default_factory=list)


class Forwards:
    """What the module is called with between two updates, and the same once more for the loss.

    Args:
        module: The module that the training calls.
        capture: Remembers all that it starts from.
        streams: The random streams among that.
        device: The type of the device that it computes on.
    """

    def __init__(self, module: nn.Module, capture: Snapshot, streams: Streams, device: str) -> None:
        self._capture = capture
        self._streams = streams
        self._device = device
        self._seen: deque[Forward] = deque(maxlen=REMEMBERED)
        self._is_over = False
        self._replay: Replay | None = None
        self.autocast: Autocast | None = None
        self._running: list[Forward] = []
        self._hooks = [
            module.register_forward_pre_hook(Hook(self.called), with_kwargs=True),
            module.register_forward_hook(Hook(self.returned)),
        ]

    def stop(self) -> None:
        """See nothing more."""
        for hook in self._hooks:
            hook.remove()

    def over(self) -> None:
        """The gradients of these have been used: the next one begins a new step."""
        self._is_over = True

    def called(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The module is called: by the training, or once more by the loss."""
        if self._replay is not None:
            self._replay.called(args, kwargs)
        elif torch.is_grad_enabled():
            if self._is_over:
                self._seen.clear()
                self._running.clear()
                self._is_over = False
            inputs = tuple(ref(tensor) for tensor in _tensors((args, kwargs)))
            self.autocast = Autocast.current(self._device)
            self._seen.append(Forward(self._capture(), inputs))
            self._running.append(self._seen[-1])

    def returned(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        """The module returns."""
        if self._replay is not None:
            self._replay.returned(output)
        elif torch.is_grad_enabled() and self._running:
            self._running.pop().outputs.extend((numbers, _alike(numbers.dtype)) for numbers in _sampled(output))

    @contextmanager
    def again(self, skipped: int, *, closely: bool = False) -> Iterator["Replay"]:
        """While the loss runs, each forward pass starts from what that of the training started from.

        Args:
            skipped: How many of the first ones the loss leaves out.
            closely: Whether to look for signs that the loss is not the one that the gradient is of.
        """
        self._replay = Replay(list(self._seen)[skipped:], self._streams if closely else None)
        try:
            yield self._replay
        finally:
            self._replay = None

    @property
    def count(self) -> int:
        """How many forward passes there were since the last update."""
        return len(self._seen)


class Replay:
    """One evaluation of the loss.

    Attributes:
        calls: How often it has called the module so far.
        differing: Inputs of its forward passes that are not those of the training, in words.
        astray: The largest relative distance of an output from that of the training.
    """

    def __init__(self, forwards: list[Forward], streams: Streams | None) -> None:
        self.calls = 0
        self.differing: list[str] = []
        self.astray = 0.0
        self._running: list[Forward | None] = []
        self._forwards = forwards
        self._streams = streams
        self._start = streams.positions() if streams is not None else []
        self._drawn_early = False

    def called(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The loss calls the module."""
        place, self.calls = self.calls, self.calls + 1
        if self._streams is not None and place == 0:
            self._drawn_early = self._has_drawn
        self._running.append(self._forwards[place] if place < len(self._forwards) else None)
        if place >= len(self._forwards):
            return
        if self._streams is not None:
            self.differing += _differing(self._forwards[place].inputs, _tensors((args, kwargs)))
        self._forwards[place].restore()

    def returned(self, output: Any) -> None:
        """The module returns."""
        forward = self._running.pop() if self._running else None
        if self._streams is not None and forward is not None:
            for (was, alike), it in zip(forward.outputs, _sampled(output), strict=False):
                distance = _distance(was, it)
                self.astray = max(self.astray, distance if distance > alike else 0.0)

    @property
    def draws_elsewhere(self) -> bool:
        """Whether it draws random numbers before it calls the module, or without calling it."""
        return self._drawn_early if self.calls else self._has_drawn

    @property
    def _has_drawn(self) -> bool:
        now = self._streams.positions() if self._streams is not None else []
        return not all(torch.equal(before, after) for before, after in zip(self._start, now, strict=True))


class Hook:
    """What the module calls with each forward pass; a copy of the module, or a saved one, calls nothing."""

    def __init__(self, tell: Callable[[nn.Module, tuple[Any, ...], Any], None]) -> None:
        self._tell = tell

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # it is no part of what is compiled
    def __call__(self, module: nn.Module, args: tuple[Any, ...], more: Any = None) -> None:  # noqa: D102 - as a module calls it
        self._tell(module, args, more)

    def __reduce__(self) -> tuple[Any, ...]:
        # What a saved model is loaded with where gradguard is not installed: it takes three things and does nothing.
        return getattr, (nullcontext(), "__exit__")


def _tensors(inputs: object) -> list[Tensor]:
    """The tensors among nested inputs, in order."""
    if isinstance(inputs, Tensor):
        return [inputs]
    items = inputs.values() if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple | list) else ()
    return [tensor for item in items for tensor in _tensors(item)]


def _sampled(output: Any) -> list[Tensor]:
    flat = [tensor.detach().reshape(-1) for tensor in _tensors(output) if tensor.is_floating_point() and tensor.numel()]
    return [values[:: -(-values.numel() // SAMPLED)].clone() for values in flat]


def _alike(dtype: torch.dtype) -> float:
    return max(ALIKE, ALIKE_IN_ROUNDOFFS * torch.finfo(dtype).eps / 2)


def _distance(was: Tensor, it: Tensor) -> float:
    if was.shape != it.shape:
        return 1.0
    before, now = was.double(), it.double()
    return float((now - before).norm() / before.norm()) if before.norm() > 0 else float(now.norm() > 0)


def _differing(before: Iterable["ref[Tensor]"], now: list[Tensor]) -> list[str]:
    pairs = zip((reference() for reference in before), now, strict=False)
    return [f"input {place}" for place, (was, it) in enumerate(pairs) if was is not None and not _same(was, it)]


def _same(was: Tensor, it: Tensor) -> bool:
    if was is it:
        return True
    return was.shape == it.shape and was.device == it.device and torch.equal(was, it.to(was.dtype))
