"""Which known number a ratio is: a constant of the training, a product or quotient of two, or a plain factor."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_PHRASES = {
    "timesteps": "the number of timesteps",
    "batch": "the batch size",
    "world_size": "the number of processes",
    "loss_scale": "the loss scale",
    "accumulation": "the number of accumulated batches",
}
Shapes = Mapping[str, tuple[int, ...]]
NO_SHAPES: Shapes = MappingProxyType({})
VAGUE = 0.1  # relative reach of a ratio above which anything would fit
MOSTLY = 0.8  # of the earlier ratios must fit a name; a few lie beyond three errors by chance


@dataclass(frozen=True, slots=True)
class KnownFactor:
    """A number under a name.

    Attributes:
        value: The number, > 0.
        label: How it is written, such as `timesteps` or 1/`batch`.
        over: What the backward pass divides by, in words, that the loss does not; "" if nothing.
        under: What the loss divides by, in words, that the backward pass does not; "" if nothing.
    """

    value: float
    label: str
    over: str = ""
    under: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether it is a mere number, with nothing to call it by."""
        return not self.over and not self.under

    @property
    def meaning(self) -> str:
        """What a ratio n/g of this value says of the backward pass."""
        if self.over and self.under:
            return f"the backward pass divides by {self.over} where the loss divides by {self.under}"
        if self.over:
            return f"the backward pass divides by {self.over} and the loss does not"
        if self.under:
            return f"the loss divides by {self.under} and the backward pass does not"
        if self.value > 1:
            return f"the backward pass lost a factor of {self.label}"
        return f"the backward pass is too large by a factor of {1 / self.value:g}"


@dataclass(frozen=True, slots=True)
class Observation:
    """A confirmed ratio, and the constants of its time.

    Attributes:
        ratio: n / g.
        error: Its standard error.
        constants: Numbers of the training by name, all > 0.
    """

    ratio: float
    error: float
    constants: Mapping[str, float]

    def fitting(self, shape: tuple[int, ...] = (), shapes: Shapes = NO_SHAPES) -> list[list[KnownFactor]]:
        """The known numbers within three errors of |ratio|, in groups of the same simplicity, simplest first.

        A vague ratio is not named, since anything would fit.

        Args:
            shape: Of the tensor, whose sizes are known numbers too.
            shapes: Of all tensors, by name, whose sizes come later.
        """
        reach = max(3 * self.error, 1e-6 * abs(self.ratio))
        if not reach <= VAGUE * abs(self.ratio):
            return []
        return [
            [name for name in candidates if abs(abs(self.ratio) - name.value) <= reach and abs(name.value - 1) > reach]
            for candidates in _by_simplicity(self.constants, shape, shapes)
        ]


@dataclass(frozen=True, slots=True)
class History:
    """The constants now, and earlier ratios with theirs: where constants change, the ratio follows the right one.

    Attributes:
        constants: Numbers of the training by name, all > 0.
        before: Earlier confirmed ratios of the same tensor.
        shapes: Of all tensors, by name: a mean may have been taken over the layer's input, or its cells.
    """

    constants: Mapping[str, float]
    before: tuple[Observation, ...] = ()
    shapes: Shapes = field(default_factory=dict)

    def names_of(self, ratio: float, error: float, shape: tuple[int, ...] = ()) -> list[KnownFactor]:
        """The simplest known numbers that the ratio may be, now and at most earlier times; several when all fit."""
        seen = [
            {name.label for group in earlier.fitting(shape, self.shapes) for name in group} for earlier in self.before
        ]
        for group in Observation(ratio, error, self.constants).fitting(shape, self.shapes):
            names = [name for name in group if sum(name.label in labels for labels in seen) >= MOSTLY * len(seen)]
            if names:
                return names
        return []


def _by_simplicity(
    constants: Mapping[str, float], shape: tuple[int, ...], shapes: Shapes
) -> Iterator[list[KnownFactor]]:
    known = {name: float(value) for name, value in constants.items() if value not in (0, 1)}
    words = {name: _PHRASES.get(name, f"`{name}`") for name in known}
    yield [KnownFactor(value, f"`{name}`", over=words[name]) for name, value in known.items()] + [
        KnownFactor(1 / value, f"1/`{name}`", under=words[name]) for name, value in known.items()
    ]
    yield [KnownFactor(2.0, "2"), KnownFactor(0.5, "1/2")]
    yield list(_sizes(shape))
    yield list(_pairs(known, words))
    yield list(_sizes_elsewhere(shape, shapes))
    yield [KnownFactor(2.0**power, f"2^{power}") for power in (*range(-24, -1), *range(2, 25))]


def _sizes(shape: tuple[int, ...]) -> Iterator[KnownFactor]:
    """The tensor's own sizes: a mean was taken over an axis, or over all of it."""
    sizes = [(f"the length of axis {axis}", length) for axis, length in enumerate(shape)]
    if len(shape) > 1:
        sizes.append(("the number of entries", math.prod(shape)))
    for label, size in sizes:
        if size > 1:
            yield KnownFactor(float(size), label, over=f"{label} of this tensor")
            yield KnownFactor(1 / size, f"1 / {label}", under=f"{label} of this tensor")


def _sizes_elsewhere(shape: tuple[int, ...], shapes: Shapes) -> Iterator[KnownFactor]:
    """The lengths of other tensors' axes, each under the first name that has it."""
    named = dict.fromkeys((0, 1, *shape), "")
    for name, other in shapes.items():
        for axis, length in enumerate(other):
            named.setdefault(length, f"the length of axis {axis} of `{name}`")
    for length, label in named.items():
        if label:
            yield KnownFactor(float(length), label, over=label)
            yield KnownFactor(1 / length, f"1 / {label}", under=label)


def _pairs(known: Mapping[str, float], words: Mapping[str, str]) -> Iterator[KnownFactor]:
    for first, a in known.items():
        for second, b in known.items():
            both = f"{words[first]} times {words[second]}"
            if first <= second:
                yield KnownFactor(a * b, f"`{first}` x `{second}`", over=both)
                yield KnownFactor(1 / (a * b), f"1/(`{first}` x `{second}`)", under=both)
            if first != second:
                yield KnownFactor(a / b, f"`{first}`/`{second}`", over=words[first], under=words[second])
        yield KnownFactor(2 * a, f"2 x `{first}`", over=f"twice {words[first]}")
        yield KnownFactor(a / 2, f"`{first}`/2", over=f"half of {words[first]}")
        yield KnownFactor(1 / (2 * a), f"1/(2 x `{first}`)", under=f"twice {words[first]}")
        yield KnownFactor(2 / a, f"2/`{first}`", under=f"half of {words[first]}")
