"""One tensor under test: its size, the range of its steps, and how backprop rounds its gradient."""

import math
from dataclasses import dataclass
from typing import Self

from gradguard.arrays import reductions
from gradguard.arrays.types import Array

START = {"native": 1e-3, "float64": 1e-4}  # the first step, in typical sizes of the tensor
LONGEST = 4.0  # the last step, in typical sizes: a network is saturated long before
ROUNDOFFS_OF_A_STEP = 64  # in the shortest one
BACKPROP_ROUNDING = 8  # in roundoffs of ||g||, of a backward pass that rounds as the loss does
SATURATED_ROUNDING = 80  # in unit roundoffs: 1 - tanh^2 and p - 1 cancel where a network is sure of itself
SHARPEST = 5.0  # typical size of a tensor, up to which that grows as its square; beyond, its inputs are small
MOSTLY_FORWARD = 4  # times its own rounding, from which little is known of a gradient's but how the loss is rounded
DOUBT = 3  # times that, then: activations are larger than 1, and logits than the loss


@dataclass(frozen=True, slots=True)
class Size:
    """How large a tensor and its gradient are.

    Attributes:
        typical: The root mean square of the tensor; 0 for zeros.
        largest: The largest |g|.
        norm: ||g||.
    """

    typical: float
    largest: float
    norm: float

    @classmethod
    def of(cls, array: Array, gradient: Array) -> "Size":
        """The sizes of one tensor."""
        largest = reductions.largest(gradient)
        return cls(reductions.typical_size(array, 0.0), largest, reductions.norm(gradient, largest))

    @property
    def passing(self) -> float:
        """How much of the loss passes through the tensor: what is rounded on its way to the gradient."""
        return self.largest * (self.typical or 1.0)


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
