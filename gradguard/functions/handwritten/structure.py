"""What goes into a function and comes out of it: arrays by name, in containers of any form."""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np

from gradguard.arrays import Array
from gradguard.containers import Container, is_container
from gradguard.report import counted, listed

NO_COTANGENT_PREFIX = ("data", "delta", "derivative", "diff", "downstream")  # names of which the d belongs to the word


def is_floating(value: object) -> bool:
    """Whether a value is an array of floating-point numbers, of NumPy or of something that NumPy can read."""
    if isinstance(value, np.generic | Number) or not hasattr(value, "__array__"):
        return False
    dtype = getattr(value, "dtype", None)
    return isinstance(dtype, np.dtype) and np.issubdtype(dtype, np.floating)


def with_arrays(value: Any, name: str, arrays: Mapping[str, Any]) -> Any:
    """A value of the same form, in which the arrays of some names are replaced by others; all else is as it was."""
    if not is_container(value):
        return arrays.get(name, value)
    if isinstance(value, Mapping):
        entries = {key: with_arrays(item, f"{name}.{key}", arrays) for key, item in value.items()}
        if not isinstance(value, MutableMapping):
            return entries
        filled: Any = copy.copy(value)  # a subclass may give access by attributes
        filled.update(entries)
        return filled
    items = [with_arrays(item, f"{name}.{index}", arrays) for index, item in enumerate(value)]
    if isinstance(value, list):
        return items
    return type(value)(*items) if hasattr(value, "_fields") else tuple(items)


def floating_leaves(named: Mapping[Any, object]) -> dict[str, Array]:
    """The arrays of floating-point numbers in some named values, by names that are joined with "."."""
    return {name: leaf for name, leaf in Container(named, "inputs").items() if is_floating(leaf)}


def copied_array(array: Any) -> Array:
    """A copy as an array of NumPy, of the same subclass: a check refuses those that compute in their own way."""
    return np.array(array, subok=True)


def copied(values: Sequence[object]) -> tuple[Any, ...]:
    """The values with copies of all their arrays."""
    named = {str(index): value for index, value in enumerate(values)}
    copies = {name: copied_array(leaf) for name, leaf in Container(named).items() if hasattr(leaf, "__array__")}
    return tuple(with_arrays(value, name, copies) for name, value in named.items())


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of one call of a function.

    Attributes:
        values: By name, in order, as the user passed them.
        arrays: Copies of the floating-point arrays in them, by names such as "x" and "params.W".
    """

    values: Mapping[str, Any]
    arrays: Mapping[str, Array]

    @classmethod
    def of(
        cls, values: Sequence[object], names: Sequence[str], copy_of: Callable[[Array], Array] = copied_array
    ) -> "Inputs":
        """The inputs with these names.

        Args:
            values: As the user passed them.
            names: Their names.
            copy_of: Copies an array.

        Raises:
            TypeError: One is a PyTorch tensor.
        """
        named = dict(zip(names, values, strict=True))
        for name, value in named.items():
            if type(value).__module__.partition(".")[0] == "torch":
                raise TypeError(
                    f"input {name!r} is a PyTorch {type(value).__name__}; expected NumPy arrays, or arrays that NumPy "
                    "can read: wrap forward and backward in functions that take tensor.numpy() and return it"
                )
        return cls(named, {name: copy_of(leaf) for name, leaf in floating_leaves(named).items()})

    def replaced(self, arrays: Mapping[str, Array]) -> "Inputs":
        """The inputs with other arrays in place of some that are arrays themselves; the others are shared."""
        copies = {name: copied_array(array) for name, array in arrays.items() if is_floating(array)}
        return Inputs({**self.values, **arrays}, {**self.arrays, **copies})

    def filled(self, arrays: Mapping[str, Any]) -> tuple[Any, ...]:
        """The values with other arrays, each in a copy of its own, since a function may write to what it is given."""
        held = {name: arrays[name].copy() for name in self.arrays}
        return tuple(
            with_arrays(value, name, held) if self.holds_arrays(name) else value for name, value in self.values.items()
        )

    def holds_arrays(self, name: str) -> bool:
        """Whether an input is a floating-point array, or a container of some."""
        return name in self.arrays or any(leaf.startswith(f"{name}.") for leaf in self.arrays)

    @property
    def fixed(self) -> list[Any]:
        """The values that stay as they are: integers, options, objects."""
        return [value for name, value in self.values.items() if name not in self.arrays]

    def gradients(self, result: object) -> dict[str, Any]:
        """The gradient of each array from what a backward pass returned; None where it returned none.

        Raises:
            ValueError: There are too few, too many, or some of other names; the message names the inputs.
        """
        found: dict[str, Any] = dict.fromkeys(self.arrays)
        for name, gradient in self._by_input(result).items():
            if self.holds_arrays(name) and gradient is not None:
                found.update(self._by_leaf(self.values[name], gradient, name))
        return found

    def fixed_with_gradient(self, result: object) -> list[str]:
        """The inputs that are held fixed although a gradient was returned for them."""
        gradients = self._by_input(result)
        return [name for name, each in gradients.items() if each is not None and not self.holds_arrays(name)]

    def _by_input(self, result: object) -> dict[str, Any]:
        if result is None:
            return {}
        differentiable = [name for name in self.values if self.holds_arrays(name)]
        arrays = [name for name in differentiable if name in self.arrays]
        is_container_alone = len(differentiable) == 1 and not arrays
        if isinstance(result, Mapping):
            keys = {name: key for name in self.values for key in _keys_of(name) if key in result}
            if not keys and is_container_alone:
                return {differentiable[0]: result}
            _require_known(result, keys.values(), list(self.values), "backward")
            _require_all(differentiable, keys, "backward")
            return {name: result[key] for name, key in keys.items()}
        gradients = list(result) if isinstance(result, list | tuple) else [result]
        for names in (list(self.values), differentiable, arrays):
            if len(names) == len(gradients):
                return dict(zip(names, gradients, strict=True))
        if is_container_alone:
            return {differentiable[0]: result}
        returned = "one gradient" if len(gradients) == 1 else f"{len(gradients)} gradients"
        raise ValueError(
            f"backward returned {returned}, and forward has the inputs {listed(list(self.values))}; expected a "
            "gradient for each in this order, None for one without"
        )

    def _by_leaf(self, value: Any, gradient: Any, name: str) -> Iterator[tuple[str, Any]]:
        """The gradient of each array in an input.

        Args:
            value: The input, or a container in it.
            gradient: What was returned for it; keys are those of the input, or have a "d" before them.
            name: Its name.
        """
        if not is_container(value):
            if name in self.arrays:
                yield name, gradient
        elif isinstance(value, Mapping):
            what = f"the gradient of {name!r}"
            if not isinstance(gradient, Mapping):
                raise ValueError(f"{what} is a {type(gradient).__name__}; expected a mapping with the keys of {name!r}")
            keys = {key: other for key in value for other in _keys_of(key) if other in gradient}
            _require_known(gradient, keys.values(), list(value), what)
            _require_all([key for key in value if self.holds_arrays(f"{name}.{key}")], keys, what)
            for key, other in keys.items():
                yield from self._by_leaf(value[key], gradient[other], f"{name}.{key}")
        else:
            if not isinstance(gradient, list | tuple) or len(gradient) != len(value):
                what = f"has {len(gradient)} items" if isinstance(gradient, list | tuple) else "is not a list"
                raise ValueError(f"the gradient of {name!r} {what}; expected a list of {len(value)}")
            for index, pair in enumerate(zip(value, gradient, strict=True)):
                yield from self._by_leaf(*pair, f"{name}.{index}")


def _keys_of(name: Any) -> tuple[Any, ...]:
    """The keys under which the gradient of something may stand."""
    return (f"d{name}", name) if isinstance(name, str) else (name,)


def _require_known(given: Mapping[Any, Any], known: Iterable[Any], names: list[Any], what: str) -> None:
    unknown = [key for key in given if key not in list(known)]
    if unknown:
        raise ValueError(
            f"{what} has an entry {unknown[0]!r}, which belongs to none of {listed(list(map(str, names)))}; expected "
            "their names, with or without a d before them"
        )


def _require_all(names: list[Any], found: Mapping[Any, Any], what: str) -> None:
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{what} has no entry {missing[0]!r}; expected one for each array, None for one without")


def input_names(forward: Callable[..., object], count: int, names: Sequence[str] | None) -> list[str]:
    """The names of the inputs: as given, or those of the parameters of `forward`.

    Raises:
        ValueError: There are more or fewer names than inputs, or one stands twice.
    """
    if names is not None:
        if isinstance(names, str) or len(names) != count or len(set(names)) != count:
            raise ValueError(f"names is {names!r}; expected {counted(count, 'different name')}, one for each input")
        return list(names)
    found = positional(forward)[:count]
    return [*found, *(f"input {index}" for index in range(len(found), count))]


def output_names(backward: Callable[..., object], count: int) -> list[str]:
    """The names of the outputs: those of the parameters of `backward`, without the d of a derivative."""
    found = [_without_d(name) for name in positional(backward)[:count]]
    if len(found) < count or len(set(found)) < count:
        return [f"output {index}" for index in range(count)]
    return found


def positional(function: Callable[..., object]) -> list[str]:
    """The names of the parameters that a function takes by position; none where they are not known."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some extension types have no signature
        return []
    return [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]


def _without_d(name: str) -> str:
    for prefix in ("grad_", "d_", "d"):
        if name.startswith(prefix) and len(name) > len(prefix) and not name.startswith(NO_COTANGENT_PREFIX):
            return name.removeprefix(prefix)
    return name
