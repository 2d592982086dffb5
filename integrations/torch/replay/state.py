"""What a forward pass may change besides its result: random streams, buffers, hidden states; captured and restored."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gradguard.perturbation import Restore

PLAIN_STATE_TYPES = (int, float, type(None))
"""Attributes that count steps, or that become a hidden state at the second step."""
MODULE_INTERNALS = frozenset(nn.Module().__dict__)
"""Attributes that every module has."""
MISSING = object()
"""The value of an attribute that does not exist."""


class RandomStreams:
    """The random streams of PyTorch from which a forward pass may draw.

    Args:
        devices: The devices of the parameters.
    """

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._devices = sorted({device for device in devices if device.type == "cuda"}, key=str)

    def capture(self) -> Restore:
        """Remember the positions of all streams."""
        positions = self.positions()

        def restore() -> None:
            torch.set_rng_state(positions[0])
            for device, state in zip(self._devices, positions[1:], strict=True):
                torch.cuda.set_rng_state(state, device)

        return restore

    def positions(self) -> list[Tensor]:
        """The state of each stream, that of the CPU first."""
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self._devices)]


class ModuleState:
    """The buffers and plain attributes of a module and its parts: running statistics, hidden states, counters.

    Most of them never change. The first training step shows which do, and later captures copy only these.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._first_slots: list[_Slot] | None = None
        self._changing: list[tuple[dict[str, Any], str]] | None = None  # None until `learn_changing` knows

    def capture_all(self) -> Restore:
        """Remember all buffers and attributes."""
        return _restore_all([_Slot(owner, name) for owner, name in self._locations()])

    def capture(self) -> Restore:
        """Remember the buffers and attributes that forward passes change; all of them until these are known."""
        locations = self._locations() if self._changing is None else self._changing
        slots = [_Slot(owner, name) for owner, name in locations if not _has_graph(owner.get(name))]
        if self._changing is None and self._first_slots is None:
            self._first_slots = slots
        return _restore_all(slots)

    def learn_changing(self) -> None:
        """Find what has changed since the first capture; call it after a forward pass."""
        if self._changing is None and self._first_slots is not None:
            known = {(id(slot.owner), slot.name) for slot in self._first_slots}
            new = [(owner, name) for owner, name in self._locations() if (id(owner), name) not in known]
            self._changing = [(slot.owner, slot.name) for slot in self._first_slots if slot.is_changed] + new
            self._first_slots = None

    def _locations(self) -> Iterator[tuple[dict[str, Any], str]]:
        """The dict that holds each buffer or attribute, and its name there."""
        for part in self._module.modules():
            yield from ((part._buffers, name) for name in part._buffers)
            for name, value in part.__dict__.items():
                if name not in MODULE_INTERNALS and _is_state(value):
                    yield part.__dict__, name


class _Slot:
    """One buffer or attribute, with the object it was and the numbers that this held."""

    def __init__(self, owner: dict[str, Any], name: str) -> None:
        self.owner = owner
        self.name = name
        self._value = owner.get(name, MISSING)
        tensors = _tensors(self._value) if not _has_graph(self._value) else []
        self._contents = [(tensor, tensor.detach().clone()) for tensor in tensors]

    @property
    def is_changed(self) -> bool:
        """Whether it is now another object or another number, or holds other numbers."""
        value = self.owner.get(self.name, MISSING)
        if value is not self._value:
            return not isinstance(value, int | float) or value != self._value
        return not all(torch.equal(tensor, saved) for tensor, saved in self._contents)

    def restore(self) -> None:
        """Restore the object and its numbers."""
        if self._value is MISSING:
            self.owner.pop(self.name, None)
            return
        self.owner[self.name] = self._value
        for tensor, saved in self._contents:
            tensor.data.copy_(saved)


def _restore_all(slots: Iterable[_Slot]) -> Restore:
    slots = list(slots)

    def restore() -> None:
        for slot in slots:
            slot.restore()

    return restore


def _is_state(value: object) -> bool:
    if isinstance(value, tuple | list):
        return bool(value) and all(isinstance(item, Tensor) and not isinstance(item, nn.Parameter) for item in value)
    return (isinstance(value, Tensor) and not isinstance(value, nn.Parameter)) or (
        isinstance(value, PLAIN_STATE_TYPES) and not isinstance(value, bool)
    )


def _has_graph(value: object) -> bool:
    """Whether autograd made the value: an output that is kept to be looked at, and not a state to start from."""
    return any(tensor.grad_fn is not None for tensor in _tensors(value))


def _tensors(value: object) -> list[Tensor]:
    items = value if isinstance(value, tuple | list) else [value]
    return [item for item in items if isinstance(item, Tensor)]
