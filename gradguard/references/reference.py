"""Exact derivatives of the loss.

There are three methods, of which the first that a loss has is used:

- The reverse pass, where a framework has it: the forward pass of each custom function takes part as plain operations,
  so that its hand-written backward pass does not. One pass gives the derivative of every entry.
- The complex step, of a loss that takes complex parameters: Im L(x + i h v) / h has no difference in it that could
  cancel, so that h can be far below all roundings. Source: Squire and Trapp 1998 (10.1137/S003614459631241X).
- Forward mode, where a framework has it: each operation of the forward pass has a derivative of its own, and no
  backward pass takes part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gradguard.arrays import Array, Float64, reductions
from gradguard.diagnosis import Method
from gradguard.loss import LossRequest
from gradguard.measurement import Derivative, TensorUnderTest
from gradguard.perturbation import Direction, EntryProbe, Probe

ONE_SIDED = 1e-9  # difference of the slopes to both sides, relative to the largest, above which x is at a kink
ROUNDING_OF_LOSS = 1e-14  # relative error of an exact derivative: the loss is still rounded in float64


@dataclass(frozen=True, slots=True)
class Slopes:
    """Derivatives along K probes; each of shape (K,).

    Attributes:
        n: The exact derivatives; nan where the loss has a kink at x, so that its slopes to both sides differ.
        error: Their error bars.
        g: What the gradient predicts.
    """

    n: Float64
    error: Float64
    g: Float64


class Reference(Protocol):
    """An exact derivative of the loss.

    Attributes:
        method: The name of the method.
    """

    @property
    def method(self) -> Method:
        """The name of the method."""

    @property
    def evaluations(self) -> int:
        """Evaluations of the loss so far."""

    def along(self, tensor: TensorUnderTest, probes: Sequence[Probe], *, to_both_sides: bool = True) -> Slopes:
        """The derivatives along some probes of a tensor.

        Args:
            tensor: The tensor.
            probes: K probes.
            to_both_sides: Whether the slopes to both sides are compared, where that takes evaluations of their own.
        """


class DerivativeReference:
    """The derivative in place of the loss: by the complex step or in forward mode.

    Args:
        derivative: The derivative.
    """

    def __init__(self, derivative: Derivative) -> None:
        self._derivative = derivative

    @property
    def method(self) -> Method:  # noqa: D102 - as in Reference
        return self._derivative.method

    @property
    def evaluations(self) -> int:  # noqa: D102 - as in Reference
        return self._derivative.objective.evaluations

    def along(  # noqa: D102 - as in Reference
        self, tensor: TensorUnderTest, probes: Sequence[Probe], *, to_both_sides: bool = True
    ) -> Slopes:
        objective, step = self._derivative.objective, self._derivative.step * tensor.typical
        amounts = np.tile([step, -step] if to_both_sides else [step], (len(probes), 1))
        (values,) = objective.evaluate([LossRequest(tensor.name, probes, amounts, tensor.gradient)])
        with np.errstate(invalid="ignore"):
            sides = objective.totals(values.losses) / values.displacements
            difference = np.ptp(sides, axis=1)
        largest = np.abs(sides[np.isfinite(sides)]).max(initial=0.0)
        n = np.where(difference <= ONE_SIDED * largest, sides.mean(axis=1), np.nan)
        g = (values.predicted / values.displacements).mean(axis=1)
        return Slopes(n, ROUNDING_OF_LOSS * largest + difference / 2, g)


class GradientReference:
    """The gradient of the loss by a reverse pass.

    Args:
        gradients: It, by tensor, in float64.
    """

    method: Method = "reverse pass"
    evaluations = 1

    def __init__(self, gradients: Mapping[str, Array]) -> None:
        self._gradients = gradients

    def along(  # noqa: D102 - as in Reference
        self, tensor: TensorUnderTest, probes: Sequence[Probe], *, to_both_sides: bool = True
    ) -> Slopes:
        del to_both_sides  # a reverse pass has one side only
        exact, given = self._gradients[tensor.name], tensor.gradient
        n = np.array([_along(probe, exact) for probe in probes])
        largest = float(np.abs(n[np.isfinite(n)]).max(initial=0.0))
        error = np.full(n.size, ROUNDING_OF_LOSS * largest)
        return Slopes(np.where(np.isfinite(n), n, np.nan), error, np.array([_along(probe, given) for probe in probes]))


def _along(probe: Probe, gradient: Array) -> float:
    """The product of a gradient with the unit vector of a probe."""
    if isinstance(probe, EntryProbe):
        return float(gradient[probe.index])
    if not isinstance(probe, Direction):
        raise TypeError(f"the probe is a {type(probe).__name__}; expected an entry or a direction")
    vector = probe.vector
    # Its length is 1 to the precision of float32 only.
    product = reductions.inner_product(vector, gradient) / reductions.inner_product(vector, vector)
    probe.release()
    return product
