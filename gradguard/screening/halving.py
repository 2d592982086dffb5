"""Which tensors are wrong: groups of them are probed, and those that alarm are split."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gradguard.measurement import MeasurementContext
from gradguard.screening.screen import Screen, visible_errors
from gradguard.statistics import ALARM_Z

MOSTLY_WRONG = 0.7  # share of the groups of one round from which halving saves nothing
FEWEST_GROUPS = 8  # groups that this share is of, at least


@dataclass(frozen=True, slots=True)
class Located:
    """Where the gradient of a model is wrong.

    Attributes:
        wrong: The tensors whose own probe alarmed.
        visible: The tensors that no probe accuses, each with the smallest relative error that would have shown.
        left: Groups that alarmed, or were not probed yet, and could not be split in time.
    """

    wrong: tuple[str, ...]
    visible: dict[str, float]
    left: tuple[tuple[str, ...], ...]


def locate(
    context: MeasurementContext,
    screen: Screen,
    groups: Sequence[Sequence[str]],
    rng: np.random.Generator,
    is_over: Callable[[], bool],
) -> Located:
    """The wrong tensors among some groups: each group is probed, and halved where it alarms.

    Neighbours stay together, since an error in one layer spoils the gradients of all layers below it.

    Args:
        context: What to measure with.
        screen: The screen that alarmed; it gives the steps and the noise.
        groups: The tensors, in groups.
        rng: Draws the probes.
        is_over: Whether the time is over.
    """
    wrong: list[str] = []
    visible: dict[str, float] = {}
    waiting = [tuple(group) for group in groups if group]
    begun = False
    while waiting:
        alarmed: list[tuple[str, ...]] = []
        for place, group in enumerate(waiting):
            if begun and is_over():
                split = [half for one in alarmed for half in halves(one)]
                return Located(tuple(wrong), visible, (*split, *waiting[place:]))
            begun = True
            errors = _visible_if_right(context, screen, group, rng)
            if errors is not None:
                visible |= errors
            elif len(group) == 1:
                wrong.append(group[0])
            else:
                alarmed.append(group)
        if len(waiting) >= FEWEST_GROUPS and len(alarmed) >= MOSTLY_WRONG * len(waiting):
            waiting = [(name,) for group in alarmed for name in group]
        else:
            waiting = [half for group in alarmed for half in halves(group)]
    return Located(tuple(sorted(wrong, key=list(context.arrays).index)), visible, ())


def halves(group: tuple[str, ...]) -> list[tuple[str, ...]]:
    """A group in two halves of neighbours; a single tensor by itself."""
    middle = (len(group) + 1) // 2
    return [half for half in (group[:middle], group[middle:]) if half]


def disjoint(groups: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """The groups, each without the tensors of the groups before it."""
    seen: set[str] = set()
    kept = []
    for group in groups:
        rest = tuple(name for name in group if name not in seen)
        seen |= set(rest)
        if rest:
            kept.append(rest)
    return tuple(kept)


def _visible_if_right(
    context: MeasurementContext, screen: Screen, group: tuple[str, ...], rng: np.random.Generator
) -> dict[str, float] | None:
    """The smallest errors that the probes of a group would have shown; None where one of them alarms."""
    usable = [probe for probe in screen.probe_group(context, group, rng) if probe.suits]
    if any(abs(probe.z) > ALARM_Z for probe in usable):
        return None
    return visible_errors(group, usable)
