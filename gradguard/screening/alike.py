"""Tensors of which a screen of the whole model promises too little: probed again in groups of like sensitivity.

A direction through all tensors has the noise, the rounding and the step of all of them. A tensor with a small share in
it is hidden by the others; a direction through its like alone is as sharp for them as the first one was for the rest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from gradguard.measurement import MeasurementContext, TensorUnderTest
from gradguard.screening.halving import Located, halves, locate
from gradguard.screening.screen import Screen

LIKE = 10.0  # ratio of the largest change of the loss that two tensors of a group make by a move of their own size


@dataclass(frozen=True, slots=True)
class Covered:
    """What groups of like tensors show.

    Attributes:
        located: Where they are wrong, and the smallest errors that would have shown.
        screens: The screens of the groups, to be continued at later checks.
    """

    located: Located
    screens: tuple[Screen, ...]


def cover(
    context: MeasurementContext,
    screen: Screen,
    visible: Mapping[str, float],
    is_enough: Callable[[float], bool],
    rng: np.random.Generator,
    is_over: Callable[[], bool],
) -> Covered:
    """What groups of like tensors show of those that a screen hides.

    A group in which some are still hidden is halved, down to single tensors.

    Args:
        context: What to measure with.
        screen: The screen; it gives the steps and the noise.
        visible: The smallest error of each tensor that would have shown, of those that nothing accuses.
        is_enough: Whether an error is small enough.
        rng: Draws the probes.
        is_over: Whether the time is over.
    """
    tensors = [TensorUnderTest(context, name) for name in screen.names]
    changes = {tensor.name: tensor.extent * tensor.size.norm for tensor in tensors if tensor.size.norm}
    waiting = _alike({name: changes[name] for name in changes if not is_enough(visible.get(name, 0.0))})
    usual = float(np.median([*changes.values()] or [0.0]))
    wrong: list[str] = []
    left: list[tuple[str, ...]] = []
    smaller: dict[str, float] = {}
    screens: list[Screen] = []

    def longer_for(group: tuple[str, ...]) -> Screen:
        # Tensors that change the loss less may move further before it curves.
        further = max(1.0, usual / float(np.median([changes[name] for name in group])))
        return screen.with_longer_steps(further).restarted(tuple(name for name in screen.names if name in group))

    while waiting and not is_over():
        group = waiting.pop(0)
        found = locate(context, longer_for(group), [group], rng, is_over)
        wrong += found.wrong
        left += found.left
        smaller |= found.visible
        hidden = tuple(name for name in group if name in found.visible and not is_enough(found.visible[name]))
        shown = tuple(name for name in group if name in found.visible and name not in hidden)
        if shown:
            screens.append(longer_for(shown))
        if 0 < len(hidden) < len(group):
            waiting.append(hidden)
        elif len(hidden) > 1:
            waiting += halves(hidden)
    if screens:
        others = changes.keys() - {name for one in screens for name in one.names} - {*wrong}
        screens += map(longer_for, _alike({name: changes[name] for name in changes if name in others}))
    return Covered(Located(tuple(wrong), smaller, tuple(left)), tuple(screens))


def _alike(changes: Mapping[str, float]) -> list[tuple[str, ...]]:
    """Tensors in groups of like sensitivity, the largest group first.

    Args:
        changes: How much each changes the loss when it moves by its own size.
    """
    groups: list[list[str]] = []
    for name in sorted(changes, key=changes.__getitem__, reverse=True):
        if not groups or changes[name] * LIKE < changes[groups[-1][0]]:
            groups.append([])
        groups[-1].append(name)
    return sorted(map(tuple, groups), key=len, reverse=True)
