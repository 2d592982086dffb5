"""Backprop's own rounding error, and which part of it shrinks with the gradient."""

import math
from dataclasses import dataclass
from typing import Self

BACKPROP_ROUNDING = 8  # in roundoffs of ||g||, of a backward pass that rounds as the loss does
SATURATED_ROUNDING = 80  # in unit roundoffs: 1 - tanh^2 and p - 1 cancel where a network is sure of itself
SHARPEST = 5.0  # typical size of a tensor, up to which that grows as its square; beyond, its inputs are small
MOSTLY_FORWARD = 4  # times its own rounding, from which little is known of a gradient's but how the loss is rounded
DOUBT = 3  # times that, then: activations are larger than 1, and logits than the loss


@dataclass(frozen=True, slots=True)
class Rounding:
    """The rounding error of a derivative by backprop, in the units of the gradient.

    Attributes:
        own: In proportion to the gradient: a gradient that is too small by a factor has so much less of it.
        forward: What the forward pass's rounding leaves; a factor lost on the way back does not change it.
    """

    own: float
    forward: float

    @classmethod
    def of(cls, own: float, forward: float) -> Self:
        """The same, where the forward pass is given by the order of magnitude."""
        return cls(own, DOUBT * forward if forward > MOSTLY_FORWARD * own else forward)

    @property
    def total(self) -> float:
        """Both; they are independent."""
        return math.hypot(self.own, self.forward)
