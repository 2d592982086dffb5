"""Cotangents of the outputs of a function: random ones, and the loss that has them as its derivatives."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gradguard.arrays import Array
from gradguard.containers import Container
from gradguard.functions.handwritten.structure import with_arrays


def products(cotangents: tuple[Any, ...], outputs: tuple[Any, ...]) -> Array:
    """Each entry of the outputs times its cotangent, flat; None is a cotangent of zeros.

    Raises:
        ValueError: No output has numbers with a fraction, or a cotangent does not fit its output.
    """
    given, named = named_leaves(cotangents), named_leaves(outputs)
    unknown = [name for name, each in given.items() if each is not None and name not in named]
    if unknown:
        raise ValueError(
            f"backward has a cotangent at {unknown[0]}, where forward has no output; expected one for each output, in "
            "the form of the outputs"
        )
    pairs = [(given.get(name), np.asarray(leaf)) for name, leaf in named.items() if _is_inexact(leaf)]
    if not pairs:
        raise ValueError("forward returned no array of floating-point numbers; expected at least one such output")
    return np.concatenate([_product(each, output).ravel() for each, output in pairs])


def _product(cotangent: Any, output: Array) -> Array:
    try:
        product: Array = output * np.broadcast_to(0 if cotangent is None else cotangent, output.shape)
    except ValueError:
        raise ValueError(
            f"an output has shape {output.shape} and its cotangent {np.shape(cotangent)}; expected equal shapes"
        ) from None
    return product


def drawn_like(outputs: tuple[Any, ...], rng: np.random.Generator) -> tuple[Any, ...]:
    """A standard normal number for each entry of some outputs, None for an output that is not of floating point."""
    drawn = {
        name: np.asarray(rng.standard_normal(np.shape(leaf)), np.asarray(leaf).dtype)[()] if _is_inexact(leaf) else None
        for name, leaf in named_leaves(outputs).items()
    }
    return tuple(with_arrays(output, str(index), drawn) for index, output in enumerate(outputs))


def _is_inexact(value: object) -> bool:
    """Whether a value is a number or an array of floating point; complex numbers are those of a complex step."""
    dtype = getattr(value, "dtype", None)
    return isinstance(value, float | complex) or (isinstance(dtype, np.dtype) and dtype.kind in "fc")


def named_leaves(values: tuple[Any, ...]) -> Mapping[str, Any]:
    """What some values hold, each under its index and its place there, such as "0" or "0.states"."""
    return Container({str(index): value for index, value in enumerate(values)})
