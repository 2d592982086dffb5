"""A fault: a mistake in a backward pass, as a function that replaces one method of `LSTM`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from gradguard.report import Verdict
from gradguard.testing.lstm import Array

Grads = dict[str, Array]

RECURRENT = frozenset({"Wx", "Wh", "b"})
"""The tensors of the LSTM itself."""
ALL = RECURRENT | {"V", "c"}
"""The tensors of the LSTM and of the softmax layer."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A mistake in a backward pass, and the verdicts that are right for it.

    Attributes:
        name: Its name in `FAULTS`.
        description: What the code does wrong, in a line.
        tensors: The tensors whose gradient it makes wrong.
        expected: The verdicts that are right for those tensors.
        replaces: The name of the method of `LSTM` that it replaces.
        piece: The function that replaces the method.
        constant: The constant of the training that equals the ratio n / g, or its inverse; None if there is none.
    """

    name: str
    description: str
    tensors: frozenset[str]
    expected: frozenset[Verdict]
    replaces: str
    piece: Callable[..., Any]
    constant: str | None = None


def replaces(
    method: str, tensors: Iterable[str], expected: str, constant: str | None = None
) -> Callable[[Callable[..., Any]], Fault]:
    """A decorator that makes a fault of a function, with the function's name and docstring.

    Args:
        method: The method of `LSTM` that the function replaces.
        tensors: The tensors whose gradient it makes wrong.
        expected: The verdicts that are right for those tensors, separated by spaces.
        constant: The constant of the training that equals the ratio n / g, or its inverse.
    """
    verdicts = frozenset(map(Verdict, expected.split()))

    def fault(piece: Callable[..., Any]) -> Fault:
        name, description = piece.__name__.replace("_", "-"), str(piece.__doc__).rstrip(".")
        return Fault(name, description, frozenset(tensors), verdicts, method, piece, constant)

    return fault
