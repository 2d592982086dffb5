"""One call of a function and of its backward pass, checked as the gradient of a loss.

The loss is the sum of all outputs, each entry times its cotangent. Its gradient with respect to the inputs is what the
backward pass returns for these cotangents, so the check of a function is that of any other gradient.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from gradguard.arrays import Array
from gradguard.checks.check import CheckOptions, checked, explanation_of
from gradguard.containers import read_gradients, read_parameters
from gradguard.diagnosis import worst_verdict
from gradguard.functions.handwritten.cotangents import drawn_like, named_leaves, products
from gradguard.functions.handwritten.pair import Gradients, Pair
from gradguard.functions.handwritten.structure import Inputs, floating_leaves, with_arrays
from gradguard.loss import try_twice
from gradguard.perturbation import Rollback, combined_snapshot, reached_state
from gradguard.report import Report, TensorReport, Thresholds, Verdict, listed

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a function and of its backward pass.

    Attributes:
        pair: The function.
        inputs: What it is called with.
        cotangents: What its backward pass is called with, one for each output, in the form of the outputs.
    """

    pair: Pair
    inputs: Inputs
    cotangents: tuple[Any, ...]

    def of_output(self, index: int) -> "Call":
        """The same with cotangents of one output only: zeros for the others."""
        zeros = {name: np.zeros_like(leaf) for name, leaf in named_leaves(self.cotangents).items() if leaf is not None}
        others = [with_arrays(each, str(at), zeros) for at, each in enumerate(self.cotangents)]
        return dataclasses.replace(self, cotangents=(*others[:index], self.cotangents[index], *others[index + 1 :]))

    @property
    def in_float64(self) -> "Call":
        """The same with float64 copies of all arrays."""
        inputs = dataclasses.replace(self.inputs, arrays=_widened(self.inputs.arrays))
        named = {str(index): each for index, each in enumerate(self.cotangents)}
        cotangents = _widened(floating_leaves(named))
        return Call(self.pair, inputs, tuple(with_arrays(each, name, cotangents) for name, each in named.items()))

    @property
    def is_zero(self) -> bool:
        """Whether all cotangents are zero, so that the gradients of all inputs are."""
        return not any(np.any(leaf) for leaf in named_leaves(self.cotangents).values() if leaf is not None)


@dataclass(frozen=True, slots=True)
class Passed:
    """What one forward and backward pass gave.

    Attributes:
        gradients: Of each array among the inputs and parameters; None where there is none.
        unchecked: Inputs that are held fixed although the backward pass returned a gradient for them.
        attributes: As in `Pair.unchecked_attributes`.
    """

    gradients: Mapping[str, Any]
    unchecked: tuple[str, ...]
    attributes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckedCall:
    """The check of one call.

    Attributes:
        report: The check of the gradients that its backward pass returned.
        notes: What of the call is not checked, in sentences.
    """

    report: Report
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CotangentLoss:
    """The outputs of a call as unreduced losses: each entry times its cotangent.

    Attributes:
        call: The call.
        moved: The arrays that the check moves or swaps, by name.
        loss: From where the state that an evaluation may change is reached.
    """

    call: Call
    moved: Mapping[str, Any]
    loss: tuple[object, ...]

    def __call__(self) -> Array:
        """The losses of one evaluation, flat."""
        inputs = self.call.inputs
        outputs, _ = self.call.pair.split(self.call.pair.forward(*inputs.filled({**inputs.arrays, **self.moved})))
        return products(self.call.cotangents, outputs)


def random_cotangents(pair: Pair, inputs: Inputs, options: CheckOptions) -> tuple[Any, ...]:
    """A standard normal number for each entry of each output."""
    rng = np.random.default_rng(options.seed)

    def draw(_: Rollback) -> tuple[Any, ...]:
        return drawn_like(pair.split(pair.forward(*inputs.filled(inputs.arrays)))[0], rng)

    return undisturbed(pair, inputs, options, draw)


def undisturbed(pair: Pair, inputs: Inputs, options: CheckOptions, work: Callable[[Rollback], Result]) -> Result:
    """The result of some calls of a function and of its backward pass, after which everything is as it was."""
    grads = _arrays_of_gradients(pair)
    reached = reached_state((pair.forward, pair.backward, *inputs.fixed), (pair.params, pair.grads), grads.values())
    state = Rollback(grads, combined_snapshot(options.snapshot), reached=reached)
    result = state.run(lambda: work(state))
    state.require_intact()
    return result


def gradients_of(call: Call, options: CheckOptions) -> Passed:
    """What the backward pass returns and leaves; everything is put back.

    Raises:
        TypeError: As in `Pair.gradients`.
        ValueError: As in `Inputs.gradients`.
    """
    pair = call.pair

    def once(state: Rollback) -> Passed:
        state.restore()
        result = pair.gradients(call.inputs, call.cotangents)
        found = {name: _copy(gradient) for name, gradient in call.inputs.gradients(result).items()}
        return Passed(found, tuple(call.inputs.fixed_with_gradient(result)), pair.unchecked_attributes)

    def twice(state: Rollback) -> Passed:
        once(state)  # the first backward pass may make the arrays of the gradients
        for gradient in _arrays_of_gradients(pair).values():
            gradient[...] = 0  # a backward pass may add to them
        passed = once(state)
        left = read_gradients(_container(pair.grads), read_parameters(pair.params).arrays)
        own = {name: _copy(gradient) for name, gradient in left.items()}
        return dataclasses.replace(passed, gradients={**passed.gradients, **own})

    return undisturbed(pair, call.inputs, options, once if pair.params is None else twice)


def checked_call(call: Call, options: CheckOptions) -> CheckedCall:
    """The check of one call.

    A backward pass that cancels is less precise than the error bars say, which come from the forward pass alone. Where
    a small error looks like nothing in particular, the same functions are checked in float64.

    Raises:
        TypeError: As in `gradients_of` and `check`.
        ValueError: As in `gradients_of` and `check`, or nothing has a gradient.
    """
    checked = _checked_as_given(call, options)
    tensors = dict(checked.report.tensors)
    suspects = [name for name, tensor in tensors.items() if _may_be_rounding(tensor)]
    is_coarse = any(array.dtype.itemsize < np.dtype(np.float64).itemsize for array in call.inputs.arrays.values())
    if not (suspects and is_coarse and call.pair.params is None):
        return checked
    again = try_twice(lambda: _checked_as_given(call.in_float64, options))
    if isinstance(again, Exception):  # the functions take no float64 arrays
        return checked
    exact = again.report
    for name in suspects:
        if exact.tensors[name].verdict is Verdict.ok and not exact.tensors[name].cause_key:  # no small error either
            tensors[name] = _rounded(tensors[name])
    report = dataclasses.replace(
        checked.report,
        tensors=tensors,
        verdict=worst_verdict(tensors),
        explanation=explanation_of(tensors, checked.report.step),
        evaluations=checked.report.evaluations + exact.evaluations,
        seconds=checked.report.seconds + exact.seconds,
    )
    return dataclasses.replace(checked, report=report)


def _rounded(tensor: TensorReport) -> TensorReport:
    """The report of a tensor of which the same functions are right in float64."""
    says = f"d = {tensor.discrepancy:.1e}; the same functions agree in float64, so this is rounding error of backward"
    return dataclasses.replace(
        tensor, verdict=Verdict.float_precision, explanation=says, cause="", cause_key="", faulty_block=""
    )


def _may_be_rounding(tensor: TensorReport) -> bool:
    """Whether an error is small and no single factor."""
    return tensor.verdict is Verdict.structure and tensor.discrepancy < Thresholds().discrepancy


def _widened(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(array, np.float64) for name, array in arrays.items()}


def _checked_as_given(call: Call, options: CheckOptions) -> CheckedCall:
    """The check of one call in the precision of its inputs."""
    passed = gradients_of(call, options)
    gradients = {name: gradient for name, gradient in passed.gradients.items() if gradient is not None}
    if not gradients:
        names = listed(list(call.inputs.values)) if call.inputs.values else "no inputs"
        what = "backward returned no gradient" if call.inputs.arrays else "there is nothing to check"
        raise ValueError(
            f"{what}; expected a gradient of at least one array of floating-point numbers, and the inputs are {names}"
        )
    moved: dict[str, Any] = {name: array.copy() for name, array in call.inputs.arrays.items() if name in gradients}
    if call.pair.params is not None:
        moved[""] = call.pair.params  # without a name of its own, so that its arrays keep theirs
    loss = CotangentLoss(call, moved, (call.pair.forward, *call.inputs.fixed))
    report = checked(moved, gradients, loss, dataclasses.replace(options, reduction="sum"))
    return CheckedCall(report, tuple(_notes(call, passed)))


def _notes(call: Call, passed: Passed) -> Iterator[str]:
    """What is not checked, in sentences."""
    without = [name for name, gradient in passed.gradients.items() if gradient is None]
    if without:
        yield f"Not checked: {listed(without)}, for which backward returned None."
    if passed.unchecked:
        kinds = [f"{name} ({type(call.inputs.values[name]).__name__})" for name in passed.unchecked]
        yield f"Not checked: {listed(kinds)}; only floating-point arrays can be moved."
    if passed.attributes:
        names = ", ".join(f'"{name}"' for name in passed.attributes)
        renamed = ", ".join(f'{name}="d{name}"' for name in passed.attributes)
        yield (
            f"Not checked: {listed(passed.attributes)} of the object of forward; pass "
            f"params=attributes(layer, {names}) and grads=attributes(layer, {renamed})."
        )


def _container(grads: Gradients | None) -> Any:
    return grads() if callable(grads) else grads


def _arrays_of_gradients(pair: Pair) -> dict[str, Array]:
    """The arrays in which a backward pass leaves gradients, as far as they are there already."""
    try:
        container = _container(pair.grads)
    except (AttributeError, KeyError):  # the first backward pass makes them
        return {}
    leaves = {} if container is None else floating_leaves({"grads": container})
    return {name: leaf for name, leaf in leaves.items() if isinstance(leaf, np.ndarray)}


def _copy(gradient: Any) -> Any:
    return gradient.copy() if isinstance(gradient, np.ndarray) else gradient
