"""How much a check measures of a tensor, and about what that costs."""

from dataclasses import dataclass, replace

from gradguard.measurement.step_search import PILOTS

ENTRIES = 300  # of a tensor, at most, unless asked for otherwise


@dataclass(frozen=True, slots=True)
class Cost:
    """About how many evaluations of the loss it takes.

    Attributes:
        tensor: To hear the noise of the loss, to find steps, to see that the loss repeats.
        direction: To measure along a direction.
        entry: To measure an entry.
    """

    tensor: int
    direction: int
    entry: int


USUALLY = Cost(tensor=60, direction=20, entry=8)
IN_DOUBT = Cost(tensor=220, direction=40, entry=40)  # what disagrees is measured again, and again


@dataclass(frozen=True, slots=True)
class Effort:
    """How much a deep check measures of a tensor.

    Attributes:
        entries: Single entries, at most.
        aligned: Directions along the gradient, each entry weighted at random: they resolve an error of scale best.
        gaussian: Directions that see what the gradient misses.
        pilots: How many probes of a kind find the step that all of them begin with.
        cost: About what that takes.
    """

    entries: int = ENTRIES
    aligned: int = 4
    gaussian: int = 4
    pilots: int = PILOTS
    cost: Cost = USUALLY

    def at_most(self, evaluations: float) -> "Effort":
        """What so many evaluations pay for: fewer entries, and when that is not enough, fewer directions."""
        cost, directions = self.cost, self.aligned + self.gaussian
        entries = (evaluations - cost.tensor - cost.direction * directions) / cost.entry
        if entries >= LEAST.entries:
            return replace(self, entries=min(self.entries, int(entries)))
        share = max(0.0, (evaluations - cost.tensor - cost.entry * LEAST.entries) / (cost.direction * directions))
        aligned = max(LEAST.aligned, int(share * self.aligned))
        gaussian = max(LEAST.gaussian, int(share * self.gaussian))
        return replace(LEAST, aligned=aligned, gaussian=gaussian, pilots=min(self.pilots, aligned), cost=cost)


LEAST = Effort(entries=3, aligned=1, gaussian=1, pilots=1)
