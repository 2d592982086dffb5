"""The calls of one function and of its backward pass during a training: recorded, matched and checked."""

import dataclasses
import functools
import inspect
import logging
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradguard.arrays import Array, reductions
from gradguard.checks.check import CheckOptions, explanation_of
from gradguard.containers import ArrayContainer
from gradguard.diagnosis import unmeasured, worst_verdict
from gradguard.environment import NotPutBackError, is_interruption
from gradguard.functions.handwritten import (
    MAX_CALLS,
    Call,
    CheckedCall,
    Gradients,
    Inputs,
    Pair,
    checked_with_outputs,
    copied,
    copied_array,
    evenly_chosen,
    input_names,
    merged,
    notes_of,
)
from gradguard.functions.traced.patching import name_of
from gradguard.report import Report, TensorReport, Verdict, counted, listed, log_message

_logger = logging.getLogger("gradguard")
_is_replaying: ContextVar[bool] = ContextVar("is_replaying", default=False)


@dataclass(slots=True)
class ForwardCall:
    """A call of a forward function that waits for its backward pass.

    Attributes:
        function: The function, bound to the object of this call.
        inputs: What it was called with.
        cache: What it returned for its backward pass, in a tuple; empty where it keeps that in an object.
    """

    function: Callable[..., Any]
    inputs: Inputs
    cache: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class WrongCall:
    """The first call in the order of the backward pass at which a gradient is wrong.

    Attributes:
        function: The name of the backward function.
        call: The index of the call in the order of the forward pass, from 0: the timestep of a step function.
        inputs: The inputs whose gradients are wrong there.
    """

    function: str
    call: int
    inputs: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.function} at call {self.call}, for {listed(self.inputs)}"


@dataclass(slots=True)
class TracedFunction:
    """What is known of a forward function and its backward pass.

    Attributes:
        owner: What the functions are attributes of.
        forward: The name of the one.
        backward: The name of the other.
        options: Of its checks.
        has_cache: As in `Pair`.
        params: As in `Pair`.
        grads: As in `Pair`.
        waiting: The calls of the forward function by their index that wait for the backward pass.
        checked: The checks by the index of the call, in the order of the backward pass.
        failed: Why the check of a call failed, by its index.
        found: The calls at which a gradient is wrong, of all functions of the trace.
        wrong: The inputs that are known to be wrong.
        calls: How often the forward function was called.
        idle: How often the backward function was called with cotangents of zeros, which show nothing.
        unmatched: How often the backward function was called for no known forward call.
    """

    owner: Any
    forward: str
    backward: str
    options: CheckOptions
    has_cache: bool | None
    params: ArrayContainer | None
    grads: Gradients | None
    found: list[WrongCall]
    waiting: dict[int, ForwardCall] = field(default_factory=dict)
    checked: dict[int, CheckedCall] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    calls: int = 0
    idle: int = 0
    unmatched: int = 0
    _copies: dict[int, tuple[Any, Array]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the backward function with its owner."""
        return f"{name_of(self.owner)}.{self.backward}"

    def call_forward(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the forward function, and keep what its check needs."""
        if _is_replaying.get():
            return function(*args, **kwargs)
        replayed, values = _by_position(function, args, kwargs)
        inputs = Inputs.of(values, input_names(function, len(values), None), self._copy_of)
        result = function(*args, **kwargs)
        _, cache = Pair(function, function, self.has_cache).split(result)
        self.waiting[self.calls] = ForwardCall(replayed, inputs, cache)
        self.calls += 1
        return result

    def call_backward(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Check the call of the backward function, then make it.

        The check comes first: then the parameters are those of the forward pass, also where they are attributes that
        the end of the step updates, and so is all other state that the functions share.
        """
        if not _is_replaying.get():
            replayed, values = _by_position(function, args, kwargs)
            self._check(replayed, values)
        return function(*args, **kwargs)

    def _copy_of(self, array: Any) -> Array:
        """A copy of an array; the last one again where the array has not changed since, as weights in a loop."""
        before, copy = self._copies.get(id(array), (None, None))
        if before is not array or copy is None or not reductions.same_bits(copy, np.asarray(array)):
            copy = copied_array(array)
            self._copies[id(array)] = array, copy
        return copy

    def _check(self, function: Callable[..., Any], values: tuple[Any, ...]) -> None:
        index = self._match(function, values)
        if index is None:
            self.unmatched += 1
            return
        call = self.waiting.pop(index)
        if not self.waiting:
            self.forget()
        if len(self.checked) == MAX_CALLS or index not in evenly_chosen(self.calls):
            return
        pair = Pair(call.function, function, bool(call.cache), self.params, self.grads)
        traced = Call(pair, call.inputs, copied(values[:-1] if call.cache else values))
        if traced.is_zero:
            self.idle += 1
            return
        token = _is_replaying.set(True)
        try:
            self.checked[index] = checked_with_outputs(traced, self.wrong, self.options)
        except NotPutBackError:
            raise
        except Exception as error:  # whatever the functions raise when they are called once more, the training goes on
            if is_interruption(error):
                raise
            self.failed[index] = f"{type(error).__name__}: {error}"
            _logger.warning(log_message(f"call {index} of {self.name} is not checked: {self.failed[index]}"))
        else:
            tensors = self.checked[index].report.tensors
            wrong = tuple(name for name, tensor in tensors.items() if tensor.verdict.is_bug)
            self.found += [WrongCall(self.name, index, wrong)] * bool(wrong)
        finally:
            _is_replaying.reset(token)

    def forget(self) -> None:
        """Let go of what waits for a backward pass, and of copies."""
        self.waiting.clear()
        self._copies.clear()

    def _match(self, function: Callable[..., Any], values: tuple[Any, ...]) -> int | None:
        """The forward call that a backward call belongs to: that of its cache, else the last one on its object."""
        latest = list(reversed(self.waiting.items()))
        same = [index for index, call in latest if call.cache and values and call.cache[0] is values[-1]]
        owner = getattr(function, "__self__", None)
        return next(iter(same or [index for index, call in latest if _owner(call) is owner]), None)

    def report(self) -> Report:
        """The check of all calls; right ones do not hide one that could not be checked."""
        if not self.checked:
            why = " ".join(self._failures()) or self._never_called()
            tensors = self._unchecked(why)
            explanation = explanation_of(tensors, 0)
            return Report(0, Verdict.inconclusive, tensors, "native", 0, 0.0, explanation, math.nan)
        report = merged(self.checked, self.calls, "call")
        tensors = {**report.tensors, **(self._unchecked(next(iter(self.failed.values()))) if self.failed else {})}
        explanation = " ".join([explanation_of(tensors, 0), *self.notes()])
        return dataclasses.replace(report, tensors=tensors, verdict=worst_verdict(tensors), explanation=explanation)

    def _unchecked(self, why: str) -> dict[str, TensorReport]:
        return unmeasured({self.name: ()}, Verdict.inconclusive, why, "")

    def notes(self) -> list[str]:
        """How many calls were checked, and what of them was not, in sentences."""
        return [*notes_of(self.checked, self.calls, "call"), *self._failures()]

    def _failures(self) -> Iterator[str]:
        if self.idle:
            yield f"{counted(self.idle, 'call')} of {self.backward} had cotangents of zeros, which show nothing."
        if self.unmatched:
            yield f"{counted(self.unmatched, 'call')} of {self.backward} had no call of {self.forward} before."
        if self.failed:
            why = next(iter(self.failed.values()))
            yield f"{counted(len(self.failed), 'call')} of {self.backward} could not be checked: {why}."

    def _never_called(self) -> str:
        which = self.backward if self.calls else self.forward
        return (
            f"{which} was not called through {name_of(self.owner)}; pass the object, class or module whose attribute "
            "the training calls"
        )


def _owner(call: ForwardCall) -> object:
    return getattr(call.function, "__self__", None)


def _by_position(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A function and the arguments of a call, all by position as far as that is possible."""
    if not kwargs:
        return function, args
    bound = inspect.signature(function).bind(*args, **kwargs)
    return functools.partial(function, **bound.kwargs) if bound.kwargs else function, bound.args
