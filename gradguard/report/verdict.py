"""The verdicts: how grave each is, what it is called, and what to do about it.

A new verdict is one line here. Command line, alerts, logs and the GradGuard tab take what they need from that line.
"""

from enum import IntEnum, StrEnum
from typing import Self


class Level(IntEnum):
    """How grave a verdict is. TensorBoard draws the number as a curve; the GradGuard tab styles by the name."""

    ok = 0
    explained = 1
    unclear = 2
    bug = 3


class Verdict(StrEnum):
    """What a check concludes about one tensor's gradient, or about all of them.

    Attributes:
        level: How grave it is.
        advice: What to do about it; "" where the likely cause says that.
        meant: What differs in this way on purpose; "" where nothing usual does.
    """

    level: Level
    advice: str
    meant: str

    # Every verdict below names its level; without the default, type checkers refuse the look-up Verdict("scale").
    def __new__(cls, value: str, level: Level = Level.unclear, advice: str = "", meant: str = "") -> Self:
        """A verdict that equals its name, and carries its level, its advice and what may be meant by it."""
        verdict = str.__new__(cls, value)
        verdict._value_ = value
        verdict.level = level
        verdict.advice = advice
        verdict.meant = meant
        return verdict

    ok = "ok", Level.ok
    float_precision = "float_precision", Level.explained
    inconclusive = "inconclusive", Level.unclear
    scale = (
        "scale",
        Level.bug,
        "compare how the loss and the backward pass are normalised, and multiply the gradient by numerical/backprop",
        "a gradient scaled by hand",
    )
    sign = (
        "sign",
        Level.bug,
        "look for a lost minus sign, or a residual with its two terms swapped",
        "gradient reversal",
    )
    missing = (
        "missing",
        Level.bug,
        "look at where this gradient is written, and whether it is reset afterwards",
        "a stop-gradient or detach",
    )
    spurious = (
        "spurious",
        Level.bug,
        "check whether the forward pass uses this tensor at all",
        "a straight-through estimator",
    )
    clipped = "clipped", Level.bug
    structure = (
        "structure",
        Level.bug,
        "start at the worst entries, and compare the code there with the chain rule, term by term",
        "a truncated gradient, something held constant, a straight-through estimator",
    )
    kink = "kink", Level.unclear
    nondeterministic = "nondeterministic", Level.unclear
    nonfinite = "nonfinite", Level.bug, "look for a division, logarithm or overflow in the backward pass"
    other_loss = "other_loss", Level.unclear
    expected = "expected", Level.explained

    @classmethod
    def of(cls, name: str) -> "Verdict | None":
        """The verdict of this name; None for a name that only another version of gradguard knows."""
        return cls.__members__.get(name)

    @property
    def is_bug(self) -> bool | None:
        """True for a wrong gradient, False for a right one, None where the check cannot tell."""
        return None if self.level is Level.unclear else self.level is Level.bug

    @property
    def agrees(self) -> bool:
        """Whether the gradient is that of the loss, as far as precision can tell."""
        return self in (Verdict.ok, Verdict.float_precision)

    @property
    def is_factor(self) -> bool:
        """Whether one number, n / g, describes the whole error."""
        return self in (Verdict.scale, Verdict.sign)

    @property
    def words(self) -> str:
        """The name in words, such as "float precision"."""
        return self.replace("_", " ")

    @property
    def label(self) -> str:
        """The name in words, marked where it is a bug, such as "BUG: scale"."""
        return f"BUG: {self.words}" if self.is_bug else self.words
