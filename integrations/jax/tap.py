"""The gradient that an optimizer of optax really gets, kept in its state, and the steps that it is of."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradguard.integrations.jax.losses import Loss


class TapState(NamedTuple):
    """What `gradient_tap` keeps in the state of the optimizer.

    Attributes:
        count: The gradients that came by so far.
        gradient: The latest one.
    """

    count: Any
    gradient: Any


def gradient_tap() -> Any:
    """A transformation of optax that changes nothing and keeps the gradient that comes by in its state.

    Its place in a chain says which gradient a guard checks: put first in the chain that `optax.MultiSteps` wraps, it
    keeps the average of a window, as it is before clipping.

        optimizer = optax.MultiSteps(optax.chain(gradient_tap(), optax.adam(1e-3)), 4)

    Returns:
        An `optax.GradientTransformation`. Its state takes the memory of the gradient.
    """
    import optax

    def init(params: Any) -> TapState:
        return TapState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(gradient: Any, state: TapState, _params: Any = None) -> tuple[Any, TapState]:
        return gradient, TapState(state.count + 1, gradient)

    return optax.GradientTransformation(init, update)


def tapped(opt_state: object) -> TapState:
    """The state of the tap in the state of an optimizer.

    Raises:
        ValueError: There is no tap, or there are several.
    """
    found = [node for node in _nodes(opt_state, lambda node: isinstance(node, TapState)) if isinstance(node, TapState)]
    if len(found) != 1:
        raise ValueError(
            f"the state of the optimizer has {len(found)} taps; expected one: optax.chain(gradient_tap(), ...), and "
            "opt_state as optimizer.init or optimizer.update returns it"
        )
    return found[0]


def is_between_updates(opt_state: object) -> bool:
    """Whether an `optax.MultiSteps` has accumulated a part of its next gradient; it waits for the device."""
    return any(int(node.mini_step) > 0 for node in _nodes(opt_state, _counts_steps) if _counts_steps(node))


def _counts_steps(node: Any) -> bool:
    return hasattr(node, "mini_step")


def _nodes(tree: object, is_leaf: Callable[[Any], bool]) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=is_leaf)


@dataclass(slots=True)
class Window:
    """The steps from one update of the optimizer to the next, of which a check is due.

    Attributes:
        step: The first of them.
        params: Copies of the parameters, which are the same at all of them.
        count: The gradients that the tap had seen before.
        batches: The further arguments of the loss at each step so far.
    """

    step: int
    params: Any
    count: int
    batches: list[tuple[object, ...]] = field(default_factory=list)

    @classmethod
    def of(cls, step: int, params: object, opt_state: object) -> "Window":
        """The window that begins with a step; the parameters are copied, since the step may donate them."""
        return cls(step, jax.tree.map(jnp.copy, params), int(tapped(opt_state).count))


def loss_of_window(loss: Loss) -> Loss:
    """The loss that the average gradient of a window is of: the average over its batches."""

    def averaged(params: Any, *batches: tuple[object, ...]) -> Any:
        return sum(loss(params, *batch) for batch in batches) / len(batches)

    return averaged
