"""A function and its backward pass, in the forms that their authors give them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradguard.containers import ArrayContainer, array_attributes
from gradguard.functions.handwritten.structure import Inputs, copied
from gradguard.report import counted

Gradients = ArrayContainer | Callable[[], ArrayContainer]
"""Where a backward pass leaves gradients: a container, or a function that returns one."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A function and its backward pass.

    Attributes:
        forward: `forward(*inputs)` returns the outputs, and the cache where there is one.
        backward: `backward(*cotangents, cache)`, or `backward(*cotangents)`, returns the gradients of the inputs.
        has_cache: Whether the last item that `forward` returns is a cache for `backward`; None for whether it returns
            several.
        params: Arrays of the object that `forward` reads, beside its inputs.
        grads: Where `backward` leaves the gradients of those.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    has_cache: bool | None = None
    params: ArrayContainer | None = None
    grads: Gradients | None = None

    def split(self, result: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The outputs among what `forward` returned, and the cache: a tuple of one item, or of none.

        Raises:
            TypeError: There is no cache.
        """
        is_several = isinstance(result, tuple | list) and len(result) > 1
        if self.has_cache and not is_several:
            raise TypeError(
                f"forward returned {_what(result)}; expected (outputs..., cache), of which the last goes to backward. "
                "Where forward keeps in an object what backward needs, pass cache=False"
            )
        if is_several and self.has_cache is not False:
            return tuple(result[:-1]), tuple(result[-1:])
        return (result if isinstance(result, tuple) else (result,)), ()

    def gradients(self, inputs: Inputs, cotangents: tuple[Any, ...]) -> Any:
        """What `backward` returns for some cotangents, after a forward pass of its own.

        Raises:
            TypeError: `forward` returned no cache, or `backward` does not take so many arguments.
        """
        outputs, cache = self.split(self.forward(*inputs.filled(inputs.arrays)))
        self._require_arguments(len(outputs), len(cache))
        return self.backward(*copied(cotangents), *cache)

    def _require_arguments(self, outputs: int, caches: int) -> None:
        try:
            signature = inspect.signature(self.backward)
        except (TypeError, ValueError):  # some extension types have none
            return
        try:
            signature.bind(*range(outputs + caches))
        except TypeError:
            called = f"{counted(outputs, 'cotangent')}{' and the cache' * caches}"
            last = "; the last one is taken as the cache, unless cache=False is given" if caches else ", and no cache"
            raise TypeError(
                f"backward{signature} cannot be called with {called}: forward returned "
                f"{counted(outputs + caches, 'item')}{last}"
            ) from None

    @property
    def unchecked_attributes(self) -> tuple[str, ...]:
        """Arrays of the object of `forward` beside which stands a gradient, where they are not in `params`."""
        own = array_attributes(getattr(self.forward, "__self__", None)) if self.params is None else []
        return tuple(name for name in own if f"d{name}" in own)


def _what(result: object) -> str:
    if isinstance(result, tuple | list):
        return f"a {type(result).__name__} of {len(result)}"
    shape = f" of shape {result.shape}" if isinstance(result, np.ndarray) else ""
    return f"one {type(result).__name__}{shape}"
