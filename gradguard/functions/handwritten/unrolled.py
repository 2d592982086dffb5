"""A recurrent step and its backward pass, unrolled over timesteps, with the states and cotangents that then occur."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradguard.arrays import Array
from gradguard.checks.check import CheckOptions
from gradguard.functions.handwritten.call import Call, undisturbed
from gradguard.functions.handwritten.cotangents import drawn_like
from gradguard.functions.handwritten.pair import Pair
from gradguard.functions.handwritten.structure import Inputs, copied, output_names
from gradguard.perturbation import Rollback
from gradguard.report import listed

BEFORE = re.compile(r"prev(ious)?|last|old", re.IGNORECASE)  # in the name of a state that enters a step
AROUND = re.compile(r"prev(ious)?|last|old|next|new|_|\d", re.IGNORECASE)  # beside the name of a state
ASK = 'say which input takes which output of the step before: carried={"h_prev": 0}'


@dataclass(frozen=True, slots=True)
class Step:
    """A recurrent step.

    Attributes:
        pair: The step function and its backward pass.
        first: The inputs of the first step.
        series: The inputs that differ from step to step, each with its value at every timestep.
        carried: The index of the output that becomes an input of the next step, by the name of the input.
    """

    pair: Pair
    first: Inputs
    series: Mapping[str, Sequence[Any]]
    carried: Mapping[str, int]

    def unrolled(self, steps: int, options: CheckOptions) -> list[Call]:
        """The calls of each timestep, in the order of the forward pass; everything is put back.

        Each output of each timestep has a random cotangent, to which comes what the step after passes back.
        """
        rng = np.random.default_rng(options.seed)

        def unroll(_: Rollback) -> list[Call]:
            inputs, outputs = self._forward(steps)
            given = [drawn_like(each, rng) for each in outputs]
            calls: list[Call] = []
            back: dict[int, Any] = {}
            for each, cotangents in zip(reversed(inputs), reversed(given), strict=True):
                call = Call(self.pair, each, _added(cotangents, back))
                calls.append(call)
                gradients = each.gradients(self.pair.gradients(each, call.cotangents))
                back = {index: gradients[name] for name, index in self.carried.items()}
            return calls[::-1]

        return undisturbed(self.pair, self.first, options, unroll)

    def _forward(self, steps: int) -> tuple[list[Inputs], list[tuple[Any, ...]]]:
        inputs, outputs = list[Inputs](), list[tuple[Any, ...]]()
        states: dict[str, Any] = {}
        for step in range(steps):
            now = {name: values[step] for name, values in self.series.items()} | states
            inputs.append(self.first.replaced(now))
            result, _ = self.pair.split(self.pair.forward(*inputs[-1].filled(inputs[-1].arrays)))
            outputs.append(copied(result))
            states = {name: outputs[-1][index] for name, index in self.carried.items()}
        return inputs, outputs


def _added(cotangents: tuple[Any, ...], back: Mapping[int, Any]) -> tuple[Any, ...]:
    """The cotangents of a step with what the step after passes back to its outputs, in the dtype of the outputs."""
    return tuple(
        each if back.get(index) is None else np.asarray(each + back[index], np.asarray(each).dtype)
        for index, each in enumerate(cotangents)
    )


def step_of(
    pair: Pair,
    values: Sequence[Any],
    names: Sequence[str],
    steps: int,
    carried: Mapping[str, int] | None,
    options: CheckOptions,
) -> Step:
    """The recurrent step of a function and its backward pass.

    Args:
        pair: The step function.
        values: Its inputs; a list or tuple of as many arrays as there are steps holds one for each step.
        names: Their names.
        steps: The number of timesteps.
        carried: As in `Step`; found by names and shapes where it is None.
        options: The options of the check.

    Raises:
        ValueError: It cannot be told which outputs are carried, or they do not fit.
    """
    series = {name: value for name, value in zip(names, values, strict=True) if _is_series(value, steps)}
    first = Inputs.of(
        [series[name][0] if name in series else value for name, value in zip(names, values, strict=True)], names
    )

    def forward(_: Rollback) -> tuple[Any, ...]:
        return copied(pair.split(pair.forward(*first.filled(first.arrays)))[0])

    outputs = undisturbed(pair, first, options, forward)
    states = {name: array for name, array in first.arrays.items() if name in first.values and name not in series}
    if carried is None:
        found = _inferred(states, dict(zip(output_names(pair.backward, len(outputs)), outputs, strict=True)))
    else:
        found = dict(carried)
    _require_fitting(found, states, outputs)
    return Step(pair, first, series, found)


def _is_series(value: object, steps: int) -> bool:
    if not isinstance(value, list | tuple) or len(value) != steps:
        return False
    return all(isinstance(item, np.ndarray) for item in value) and len({item.shape for item in value}) == 1


def _require_fitting(carried: Mapping[str, int], states: Mapping[str, Array], outputs: Sequence[Any]) -> None:
    for name, index in carried.items():
        if name not in states:
            raise ValueError(f"carried names {name!r}; expected an input that is one array: {listed(list(states))}")
        if index not in range(len(outputs)):
            raise ValueError(
                f"carried[{name!r}] is {index!r}; expected the index of an output, 0 to {len(outputs) - 1}"
            )
        if np.shape(outputs[index]) != states[name].shape:
            raise ValueError(
                f"output {index} has shape {np.shape(outputs[index])}, and input {name!r} has shape "
                f"{states[name].shape}; expected equal shapes, since it is carried from step to step"
            )


def _inferred(states: Mapping[str, Array], outputs: Mapping[str, Any]) -> dict[str, int]:
    """Which output is carried to which input: those with one name, as h and h_prev, then those of one shape.

    Raises:
        ValueError: That is ambiguous, or there is none.
    """
    found: dict[str, int] = {}
    shapes = [np.shape(value) for value in outputs.values()]
    for index, output in enumerate(outputs):
        alike = [name for name in states if _stem(name) == _stem(output) and states[name].shape == shapes[index]]
        if len(alike) == 1:
            found[alike[0]] = index
    called_previous = [name for name in states if BEFORE.search(name) and name not in found]
    if found and not called_previous:
        return found
    free = called_previous or list(states)
    for shape in dict.fromkeys(states[name].shape for name in free):
        inputs = [name for name in free if states[name].shape == shape]
        indices = [index for index, other in enumerate(shapes) if other == shape and index not in found.values()]
        if indices and len(inputs) != len(indices):
            raise ValueError(f"it is ambiguous which outputs are carried to {listed(inputs)}; {ASK}")
        found |= dict(zip(inputs, indices, strict=False))
    if not found:
        raise ValueError(
            f"no output has the shape of an input, so none is carried to the next step; {ASK}. An input that has "
            "an array for each timestep is a list of these: list(x)"
        )
    return found


def _stem(name: str) -> str:
    """The name of a state, whichever step it belongs to."""
    return AROUND.sub("", name)
