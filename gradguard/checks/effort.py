"""How much a check measures of a tensor, about what that costs, and when a check must end."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from gradguard.measurement import PILOTS

ENTRIES = 300  # entries of a tensor that are measured at most, unless the user asks for more
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Cost:
    """About how many evaluations of the loss a measurement takes.

    Attributes:
        tensor: For the noise of the loss, the search for steps, and repeats of the loss.
        direction: For one direction.
        entry: For one entry.
    """

    tensor: int
    direction: int
    entry: int


CLEAN = Cost(tensor=60, direction=20, entry=8)  # a slow loss took 130 to 310 evaluations at the first check
IN_DOUBT = Cost(tensor=220, direction=40, entry=40)  # and 280 to 500 after an alarm: suspects are measured again


@dataclass(frozen=True, slots=True)
class Effort:
    """How much a check measures of a tensor.

    Attributes:
        entries: Single entries, at most.
        aligned: Directions along the gradient, each entry weighted at random: they resolve an error of scale best.
        gaussian: Directions in which every entry moves: they see what the gradient misses.
        pilots: How many probes of a kind find the step that all of them start from.
        cost: About what the measurement takes.
    """

    entries: int = ENTRIES
    aligned: int = 4
    gaussian: int = 4
    pilots: int = PILOTS
    cost: Cost = CLEAN

    def at_most(self, evaluations: float) -> "Effort":
        """What a number of evaluations pays for: fewer entries and, if that is not enough, fewer directions."""
        cost, directions = self.cost, self.aligned + self.gaussian
        entries = (evaluations - cost.tensor - cost.direction * directions) / cost.entry
        if entries >= LEAST.entries:
            return replace(self, entries=min(self.entries, int(entries)))
        share = max(0.0, (evaluations - cost.tensor - cost.entry * LEAST.entries) / (cost.direction * directions))
        aligned = max(LEAST.aligned, int(share * self.aligned))
        gaussian = max(LEAST.gaussian, int(share * self.gaussian))
        return replace(LEAST, aligned=aligned, gaussian=gaussian, pilots=min(self.pilots, aligned), cost=cost)


LEAST = Effort(entries=3, aligned=1, gaussian=1, pilots=1)  # below this a tensor is not worth a measurement


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

    def after(self, seconds: float) -> "Deadline":
        """The same check with its end so many seconds after its start."""
        return replace(self, end=self.started + seconds)

    @property
    def is_over(self) -> bool:
        """Whether the time is over. Without a bound the clock is not read."""
        return self.end < math.inf and self.clock() > self.end

    def affordable(self, evaluations: int) -> float:
        """How many more evaluations fit, if they take as long as those done since the start."""
        now = self.clock()
        return (self.end - now) / ((now - self.started) / evaluations)
