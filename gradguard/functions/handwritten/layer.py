"""The check of one hand-written layer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gradguard.arrays import Blocks, is_whole
from gradguard.checks.check import CheckOptions
from gradguard.containers import ArrayContainer
from gradguard.environment import with_short_traceback
from gradguard.functions.handwritten.call import Call, random_cotangents
from gradguard.functions.handwritten.pair import Gradients, Pair
from gradguard.functions.handwritten.structure import Inputs, input_names
from gradguard.functions.handwritten.unrolled import step_of
from gradguard.functions.handwritten.where import checked_calls, evenly_chosen
from gradguard.perturbation import Snapshot
from gradguard.report import Report


@with_short_traceback
def check_backward(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    inputs: Sequence[Any],
    *,
    names: Sequence[str] | None = None,
    cache: bool | None = None,
    params: ArrayContainer | None = None,
    grads: Gradients | None = None,
    steps: int | None = None,
    carried: Mapping[str, int] | None = None,
    constants: Mapping[str, float] | None = None,
    blocks: Blocks | None = None,
    precision: str = "auto",
    snapshot: Snapshot | Iterable[Snapshot] | None = None,
    entries: int | str | None = None,
    expected: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Report:
    """Check the backward pass of one hand-written layer, for random cotangents of all its outputs.

    `forward(*inputs)` returns `(outputs..., cache)`, and `backward(*cotangents, cache)` the gradients in the order of
    the inputs. Each floating-point array among the inputs is checked, also in dicts and lists; everything else is held
    fixed. Where a gradient is wrong and there are several outputs, its cause says for which of them.

    Args:
        forward: The layer. It is called with copies of the arrays.
        backward: Its backward pass. It returns None for an input without a gradient; a dict of gradients has the keys
            of the input, or these with a "d" before them.
        inputs: The inputs, a tuple or list.
        names: The names of the inputs; by default those of the parameters of `forward`.
        cache: Whether `forward` returns a cache as its last item, which `backward` takes as its last argument; by
            default it does if it returns several items. An object may keep it: then `forward` returns the outputs only,
            and `backward` takes the cotangents only.
        params: Parameters that `forward` reads beside its inputs, such as `attributes(layer, "W", "b")`.
        grads: Where `backward` leaves their gradients, such as `attributes(layer, W="dW", b="db")`, or a function that
            returns that, for gradients that the first backward pass makes. They may be assigned or added up.
        steps: Unrolls a recurrent step over so many timesteps, and checks it at each, or at 40 of more, with the states
            and cotangents that occur there. The report says at which timesteps a gradient is wrong. An input that is a
            list of `steps` arrays has one for each timestep.
        carried: The index of the output that becomes an input of the next step, by the name of that input; by default
            it is found by names such as "h_prev" and "dh_next", and by shapes.
        constants: As in `check`.
        blocks: As in `check`.
        precision: As in `check`.
        snapshot: As in `check`: what both passes draw at random starts from it.
        entries: As in `check`.
        expected: As in `check`.
        seed: The seed of the cotangents and of the probes.

    Returns:
        The report: a verdict on each input, and on all of them. With `steps`, `functions` has that of each timestep.

    Raises:
        TypeError: `forward` returned no cache, `backward` does not take what it returned, or something is of a kind
            that cannot be checked; the message names it.
        ValueError: The number, names or shapes of gradients do not fit, or an option's value does not.
    """
    options = CheckOptions(constants, blocks, None, precision, snapshot, entries, seed, None, expected)
    pair = Pair(forward, backward, cache, params, grads)
    _require_inputs(inputs)
    if (params is None) != (grads is None):
        raise ValueError("one of params and grads was given; expected both, arrays and their gradients, or neither")
    known = input_names(forward, len(inputs), names)
    if steps is None:
        if carried is not None:
            raise ValueError("carried was given without steps; expected steps=..., the number of timesteps")
        given = Inputs.of(inputs, known)
        return checked_calls({0: Call(pair, given, random_cotangents(pair, given, options))}, 1, "call", options)
    if not is_whole(steps) or steps < 1:
        raise ValueError(f"steps is {steps!r}; expected a whole number of at least 1")
    calls = step_of(pair, inputs, known, steps, carried, options).unrolled(steps, options)
    return checked_calls({index: calls[index] for index in evenly_chosen(steps)}, steps, "timestep", options)


def _require_inputs(inputs: object) -> None:
    if not isinstance(inputs, tuple | list):
        raise TypeError(
            f"inputs is a {type(inputs).__name__}; expected a tuple of what forward is called with, such as (x, W, b)"
        )
