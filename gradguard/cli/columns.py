"""The numbers that were read, and what the reader of the report must know of how they were read."""

from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_SKIPPED_LINES = 5  # that are named one by one
EXAMPLE = (
    "expected two columns under a header, such as `numeric,analytic` and below it `0.24,0.12`, "
    "or lines such as `numerical: 0.24 analytic: 0.12`"
)


@dataclass(slots=True)
class Columns:
    """The numbers of one tensor as they were written, (m,) each; `error` is empty if there are no error bars."""

    numeric: list[str] = field(default_factory=list)
    analytic: list[str] = field(default_factory=list)
    error: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Pasted:
    """What was read.

    Attributes:
        tensors: The numbers by the names of their tensors, in the order of the text.
        notes: What was assumed and what was left out, a sentence each.
    """

    tensors: dict[str, Columns]
    notes: Sequence[str]


def skipped(problems: Sequence[str]) -> list[str]:
    """The notes on lines that were left out, each a clause that starts with the line."""
    more = len(problems) - MAX_SKIPPED_LINES
    notes = [f"skipped {problem}" for problem in problems[:MAX_SKIPPED_LINES]]
    return [*notes, f"skipped {more} more lines"] if more > 0 else notes
