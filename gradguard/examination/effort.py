"""How much an examination measures of a tensor, and when a check must end."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays import Array
from gradguard.measurement import PILOTS
from gradguard.perturbation import EntryProbe, directions

ENTRIES = 8  # entries of a tensor whose gradient agrees, for sign agreement and the charts
EXPLAINING = 12  # entries of a tensor that a screen accuses, from which the cause is read
CLEAR_DIRECTION = 1000.0  # standard deviations of a difference of which 6 are 0.6 % of it
FEW_ENTRIES = 4  # of a tensor that is examined where evaluations are slow: three entries told 40 faults of 40
WHOLE = 100  # evaluations that an examination takes, about
OF_BLOCK = 2  # entries of a named block, from which a factor can be told from another error
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much an examination measures of a tensor.

    Attributes:
        entries: Single entries, at most.
        aligned: Directions along the gradient, each entry weighted at random: they resolve an error of scale best.
        gaussian: Directions in which every entry moves: they see what the gradient misses.
        pilots: How many probes of a kind search for the step that all of them start from, where one is known already.
        enough: Standard deviations of a difference along a direction from which no longer step is tried.
        of_block: Entries of each named block, at least: a block without any can neither be blamed nor cleared.
    """

    entries: int = ENTRIES
    aligned: int = 1
    gaussian: int = 1
    pilots: int = 0
    enough: float = CLEAR_DIRECTION
    of_block: int = 0

    def within(self, evaluations: float) -> "Effort":
        """As much of it as some evaluations of the loss are enough for: few entries tell that a tensor is wrong.

        They may not tell in what way; the next check examines what is known to be wrong again.
        """
        return self if evaluations >= WHOLE else replace(self, entries=min(self.entries, FEW_ENTRIES), of_block=0)


EXPLAIN = Effort(EXPLAINING, aligned=2, gaussian=2, pilots=1, enough=math.inf, of_block=OF_BLOCK)
# A scale error too small for one direction shows in many aligned ones: 200 resolve a fourteenth of what one resolves.
EXPLAIN_DRIFT = Effort(EXPLAINING, aligned=200, gaussian=2, pilots=PILOTS, enough=math.inf, of_block=OF_BLOCK)


def draw_entries(
    gradient: Array, effort: Effort, blocks: Iterable[NDArray[np.bool_]], rng: np.random.Generator
) -> list[EntryProbe]:
    """The entries of a tensor that an examination measures, some of each named block among them."""
    drawn = directions.stratified_entries(gradient, effort.entries, rng)
    return drawn + directions.entries_of_blocks(gradient, blocks, effort.of_block, drawn, rng)


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a check must end.

    Attributes:
        clock: Seconds since some moment; all processes of a training read the same number from it.
        started: When the check started.
        end: When it must end; inf for no bound.
    """

    clock: Clock
    started: float
    end: float = math.inf

    def from_now(self, seconds: float | None) -> "Deadline":
        """The same check with its end so many seconds from now, or at once for None."""
        return self if seconds is None else replace(self, end=self.clock() + seconds)

    def affordable(self, evaluations: int) -> float:
        """How many more evaluations fit, if they take as long as those done since the start; inf without a bound."""
        if self.end == math.inf:
            return math.inf
        now = self.clock()
        return (self.end - now) / max((now - self.started) / max(1, evaluations), 1e-9)

    def restarted(self) -> "Deadline":
        """The same check with as long from now as it had from its start."""
        return self if self.end == math.inf else replace(self, end=self.clock() + self.end - self.started)

    def after(self, seconds: float) -> "Deadline":
        """The same check with its end so many seconds after its start."""
        return replace(self, end=self.started + seconds)

    @property
    def is_over(self) -> bool:
        """Whether the time is over. Without a bound the clock is not read."""
        return self.end < math.inf and self.clock() > self.end
