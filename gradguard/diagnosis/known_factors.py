"""The known numbers that a ratio n/g may be: constants of the training, products, quotients, sizes, powers of two."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

_PHRASES = {
    "timesteps": "the number of timesteps",
    "batch": "the batch size",
    "world_size": "the number of processes",
    "loss_scale": "the loss scale",
    "accumulation": "the number of accumulated batches",
}
LEARNING_RATES = ("lr", "learning_rate", "learningrate", "eta", "step_size")
Shapes = Mapping[str, tuple[int, ...]]
NO_SHAPES: Shapes = MappingProxyType({})
NEAR = 4.0  # errors within which a ratio is a number, as two ratios are one factor: the demo has ratios 3.6 away
MAX_RELATIVE_REACH = 0.1  # three errors of a ratio, relative to it: within more than that, any ratio fits something
MAX_NAMES = 2  # for one ratio: with more, none of them says anything
MAX_CHANCE = 0.05  # that a number is near the ratio though it has nothing to do with it
USUAL_RANGE = 9.0  # of the logarithm of known numbers and ratios, from about 1/100 to 100
LOSS_SCALE = 10  # power of two from which it is no length of an axis but a loss scale
# Places of the groups that hold products of constants, and of the two that hold lengths of axes.
PRODUCTS, SIZES = 2, 7
ONE_OFF = 4  # place of the means over one too few or too many, which round percentages are near as well
MAX_REACH_OF_NUMBER = 1e-2  # the same for 1/ln 2: no constant of the user speaks for it
MAX_REACH_OF_THREE = 3e-4  # the same for three constants, of which there are many products and quotients
MIN_SHARE_OF_HISTORY = 0.8  # of the earlier ratios, that a number must fit: a few lie beyond four errors


@dataclass(frozen=True, slots=True)
class Divisor:
    """What a loss or a backward pass may divide by.

    Attributes:
        key: Its identifier, such as "timesteps" or "axis 0".
        words: What a sentence calls it, such as "the number of timesteps".
    """

    key: str
    words: str


@dataclass(frozen=True, slots=True)
class KnownFactor:
    """A number that the ratio n/g may be, and what it then says of the backward pass.

    Attributes:
        value: The number, > 0.
        label: How it is written, such as `timesteps` or 1/`batch`.
        over: What the backward pass divides by and the loss does not; None if nothing.
        under: What the loss divides by and the backward pass does not; None if nothing.
        is_size: Whether it is the length of an axis, or the number of entries.
        is_own_size: Whether it is a size of the tensor itself, which no user has named.
        is_sure: Whether it is the only simple number that fits, and no size: a model has many lengths.
        max_reach: The relative reach of a ratio, beyond which this number would be one of several near it.
        kind: The identifier of the cause where that is neither `over` nor `under`.
        says: What it says of the backward pass where that is neither `over` nor `under`, in a clause.
    """

    value: float
    label: str
    over: Divisor | None = None
    under: Divisor | None = None
    is_size: bool = False
    is_own_size: bool = False
    max_reach: float = MAX_RELATIVE_REACH
    kind: str = ""
    says: str = ""
    is_sure: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is a mere number such as 2, which stands for nothing."""
        return self.over is None and self.under is None and not self.kind

    @property
    def is_named_by_user(self) -> bool:
        """Whether it stands for something that the user named: a constant, or another tensor."""
        return not self.is_plain and not self.is_own_size

    @property
    def key(self) -> str:
        """The identifier of the cause, such as "divided_by:timesteps"."""
        if self.kind:
            return self.kind
        if self.over and self.under:
            return f"divided_by:{self.over.key}/{self.under.key}"
        if self.over:
            return f"divided_by:{self.over.key}"
        if self.under:
            return f"not_divided_by:{self.under.key}"
        return f"factor:{self.label}"

    @property
    def meaning(self) -> str:
        """What a ratio n/g of this value says of the backward pass, in a clause."""
        if self.says:
            return self.says
        if self.over and self.under:
            return f"the backward pass divides by {self.over.words} where the loss divides by {self.under.words}"
        if self.over:
            return f"the backward pass divides by {self.over.words} and the loss does not"
        if self.under:
            return f"the loss divides by {self.under.words} and the backward pass does not"
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
        """The known numbers within four errors of |ratio|, in groups of the same simplicity, simplest first.

        A vague ratio fits none, since any number would do.

        Args:
            shape: Of the tensor, whose sizes are known numbers too.
            shapes: Of all tensors, by name, whose axes are tried later.
        """
        reach = self._reach
        if not reach <= MAX_RELATIVE_REACH * abs(self.ratio):
            return []
        return [[one for one in group if self._is_near(one)] for group in _by_simplicity(self.constants, shape, shapes)]

    def fits_by_chance(self, place: int) -> bool:
        """Whether one of the numbers up to some group of simplicity is likely to be as near to any ratio."""
        groups = list(_by_simplicity(self.constants, (), NO_SHAPES))[: place + 1]
        relative = self._reach / abs(self.ratio)
        count = sum(relative <= one.max_reach for group in groups for one in group)
        return count * 2 * self._width / abs(self.ratio) > MAX_CHANCE * USUAL_RANGE

    def _is_near(self, known: KnownFactor) -> bool:
        reach = self._reach
        is_precise = reach <= known.max_reach * known.value
        return is_precise and abs(abs(self.ratio) - known.value) <= self._width < abs(known.value - 1)

    @property
    def _reach(self) -> float:
        """How vague the ratio is: the more, the more numbers are near it by chance."""
        return max(3 * self.error, 1e-6 * abs(self.ratio))

    @property
    def _width(self) -> float:
        """How far a number may be from |ratio|."""
        return max(NEAR * self.error, 1e-6 * abs(self.ratio))


@dataclass(frozen=True, slots=True)
class History:
    """The constants now, and earlier ratios with theirs: where constants change, the ratio follows the right one.

    Attributes:
        constants: Numbers of the training by name, all > 0.
        before: Earlier confirmed ratios of the same tensor.
        shapes: Of all tensors, by name: a mean may have been taken over the layer's inputs, or its cells.
    """

    constants: Mapping[str, float]
    before: tuple[Observation, ...] = ()
    shapes: Shapes = field(default_factory=dict)

    def names_of(self, ratio: float, error: float, shape: tuple[int, ...] = ()) -> list[KnownFactor]:
        """The simplest known numbers that the ratio may be, now and at most earlier times; two where several fit."""
        now = Observation(ratio, error, self.constants)
        groups = [self._fitting_before(group, shape) for group in now.fitting(shape, self.shapes)]
        place = next((place for place, group in enumerate(groups) if group), None)
        if place is None:
            return []
        fitting = groups[place]
        if place == PRODUCTS:  # no simpler than a length
            fitting = [*fitting, *groups[SIZES], *groups[SIZES + 1]]
        sure = len(fitting) == 1 and place < SIZES and place != ONE_OFF and not now.fits_by_chance(place)
        return [replace(one, is_sure=sure) for one in fitting[:MAX_NAMES]]

    def _fitting_before(self, group: Sequence[KnownFactor], shape: tuple[int, ...]) -> list[KnownFactor]:
        """Those of some numbers that most of the earlier ratios were too."""
        earlier = [{one.label for known in then.fitting(shape, self.shapes) for one in known} for then in self.before]
        enough = MIN_SHARE_OF_HISTORY * len(earlier)
        return [one for one in group if sum(one.label in labels for labels in earlier) >= enough]


def _by_simplicity(
    constants: Mapping[str, float], shape: tuple[int, ...], shapes: Shapes
) -> Iterator[list[KnownFactor]]:
    known = {name: float(value) for name, value in constants.items() if value not in (0, 1)}
    divisors = {name: Divisor(name, _PHRASES.get(name, f"`{name}`")) for name in known}
    yield list(_constants(known, divisors))
    yield [KnownFactor(2.0, "2"), KnownFactor(0.5, "1/2")]
    yield list(_pairs(known, divisors))
    yield list(_logarithms())
    yield list(_one_off(known, divisors))
    yield list(_threes(known, divisors))
    yield _powers_of_two(range(LOSS_SCALE, 25))
    yield list(_own_sizes(shape))
    yield list(_sizes_elsewhere(shape, shapes))
    yield _powers_of_two(range(2, LOSS_SCALE))


def _powers_of_two(powers: Iterable[int]) -> list[KnownFactor]:
    return [KnownFactor(2.0**power, f"2^{power}") for two in powers for power in (two, -two)]


def _constants(known: Mapping[str, float], divisors: Mapping[str, Divisor]) -> Iterator[KnownFactor]:
    """Each constant and its inverse; a learning rate is no divisor, and dropout divides by the share that it keeps."""
    for name, value in known.items():
        yield KnownFactor(value, f"`{name}`", over=divisors[name])
        if name.lower() in LEARNING_RATES:
            says = f"backprop is already multiplied by the learning rate `{name}`: it is the update, not the gradient"
            yield KnownFactor(1 / value, f"1/`{name}`", under=divisors[name], kind=f"multiplied_by:{name}", says=says)
        else:
            yield KnownFactor(1 / value, f"1/`{name}`", under=divisors[name])
        if "drop" in name.lower() and 0 < value < 1:
            kept = Divisor(f"1-{name}", f"the share that dropout keeps, 1 - `{name}`,")
            yield KnownFactor(1 - value, f"1 - `{name}`", over=kept)
            yield KnownFactor(1 / (1 - value), f"1/(1 - `{name}`)", under=kept)


def _logarithms() -> Iterator[KnownFactor]:
    """A loss in other units of information than its gradient."""
    for base, unit in ((2, "bits (log2)"), (10, "decimal digits (log10)")):
        factor, label = math.log(base), f"ln({base})"
        yield KnownFactor(
            1 / factor,
            f"1/{label}",
            max_reach=MAX_REACH_OF_NUMBER,
            kind=f"loss_in_log{base}",
            says=f"the loss is in {unit} and the gradient that of a loss in nats (ln): it lacks the factor 1/{label}",
        )
        yield KnownFactor(
            factor,
            label,
            max_reach=MAX_REACH_OF_NUMBER,
            kind=f"gradient_in_log{base}",
            says=f"the loss is in nats (ln) and the gradient that of a loss in {unit}: it lacks the factor {label}",
        )


def _one_off(known: Mapping[str, float], divisors: Mapping[str, Divisor]) -> Iterator[KnownFactor]:
    """A mean over one too few or one too many of what a constant counts."""
    for name, a in known.items():
        if a < 2 or a != round(a):
            continue
        all_of_them = divisors[name]
        for other, sign in ((a - 1, "-"), (a + 1, "+")):
            beside = Divisor(f"{name}{sign}1", f"{all_of_them.words} {'less' if sign == '-' else 'plus'} one")
            apart = 1 / (4 * a * a)  # a fourth of the distance from the same for a + 1
            yield KnownFactor(
                other / a, f"(`{name}` {sign} 1)/`{name}`", over=beside, under=all_of_them, max_reach=apart
            )
            yield KnownFactor(
                a / other, f"`{name}`/(`{name}` {sign} 1)", over=all_of_them, under=beside, max_reach=apart
            )


def _threes(known: Mapping[str, float], divisors: Mapping[str, Divisor]) -> Iterator[KnownFactor]:
    """The product of two constants by a third, and the inverse, such as batch x timesteps / tokens."""
    for first, second in itertools.combinations(sorted(known), 2):
        both = Divisor(f"{first}*{second}", f"{divisors[first].words} times {divisors[second].words}")
        product, label = known[first] * known[second], f"`{first}` x `{second}`"
        for third in known:
            if third not in (first, second):
                value, one = product / known[third], divisors[third]
                yield KnownFactor(value, f"{label}/`{third}`", over=both, under=one, max_reach=MAX_REACH_OF_THREE)
                yield KnownFactor(1 / value, f"`{third}`/({label})", over=one, under=both, max_reach=MAX_REACH_OF_THREE)


def _own_sizes(shape: tuple[int, ...]) -> Iterator[KnownFactor]:
    """The tensor's own sizes: a mean was taken over an axis, or over all of it."""
    sizes = [(f"axis {axis}", f"the length of axis {axis}", length) for axis, length in enumerate(shape)]
    if len(shape) > 1:
        sizes.append(("size", "the number of entries", math.prod(shape)))
    for key, label, size in sizes:
        if size > 1:
            divisor = Divisor(key, f"{label} of this tensor")
            yield KnownFactor(float(size), label, over=divisor, is_size=True, is_own_size=True)
            yield KnownFactor(1 / size, f"1 / {label}", under=divisor, is_size=True, is_own_size=True)


def _sizes_elsewhere(shape: tuple[int, ...], shapes: Shapes) -> Iterator[KnownFactor]:
    """The lengths of other tensors' axes, each under the first name that has it."""
    lengths: dict[int, Divisor | None] = dict.fromkeys((0, 1, *shape))
    for name, other in shapes.items():
        for axis, length in enumerate(other):
            lengths.setdefault(length, Divisor(f"axis {axis} of {name}", f"the length of axis {axis} of `{name}`"))
    for length, divisor in lengths.items():
        if divisor is not None:
            yield KnownFactor(float(length), divisor.words, over=divisor, is_size=True)
            yield KnownFactor(1 / length, f"1 / {divisor.words}", under=divisor, is_size=True)


def _pairs(known: Mapping[str, float], divisors: Mapping[str, Divisor]) -> Iterator[KnownFactor]:
    """Products and quotients of two constants, and each constant doubled or halved."""
    for first, a in known.items():
        for second, b in known.items():
            over, under = divisors[first], divisors[second]
            if first <= second:
                both = Divisor(f"{first}*{second}", f"{over.words} times {under.words}")
                yield KnownFactor(a * b, f"`{first}` x `{second}`", over=both)
                yield KnownFactor(1 / (a * b), f"1/(`{first}` x `{second}`)", under=both)
            if first != second:
                yield KnownFactor(a / b, f"`{first}`/`{second}`", over=over, under=under)
        words = divisors[first].words
        twice, half = Divisor(f"2*{first}", f"twice {words}"), Divisor(f"{first}/2", f"half of {words}")
        yield KnownFactor(2 * a, f"2 x `{first}`", over=twice)
        yield KnownFactor(a / 2, f"`{first}`/2", over=half)
        yield KnownFactor(1 / (2 * a), f"1/(2 x `{first}`)", under=twice)
        yield KnownFactor(2 / a, f"2/`{first}`", under=half)
