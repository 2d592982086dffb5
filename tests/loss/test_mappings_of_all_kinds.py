"""Whatever a mapping does of its own, a check leaves it and its arrays as they were, or refuses it before it moves."""

from collections import ChainMap, OrderedDict, UserDict, defaultdict
from collections.abc import Iterator, MutableMapping
from typing import Any

import numpy as np
import pytest
from small_lstm import Params, agrees, small

from gradguard import GradGuard, check


class WritingUpdate(dict[str, Any]):
    """`update` writes into the arrays."""

    def update(self, other: Any) -> None:  # type: ignore[override]
        """Write each."""
        for name, value in other.items():
            self[name][...] = value


class RaisingUpdate(dict[str, Any]):
    """`update` is not for parameters."""

    def update(self, *_: Any) -> None:
        """Refuse."""
        raise AssertionError


class CopyingGet(dict[str, Any]):
    """Nobody shall write to the parameters by accident."""

    def __getitem__(self, name: str) -> Any:
        return super().__getitem__(name).copy()


class ViewingGet(dict[str, Any]):
    """Hands out views."""

    def __getitem__(self, name: str) -> Any:
        return super().__getitem__(name)[...]


class CopyingItems(dict[str, Any]):
    """`items` hands out copies."""

    def items(self) -> Any:
        """Names and copies."""
        return {name: self[name].copy() for name in self}.items()


class CopyingSet(dict[str, Any]):
    """Keeps float32 copies of what is assigned."""

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value.astype(np.float32))


class WritingSet(dict[str, Any]):
    """Writes what is assigned into the array."""

    def __setitem__(self, name: str, value: Any) -> None:
        self[name][...] = value


class RaisingSet(dict[str, Any]):
    """Names cannot be bound anew."""

    def __setitem__(self, name: str, value: Any) -> None:
        raise TypeError(name)


class CountingGet(dict[str, Any]):
    """Counts how often it is read."""

    reads = 0

    def __getitem__(self, name: str) -> Any:
        self.reads += 1
        return super().__getitem__(name)


class UserDictOfCopies(UserDict[str, Any]):
    """A `UserDict` around a dict that hands out copies."""

    def __init__(self, arrays: Params) -> None:
        super().__init__()
        self.data = CopyingGet(arrays)


class UserDictThatCopies(UserDict[str, Any]):
    """A `UserDict` that hands out copies itself."""

    def __getitem__(self, name: str) -> Any:
        return self.data[name].copy()


class Attributes(MutableMapping[str, Any]):
    """The attributes of an object."""

    def __init__(self, arrays: Params) -> None:
        self.__dict__.update(arrays)

    def __getitem__(self, name: str) -> Any:
        return self.__dict__[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.__dict__[name] = value

    def __delitem__(self, name: str) -> None:
        del self.__dict__[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __len__(self) -> int:
        return len(self.__dict__)


class OneBlock(MutableMapping[str, Any]):
    """Views of one block of memory, made at each access."""

    def __init__(self, arrays: Params) -> None:
        self.shapes = {name: array.shape for name, array in arrays.items()}
        self.block = np.concatenate([array.reshape(-1) for array in arrays.values()])

    def __getitem__(self, name: str) -> Any:
        start = 0
        for other, shape in self.shapes.items():
            size = int(np.prod(shape))
            if other == name:
                return self.block[start : start + size].reshape(shape)
            start += size
        raise KeyError(name)

    def __setitem__(self, name: str, value: Any) -> None:
        self[name][...] = value

    def __delitem__(self, name: str) -> None:
        raise TypeError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


PLAIN = [dict, OrderedDict, UserDict, lambda arrays: defaultdict(list, arrays)]
OWN = [
    WritingUpdate, RaisingUpdate, CopyingGet, ViewingGet, CopyingItems, CopyingSet, WritingSet, RaisingSet, CountingGet,
    UserDictOfCopies, UserDictThatCopies, Attributes, OneBlock, ChainMap,
]  # fmt: skip


def held(params: Any) -> list[Any]:
    """The arrays that a mapping holds, behind all ways of its own."""
    if isinstance(params, OneBlock):
        return [params.block]
    if isinstance(params, Attributes):
        return list(vars(params).values())
    if isinstance(params, ChainMap):
        return list(params.maps[0].values())
    return list(dict.values(params.data if isinstance(params, UserDict) else params))


@pytest.mark.parametrize("precision", ["auto", "native", "float64"])
@pytest.mark.parametrize("make", [*PLAIN, *OWN])
def test_the_mapping_holds_the_same_arrays_with_the_same_bits_afterwards(make: Any, precision: str) -> None:
    """An optimizer that holds the arrays goes on training the model; a correct gradient is no bug."""
    model, batch, grads = small()
    params = make(dict(model.params))
    arrays, bits = held(params), [array.tobytes() for array in held(params)]
    try:
        report = check(params, grads, lambda: model.loss(batch, params), precision=precision)
    except (TypeError, ValueError) as refused:
        is_told = "params" in str(refused)
        assert is_told or precision == "float64"
    else:
        assert agrees(report)
    assert all(now is before for now, before in zip(held(params), arrays, strict=True))
    assert [array.tobytes() for array in arrays] == bits


@pytest.mark.parametrize("make", PLAIN)
def test_plain_mappings_are_measured_in_float64(make: Any) -> None:
    """Where items are what was assigned, they can be swapped."""
    model, batch, grads = small()
    params = make(dict(model.params))
    assert check(params, grads, lambda: model.loss(batch, params)).precision == "float64"


@pytest.mark.parametrize("make", OWN)
def test_a_wrong_gradient_is_found_whatever_the_mapping(make: Any) -> None:
    """Or the mapping is refused in words."""
    model, batch, grads = small()
    params = make(dict(model.params))
    try:
        report = check(params, grads | {"V": 3 * grads["V"]}, lambda: model.loss(batch, params))
    except TypeError as refused:
        assert make is CopyingItems or make is UserDictThatCopies or make is UserDictOfCopies
        assert "another array for" in str(refused)  # noqa: PT017
    else:
        assert report.tensors["V"].verdict == "scale"


@pytest.mark.parametrize("make", [CopyingItems, UserDictThatCopies])
def test_a_mapping_of_fresh_copies_needs_a_loss_that_takes_the_parameters(make: Any) -> None:
    """It is refused at the first check by the name of a tensor, and no matter with loss(params)."""
    model, batch, grads = small()
    params = make(dict(model.params))
    guard = GradGuard(params, lambda: model.loss(batch, params), every_n_steps=1)
    with pytest.raises(TypeError, match=r"'Wx' at each access.*loss\(params\)"):
        guard.after_backward(0, grads)
    assert agrees(check(params, grads, lambda given: model.loss(batch, given)))
