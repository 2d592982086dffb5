"""What a forward pass may change beside its result: random streams, buffers, hidden states; captured and put back."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gradguard.perturbation.snapshots import Restore

PLAIN = (int, float, type(None))  # attributes that count steps, or hold a state from the second step on
INTERNAL = frozenset(nn.Module().__dict__)
MISSING = object()


class Streams:
    """The random streams of PyTorch that a forward pass may draw from, on each device.

    Args:
        devices: Where the parameters are.
    """

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._devices = sorted({device for device in devices if device.type == "cuda"}, key=str)

    def capture(self) -> Restore:
        """Remember where each stands."""
        drawn = self.positions()

        def restore() -> None:
            torch.set_rng_state(drawn[0])
            for device, state in zip(self._devices, drawn[1:], strict=True):
                torch.cuda.set_rng_state(state, device)

        return restore

    def positions(self) -> list[Tensor]:
        """Where each stands, that of the CPU first."""
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self._devices)]


class Carried:
    """Buffers and plain attributes of a module and its parts: running statistics, hidden states, counters.

    Most never change, and which do is found out once: to copy them before each forward pass costs little then.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._first: list[_Slot] | None = None
        self._changing: list[tuple[dict[str, Any], str]] | None = None

    def capture_all(self) -> Restore:
        """Remember all of them."""
        return _restoring([_Slot(owner, name) for owner, name in self._everything()])

    def capture(self) -> Restore:
        """Remember those that forward passes change; all of them, until that is known."""
        which = self._everything() if self._changing is None else self._changing
        slots = [_Slot(owner, name) for owner, name in which if not _is_of_a_graph(owner.get(name))]
        if self._changing is None and self._first is None:
            self._first = slots
        return _restoring(slots)

    def learn(self) -> None:
        """See which have changed since the first capture, once a forward pass has followed it."""
        if self._changing is None and self._first is not None:
            known = {(id(slot.owner), slot.name) for slot in self._first}
            fresh = [(owner, name) for owner, name in self._everything() if (id(owner), name) not in known]
            self._changing = [(slot.owner, slot.name) for slot in self._first if slot.is_changed] + fresh
            self._first = None

    def _everything(self) -> Iterator[tuple[dict[str, Any], str]]:
        for part in self._module.modules():
            yield from ((part._buffers, name) for name in part._buffers)
            for name, value in part.__dict__.items():
                if name not in INTERNAL and _is_state(value):
                    yield part.__dict__, name


class _Slot:
    """One buffer or attribute: what it was, and the numbers that it held."""

    def __init__(self, owner: dict[str, Any], name: str) -> None:
        self.owner = owner
        self.name = name
        self._value = owner.get(name, MISSING)
        kept = _tensors(self._value) if not _is_of_a_graph(self._value) else []
        self._contents = [(tensor, tensor.detach().clone()) for tensor in kept]

    @property
    def is_changed(self) -> bool:
        """Whether it is another object or another number by now, or holds other numbers."""
        value = self.owner.get(self.name, MISSING)
        if value is not self._value:
            return not isinstance(value, int | float) or value != self._value
        return not all(torch.equal(tensor, saved) for tensor, saved in self._contents)

    def restore(self) -> None:
        """Put both back."""
        if self._value is MISSING:
            self.owner.pop(self.name, None)
            return
        self.owner[self.name] = self._value
        for tensor, saved in self._contents:
            tensor.data.copy_(saved)


def _restoring(slots: Iterable[_Slot]) -> Restore:
    slots = list(slots)

    def restore() -> None:
        for slot in slots:
            slot.restore()

    return restore


def _is_state(value: object) -> bool:
    if isinstance(value, tuple | list):
        return bool(value) and all(isinstance(item, Tensor) and not isinstance(item, nn.Parameter) for item in value)
    return (isinstance(value, Tensor) and not isinstance(value, nn.Parameter)) or (
        isinstance(value, PLAIN) and not isinstance(value, bool)
    )


def _is_of_a_graph(value: object) -> bool:
    """Whether autograd made it: an output that is kept to be looked at, and no state to start from."""
    return any(tensor.grad_fn is not None for tensor in _tensors(value))


def _tensors(value: object) -> list[Tensor]:
    items = value if isinstance(value, tuple | list) else [value]
    return [item for item in items if isinstance(item, Tensor)]
