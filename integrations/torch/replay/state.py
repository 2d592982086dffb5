"""What a forward pass may change besides its result: random streams, buffers, hidden states; captured and restored."""

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from gradguard.environment import HeldDict, Restorable
from gradguard.integrations.torch.replay.saved import (
    MODULE_INTERNALS,
    HeldTensor,
    Walk,
    is_object_of_user,
    restore_all,
)
from gradguard.integrations.torch.tensors import checksum
from gradguard.perturbation import Restore

MAX_FROZEN_BYTES = 2**28
"""Memory for copies of frozen parameters, 256 MiB: where they take more, only those that a step changes are copied."""
MAX_STATES = 16
"""Items of a container whose numbers are saved at each step; a longer one is a record, to which steps only append."""
STEPS_TO_LEARN = 3
"""Steps after which it is known what they change: an average of the weights moves only once the weights have."""
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
    """What forward passes change in a module, its parts and other objects.

    That is buffers, attributes, the containers and objects that these hold, and frozen parameters, such as an average
    of the weights. Most of it never changes. The first steps show what does, and later captures of a step copy only
    that. What begins to change later is found at the next check.

    Args:
        module: The module.
        checked: The parameters that a check moves.
        others: Other objects whose attributes a training step changes, such as the trainer that makes it.
        data: Objects that no step changes, into which nothing looks.
    """

    def __init__(
        self,
        module: nn.Module,
        checked: Collection[Tensor] = (),
        others: Collection[object] = (),
        data: Collection[object] = (),
    ) -> None:
        self._module = module
        self._checked = checked
        self._others = others
        self._data = data
        self._first_slots: list[_Slot] | None = None
        self._steps_to_learn = STEPS_TO_LEARN
        self._changing: dict[tuple[int, str], dict[str, Any]] = {}  # by the id of the owner and the name: the owner
        self._traces: dict[tuple[int, str], object] = {}

    def capture_all(self) -> Restore:
        """Remember everything, at a check; it also finds what has begun to change since the last one."""
        if not self._steps_to_learn:
            self._learn_later_changes()
        walk = Walk(self._addresses, self._data)
        saved = [each for root in (self._module, *self._others) for each in _of_root(walk, root)]
        frozen = self._frozen()
        if not _is_affordable(frozen):
            frozen = [tensor for tensor in self.written() if _is_frozen(tensor)]
        return restore_all([*saved, *map(HeldTensor, frozen)])

    def capture(self) -> Restore:
        """Remember what forward passes change; everything until this is known."""
        walk = Walk(self._addresses, [*self._module.modules(), *self._data], max_items=MAX_STATES)
        is_known = not self._steps_to_learn
        locations = [(owner, name) for (_, name), owner in self._changing.items()] if is_known else self._locations()
        copied = is_known or _is_affordable(self._frozen())
        kept = [(owner, name) for owner, name in locations if not _has_graph(owner.get(name))]
        slots = [_Slot(owner, name, walk, frozen_is_copied=copied) for owner, name in kept]
        if self._first_slots is None and not is_known:
            self._first_slots = slots
        return restore_all(slots)

    def learn_changing(self) -> None:
        """Find what has changed since the first capture; call it after the forward passes of a step."""
        if self._first_slots is not None:
            known = {(id(slot.owner), slot.name) for slot in self._first_slots}
            changed = (slot for slot in self._first_slots if slot.is_changed())
            self._changing |= {(id(slot.owner), slot.name): slot.owner for slot in changed}
            new = ((owner, name) for owner, name in self._locations() if (id(owner), name) not in known)
            self._changing |= {(id(owner), name): owner for owner, name in new}
            self._steps_to_learn -= 1
            if not self._steps_to_learn:
                self._first_slots = None

    def written(self) -> list[Tensor]:
        """The buffers, and the frozen parameters that forward passes are known to change."""
        changing = [owner.get(name) for (_, name), owner in self._changing.items()]
        return [*self._module.buffers(), *(value for value in changing if _is_frozen(value))]

    def constant(self) -> list[Tensor]:
        """The parameters that are not checked and need only one copy, since forward passes do not change them."""
        moved = [*self._checked, *(self._frozen() if _is_affordable(self._frozen()) else self.written())]
        known = set(map(id, moved))
        return [tensor for tensor in self._module.parameters() if id(tensor) not in known]

    def _learn_later_changes(self) -> None:
        """Compare the traces of what is not known to change with those at the last call."""
        owners = {(id(owner), name): owner for owner, name in self._locations()}
        unknown = {key: owner[key[1]] for key, owner in owners.items() if key not in self._changing}
        summed = _is_affordable(self._frozen())
        traces = {key: _trace(value, frozen_is_summed=summed) for key, value in unknown.items()}
        if self._traces:
            changed = (key for key, trace in traces.items() if self._traces.get(key, MISSING) != trace)
            self._changing |= {key: owners[key] for key in changed}
        self._traces = traces

    def _locations(self) -> Iterator[tuple[dict[str, Any], str]]:
        """The dict that holds each buffer, attribute or frozen parameter, and its name there."""
        for part in self._module.modules():
            yield from ((part._buffers, name) for name in part._buffers)
            yield from ((part._parameters, name) for name, value in part._parameters.items() if _is_frozen(value))
            yield from ((part.__dict__, name) for name in part.__dict__ if name not in MODULE_INTERNALS)
        yield from ((vars(other), name) for other in self._others for name in vars(other))

    def _frozen(self) -> list[Tensor]:
        return [tensor for tensor in self._module.parameters() if _is_frozen(tensor)]

    @property
    def _addresses(self) -> set[int]:
        return {_address(tensor) for tensor in self._checked}


class _Slot:
    """One buffer, attribute or frozen parameter: the object it was, and what this held."""

    def __init__(self, owner: dict[str, Any], name: str, walk: Walk, frozen_is_copied: bool) -> None:
        self.owner = owner
        self.name = name
        self._value = owner.get(name, MISSING)
        if _is_frozen(self._value):
            self._contents: list[Restorable] = [(HeldTensor if frozen_is_copied else _HeldChecksum)(self._value)]
        else:
            self._contents = list(walk.contents(self._value))

    def is_changed(self) -> bool:
        """Whether it is now another object or another number, or holds other things."""
        value = self.owner.get(self.name, MISSING)
        if value is not self._value:
            return not isinstance(value, int | float | str) or value != self._value
        return any(held.is_changed() for held in self._contents)

    def put_back(self) -> None:
        """Restore the object and what it held."""
        if self._value is MISSING:
            self.owner.pop(self.name, None)
            return
        if self.owner.get(self.name, MISSING) is not self._value:
            self.owner[self.name] = self._value
        restore_all(self._contents)()


class _HeldChecksum:
    """The checksum of a tensor that is too large to be copied before it is known to change."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._checksum = checksum(tensor)

    def is_changed(self) -> bool:
        """Whether any bit is another one."""
        return checksum(self._tensor) != self._checksum

    def put_back(self) -> None:
        """Nothing: there is no copy."""


def _of_root(walk: Walk, root: object) -> Iterator[Restorable]:
    """What can be changed in an object that was given, also where it is of a library."""
    yield from walk.contents(root)
    if not isinstance(root, nn.Module) and not is_object_of_user(root):
        yield HeldDict(vars(root))
        for value in list(vars(root).values()):
            yield from walk.contents(value)


def _trace(value: object, *, frozen_is_summed: bool) -> object:
    """What differs where a value has changed: few writes through `data`, and nothing deep within a container, show."""
    if frozen_is_summed and _is_frozen(value):
        return checksum(value)
    if isinstance(value, Tensor):
        return id(value), None if value.is_inference() else value._version
    if isinstance(value, int | float | str | None):
        return value
    return id(value), len(value) if isinstance(value, dict | list | deque | set) else None


def _address(tensor: Tensor) -> int:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.untyped_storage().data_ptr()


def _is_frozen(value: object) -> TypeGuard[nn.Parameter]:
    return type(value) is nn.Parameter and not value.requires_grad and value.layout is torch.strided


def _is_affordable(tensors: Collection[Tensor]) -> bool:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) <= MAX_FROZEN_BYTES


def _has_graph(value: object) -> bool:
    """Whether autograd made the value: an output that is kept to be looked at, and not a state to start from."""
    items = value if isinstance(value, tuple | list) else [value]
    return any(isinstance(item, Tensor) and item.grad_fn is not None for item in items)
