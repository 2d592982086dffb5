"""One call of a function and of its backward pass, checked as the gradient of a loss.

The loss is the sum of all outputs, each entry times its cotangent. Its gradient with respect to the inputs is what the
backward pass returns for these cotangents, so the check of a function is that of any other gradient.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from gradguard.arrays import Array
from gradguard.checks.check import CheckOptions, checked
from gradguard.containers import ArrayContainer, Container, read_gradients, read_parameters
from gradguard.functions.handwritten.structure import Inputs, copied, floating_leaves, output_names, with_arrays
from gradguard.perturbation import Rollback, combined_snapshot, reached_state
from gradguard.report import Report, counted, listed

Result = TypeVar("Result")
Gradients = ArrayContainer | Callable[[], ArrayContainer]
"""Where a backward pass leaves gradients: a container, or a function that returns one."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A function and its backward pass.

    Attributes:
        forward: `forward(*inputs)` returns the outputs, and the cache where there is one.
        backward: `backward(*cotangents, cache)`, or `backward(*cotangents)`, returns the gradients of the inputs.
        has_cache: Whether the last item that `forward` returns is a cache for `backward`.
        params: Arrays of the object that `forward` reads, beside its inputs.
        grads: Where `backward` leaves the gradients of those.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    has_cache: bool = True
    params: ArrayContainer | None = None
    grads: Gradients | None = None

    def split(self, result: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The outputs among what `forward` returned, and the cache: a tuple of one item, or of none.

        Raises:
            TypeError: There is no cache.
        """
        if not self.has_cache:
            return (result if isinstance(result, tuple) else (result,)), ()
        if not isinstance(result, tuple | list) or len(result) < 2:
            raise TypeError(
                f"forward returned {_what(result)}; expected (outputs..., cache), of which the last goes to backward. "
                "Where forward keeps in an object what backward needs, pass cache=False"
            )
        return tuple(result[:-1]), tuple(result[-1:])

    def gradients(self, inputs: Inputs, cotangents: tuple[Any, ...]) -> Any:
        """What `backward` returns for some cotangents, after a forward pass of its own.

        Raises:
            TypeError: `forward` returned no cache, or `backward` does not take so many arguments.
        """
        outputs, cache = self.split(self.forward(*inputs.filled(inputs.arrays)))
        self._require_arguments(
            [*(f"d{name}" for name in output_names(self.backward, len(outputs))), *("cache",) * len(cache)]
        )
        return self.backward(*copied(cotangents), *cache)

    def _require_arguments(self, names: list[str]) -> None:
        try:
            signature = inspect.signature(self.backward)
        except (TypeError, ValueError):  # some extension types have none
            return
        try:
            signature.bind(*names)
        except TypeError:
            says = ", of which the last is taken as the cache; pass cache=False where there is none"
            raise TypeError(
                f"backward{signature} cannot be called with {listed(names)}: forward returned "
                f"{counted(len(names), 'item')}{says if self.has_cache else ''}"
            ) from None


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
        zeros = {name: np.zeros_like(leaf) for name, leaf in _named_leaves(self.cotangents).items() if leaf is not None}
        others = [with_arrays(each, str(at), zeros) for at, each in enumerate(self.cotangents)]
        return dataclasses.replace(self, cotangents=(*others[:index], self.cotangents[index], *others[index + 1 :]))

    @property
    def is_zero(self) -> bool:
        """Whether all cotangents are zero, so that the gradients of all inputs are."""
        return not any(np.any(leaf) for leaf in _named_leaves(self.cotangents).values() if leaf is not None)


@dataclass(frozen=True, slots=True)
class Passed:
    """What one forward and backward pass gave.

    Attributes:
        gradients: Of each array among the inputs and parameters; None where there is none.
        unchecked: Inputs that are held fixed although the backward pass returned a gradient for them.
    """

    gradients: Mapping[str, Any]
    unchecked: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckedCall:
    """The check of one call.

    Attributes:
        call: The call.
        report: The check of the gradients that its backward pass returned.
        notes: What of the call is not checked, in sentences.
    """

    call: Call
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


def products(cotangents: tuple[Any, ...], outputs: tuple[Any, ...]) -> Array:
    """Each entry of the outputs times its cotangent, flat; None is a cotangent of zeros.

    Raises:
        ValueError: No output has numbers with a fraction, or a cotangent does not fit its output.
    """
    given = _named_leaves(cotangents)
    named = _named_leaves(outputs)
    pairs = [(given.get(name), np.asarray(leaf)) for name, leaf in named.items() if _is_inexact(leaf)]
    if not pairs:
        raise ValueError("forward returned no array of floating-point numbers; expected at least one output of these")
    try:
        terms = [(output * (0 if each is None else each)).ravel() for each, output in pairs]
    except ValueError as error:
        raise ValueError(f"a cotangent does not have the shape of its output: {error}") from None
    return np.concatenate(terms)


def random_cotangents(pair: Pair, inputs: Inputs, options: CheckOptions) -> tuple[Any, ...]:
    """A standard normal number for each entry of each output."""
    rng = np.random.default_rng(options.seed)

    def draw(_: Rollback) -> tuple[Any, ...]:
        return drawn_like(pair.split(pair.forward(*inputs.filled(inputs.arrays)))[0], rng)

    return undisturbed(pair, inputs, options, draw)


def drawn_like(outputs: tuple[Any, ...], rng: np.random.Generator) -> tuple[Any, ...]:
    """A standard normal number for each entry of some outputs, None for an output that is not of floating point."""
    drawn = {
        name: np.asarray(rng.standard_normal(np.shape(leaf)), np.asarray(leaf).dtype)[()] if _is_inexact(leaf) else None
        for name, leaf in _named_leaves(outputs).items()
    }
    return tuple(with_arrays(output, str(index), drawn) for index, output in enumerate(outputs))


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
        return Passed(found, tuple(call.inputs.fixed_with_gradient(result)))

    def twice(state: Rollback) -> Passed:
        once(state)  # the first backward pass may make the arrays of the gradients
        for gradient in _arrays_of_gradients(pair).values():
            gradient[...] = 0  # a backward pass may add to them
        passed = once(state)
        left = read_gradients(_container(pair.grads), read_parameters(pair.params).arrays)
        own = {name: _copy(gradient) for name, gradient in left.items()}
        return Passed({**passed.gradients, **own}, passed.unchecked)

    return undisturbed(pair, call.inputs, options, once if pair.params is None else twice)


def checked_call(call: Call, options: CheckOptions) -> CheckedCall:
    """The check of one call.

    Raises:
        TypeError: As in `gradients_of` and `check`.
        ValueError: As in `gradients_of` and `check`, or nothing has a gradient.
    """
    passed = gradients_of(call, options)
    gradients = {name: gradient for name, gradient in passed.gradients.items() if gradient is not None}
    if not gradients:
        raise ValueError(
            "backward returned no gradient; expected one for at least one input that is an array of floating-point "
            f"numbers, of {listed(list(call.inputs.values))}"
        )
    moved: dict[str, Any] = {name: array.copy() for name, array in call.inputs.arrays.items() if name in gradients}
    if call.pair.params is not None:
        moved[""] = call.pair.params  # without a name of its own, so that its arrays keep theirs
    loss = CotangentLoss(call, moved, (call.pair.forward, *call.inputs.fixed))
    report = checked(moved, gradients, loss, dataclasses.replace(options, reduction="sum"))
    without = [name for name, gradient in passed.gradients.items() if gradient is None]
    notes = [f"Not checked: {listed(without)}, for which backward returned None."] if without else []
    if passed.unchecked:
        kinds = [f"{name} ({type(call.inputs.values[name]).__name__})" for name in passed.unchecked]
        notes.append(f"Not checked: {listed(kinds)}, for only arrays of floating-point numbers can be moved.")
    return CheckedCall(call, report, tuple(notes))


def _container(grads: Gradients | None) -> Any:
    return grads() if callable(grads) else grads


def _arrays_of_gradients(pair: Pair) -> dict[str, Array]:
    """The arrays in which a backward pass leaves gradients, as far as they are there already."""
    try:
        container = _container(pair.grads)
    except (AttributeError, KeyError):  # the first backward pass makes them
        return {}
    return {} if container is None else floating_leaves({"grads": container})


def _copy(gradient: Any) -> Any:
    return gradient.copy() if isinstance(gradient, np.ndarray) else gradient


def _is_inexact(value: object) -> bool:
    """Whether a value is a number or an array of floating point; complex numbers are those of a complex step."""
    dtype = getattr(value, "dtype", None)
    return isinstance(value, float | complex) or (isinstance(dtype, np.dtype) and dtype.kind in "fc")


def _named_leaves(values: tuple[Any, ...]) -> Mapping[str, Any]:
    return Container({str(index): value for index, value in enumerate(values)})


def _what(result: object) -> str:
    if isinstance(result, tuple | list):
        return f"a {type(result).__name__} of {len(result)}"
    shape = f" of shape {result.shape}" if isinstance(result, np.ndarray) else ""
    return f"one {type(result).__name__}{shape}"
