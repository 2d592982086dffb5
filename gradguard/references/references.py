"""The exact derivatives that the loss of one check has, each made when it is first asked for."""

from collections.abc import Iterator

from gradguard.loss import try_twice
from gradguard.measurement import Derivative, MeasurementContext
from gradguard.references.reference import DerivativeReference, GradientReference, Reference


class References:
    """The exact derivatives of the loss of one check, the cheapest first.

    Args:
        context: What the check measures with.
    """

    def __init__(self, context: MeasurementContext) -> None:
        self._context = context
        self._made: list[Reference] = []
        self._makers = [self._by_reverse_pass, self._by_derivative]

    def __iter__(self) -> Iterator[Reference]:
        yield from self._made
        while self._makers:
            reference = self._makers.pop(0)()
            if reference is not None:
                self._made.append(reference)
                self._context.objective.evaluations += reference.evaluations
                yield reference

    def _by_reverse_pass(self) -> Reference | None:
        gradients = None if self._context.reverse_pass is None else self._context.reverse_pass()
        return None if gradients is None else GradientReference(gradients)

    def _by_derivative(self) -> Reference | None:
        make, at_once = self._context.derivative, self._context.objective.at_once
        derivative = None if make is None else try_twice(lambda: make(at_once))
        # Else there is none, or no memory for further copies.
        return DerivativeReference(derivative) if isinstance(derivative, Derivative) else None
