"""Parameters and gradients read from what the user passes; each mistake is an error that says what would fit."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays import Array
from gradguard.containers.container import Container, is_container
from gradguard.containers.of_object import array_attributes

CONTAINERS = "a mapping, list or tuple of arrays, or one array"
MAX_IN_EXAMPLE = 4  # names in an example of what to write
IN_PLACE = "or an object that gives access to its memory by the buffer protocol"


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters that the user passed.

    Attributes:
        mapping: A mapping from their names to them, in which they can be bound anew as far as the user's container lets
            that: the user's own mapping where that is flat, otherwise a view of the container.
        arrays: The arrays by name: the user's own objects, not copies.
    """

    mapping: Mapping[str, object]
    arrays: Mapping[str, Array]

    @property
    def filled(self) -> Callable[[Mapping[str, Any]], Any] | None:
        """Makes a container of the user's form from a mapping; None where that is a flat mapping itself."""
        return self.mapping.filled if isinstance(self.mapping, Container) else None


def read_parameters(params: object) -> Parameters:
    """The parameters that the user passed.

    Raises:
        TypeError: `params` is no container, or holds something that is no array of floating-point numbers.
        ValueError: `params` is empty, or two arrays have one name.
    """
    _require_container("params", params)
    items = dict(params.items()) if isinstance(params, Mapping) else {}
    is_flat = bool(items) and not any(is_container(value) or not isinstance(name, str) for name, value in items.items())
    mapping: Mapping[str, object] = params if is_flat else Container(params)  # type: ignore[assignment]  # just asked
    found = items if is_flat else dict(mapping)
    if not found:
        raise ValueError(f"params is empty; expected {CONTAINERS}")
    others = _without_gradients([name for name, value in found.items() if _is_array(value)]) if is_flat else []
    return Parameters(mapping, {name: _parameter(name, value, others) for name, value in found.items()})


def read_gradients(grads: object, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The gradients by name, in the order of the arrays and of their shapes.

    Raises:
        TypeError: `grads` is no container, or holds something that is no array of floating-point numbers.
        ValueError: A name is missing or unknown, or a shape differs.
    """
    _require_container("grads", grads, arrays)
    found = _found_gradients(grads)
    if found.keys() != arrays.keys():
        raise _wrong_names(grads, found, arrays)
    for name in arrays:
        if found[name] is None:
            raise TypeError(
                f"gradient {name!r} is None: it was not computed; expected an array of shape {arrays[name].shape}. "
                f"Compute it, take zeros if the loss does not depend on {name!r}, or leave {name!r} out of params"
            )
    read = {name: _floating(name, "gradient", found[name]) for name in arrays}
    for name, gradient in read.items():
        if gradient.shape != arrays[name].shape:
            raise ValueError(_wrong_shape(name, gradient.shape, arrays[name].shape))
    return read


def _found_gradients(grads: Any) -> dict[str, object]:
    items = dict(grads.items()) if isinstance(grads, Mapping) else {}
    if items and not any(is_container(value) or not isinstance(name, str) for name, value in items.items()):
        return items
    return dict(Container(grads, "grads"))


def _require_container(role: str, value: object, arrays: Mapping[str, Array] | None = None) -> None:
    """Refuse what is no container of arrays.

    Args:
        role: "params" or "grads".
        value: What the user passed.
        arrays: The parameters that gradients are read for.

    Raises:
        TypeError: It is none.
    """
    if is_container(value) or (_is_array(value) and not isinstance(value, np.generic)):
        return
    raise TypeError(f"{role} is {_of_type(value)}; expected {CONTAINERS}{_remedy(role, value, arrays or {})}")


def _remedy(role: str, value: object, arrays: Mapping[str, Array]) -> str:
    """What to write instead, in a clause; "" where nothing is known to fit."""
    if inspect.isroutine(value):
        return f"; {role} is a function: pass what it returns"
    if any(kind.__module__.startswith("torch.nn") for kind in type(value).__mro__):
        return "; for a PyTorch module use gradguard.integrations.torch.TorchGuard(module, optimizer)"
    if _is_of_torch(value):
        return "; tensor.detach().numpy() is an array on the same memory"
    if isinstance(value, str | bytes):
        return ""
    if isinstance(value, Iterator | set | frozenset) or (isinstance(value, Iterable) and not array_attributes(value)):
        example = '{"W": W, "b": b}'
        return f", which can be read at every check and has an order: list(...), dict(...), or names as in {example}"
    own = array_attributes(value)
    if not own:
        return ""
    names = list(arrays) if role == "grads" and arrays else _without_gradients(own)
    shown = ", ".join(
        f'{name}="{_like(name, own)}"' if role == "grads" else f'"{name}"' for name in names[:MAX_IN_EXAMPLE]
    )
    return f"; its arrays are attributes: gradguard.attributes(..., {shown})"


def _without_gradients(names: list[str]) -> list[str]:
    """The names without those that add something to another one, as "dW" and "W_grad" do."""
    return [name for name in names if not any(other in name and other != name for other in names)]


def _like(name: str, own: Iterable[str]) -> str:
    """The attribute that is the gradient of a parameter, as far as names tell."""
    return next((each for each in own if name in each and each != name), f"d{name}")


def _is_of_torch(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "torch"


def _is_array(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return True
    try:
        memoryview(value)  # type: ignore[arg-type]  # the except clause is the check
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bytes | bytearray | memoryview)


def _parameter(name: str, value: object, arrays: list[str]) -> Array:
    """A parameter as an array.

    Args:
        name: Its name.
        value: What the user passed.
        arrays: The names of those that are arrays.
    """
    if isinstance(value, np.generic | Number):
        what = "a NumPy scalar" if isinstance(value, np.generic) else _of_type(value)
        raise TypeError(
            f"parameter {name!r} is {what}, which cannot be moved; expected an array: np.array(x){_leave_out(arrays)}"
        )
    if isinstance(value, np.ndarray) or _is_array(value):
        return _floating(name, "parameter", value)
    if _is_of_torch(value):
        raise TypeError(
            f"parameter {name!r} is a PyTorch {type(value).__name__}; expected a NumPy array, which "
            f"tensor.detach().numpy() is on the same memory. For a module use gradguard.integrations.torch.TorchGuard"
        )
    raise TypeError(f"parameter {name!r} {_is_what(value)}; expected a NumPy array, {IN_PLACE}{_leave_out(arrays)}")


def _leave_out(arrays: list[str]) -> str:
    """How to pass only what is a parameter, where something else lies among the arrays; "" where there are none."""
    if not arrays:
        return ""
    shown = ", ".join(f'"{name}"' for name in arrays[:MAX_IN_EXAMPLE])
    more = ", ..." if len(arrays) > MAX_IN_EXAMPLE else ""
    return f". Leave out what is no parameter: of an object, take attributes(model, {shown}{more})"


def _is_what(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"is a {type(value).__name__} of numbers"
    return f"is {_of_type(value)}"


def _of_type(value: object) -> str:
    """The type of a value with its article."""
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def _floating(name: str, role: str, value: object) -> Array:
    """A value as an array of floating-point numbers on the same memory; `role` says what the value is in a message."""
    array = value if isinstance(value, np.ndarray) else _buffer(name, role, value)
    if isinstance(array, np.matrix | np.ma.MaskedArray):
        raise TypeError(
            f"{role} {name!r} is a {type(array).__name__}, with arithmetic of its own; expected a plain array, such "
            "as np.asarray(x) makes without a copy"
        )
    if not np.issubdtype(array.dtype, np.floating):
        raise TypeError(f"{role} {name!r} has dtype {array.dtype}; expected a floating-point dtype such as float32")
    return array


def _buffer(name: str, role: str, value: object) -> NDArray[Any]:
    if isinstance(value, np.generic):
        return np.asarray(value)
    try:
        return np.asarray(memoryview(value))  # type: ignore[arg-type]  # the except clause is the check
    except (TypeError, ValueError):
        raise TypeError(f"{role} {name!r} {_is_what(value)}; expected a NumPy array, {IN_PLACE}") from None


def _wrong_names(grads: object, found: Mapping[str, object], arrays: Mapping[str, Array]) -> Exception:
    """The error of gradients that have other names than the parameters."""
    expected, passed = ", ".join(arrays), ", ".join(found) or "none"
    pair = _pair_of_loss_and_gradients(grads, arrays)
    if pair:
        return TypeError(pair)
    if not is_container(grads):
        return TypeError(f"grads is one array, and params holds {expected}; expected {_example(arrays)}")
    missing, unknown = [name for name in arrays if name not in found], [name for name in found if name not in arrays]
    renamed = _renamed(missing, unknown)
    if missing and len(found) == len(arrays) and isinstance(grads, list | tuple):
        renamed = ". If they are in the order of params: dict(zip(params, grads))"
    if missing:
        return ValueError(f"grads has no entry {missing[0]!r}; given: {passed}; expected: {expected}{renamed}")
    return ValueError(
        f"grads has an entry {unknown[0]!r} that is not in params; expected: {expected}. Leave it out, or add its "
        "parameter to params"
    )


def _pair_of_loss_and_gradients(grads: object, arrays: Mapping[str, Array]) -> str:
    """What is said of what a function that returns a loss and gradients gave; "" where it is something else."""
    if not (isinstance(grads, list | tuple) and len(grads) == 2 and set(arrays) != {"0", "1"}):
        return ""
    for place, (one, other) in enumerate([grads, grads[::-1]]):
        is_number = np.ndim(one) == 0 if _is_array(one) or isinstance(one, Number) else False
        if is_number and (is_container(other) or _is_array(other)):
            order = "gradients, loss" if place else "loss, gradients"
            return (
                f"grads is a {type(grads).__name__} ({order}), as one function returns both; expected the gradients "
                f"alone: grads[{1 - place}]"
            )
    return ""


def _renamed(missing: list[str], unknown: list[str]) -> str:
    """How to rename gradients such as "dW", where each name that lacks is in one that is unknown; else ""."""
    pairs = {name: next((other for other in unknown if other.endswith(name)), "") for name in missing}
    if not pairs or not all(pairs.values()):
        return ""
    shown = ", ".join(f'"{name}": grads["{other}"]' for name, other in list(pairs.items())[:MAX_IN_EXAMPLE])
    return f". Give them the names of the parameters: {{{shown}{', ...' if len(pairs) > MAX_IN_EXAMPLE else ''}}}"


def _example(arrays: Mapping[str, Array]) -> str:
    shown = ", ".join(f'"{name}": ...' for name in list(arrays)[:MAX_IN_EXAMPLE])
    return f"{{{shown}{', ...' if len(arrays) > MAX_IN_EXAMPLE else ''}}}"


def _wrong_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> str:
    says = f"the gradient of {name!r} has shape {shape}; expected {expected}, the shape of the parameter"
    if len(shape) > 1 and shape[::-1] == expected:
        return f"{says}: it is transposed, pass the gradient's .T"
    if len(shape) == len(expected) + 1 and shape[1:] == expected:
        return f"{says}: it has one more axis, perhaps over samples; sum over it as the loss does"
    if np.prod(shape) == np.prod(expected):
        return f"{says}: it has the same number of entries; reshape it where it is computed"
    return says
