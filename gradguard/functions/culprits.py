"""Which function a wrong gradient comes from: what the checks of single functions add to the check of the model."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from gradguard.report import FunctionReport, Report, TensorReport, Verdict, counted, listed

MAX_NAMED = 3  # wrong functions in a sentence; the others are counted
ELSEWHERE = "look at what happens to the gradient after the backward pass: scaling, clipping, accumulation, hooks"


@runtime_checkable
class CallsFunctions(Protocol):
    """A loss that knows which functions with a backward pass of their own it calls, and can check each of them.

    It may have an attribute `gradient_hooks` too: what else it has seen that may change the gradients, as texts.
    """

    def check_functions(self) -> Sequence[FunctionReport]:
        """The check of each function, on inputs and cotangents of the training step; the first wrong one first."""


def with_functions(report: Report, functions: Sequence[FunctionReport], hooks: Sequence[str] = ()) -> Report:
    """The report of a model with a bug, in whose causes the functions that are wrong are named.

    Args:
        report: The check of the model.
        functions: The checks of the functions that its loss calls; none where it calls none.
        hooks: What else may change the gradients, as in "`scale` (model.py:31)".
    """
    if not functions and not hooks:
        return report
    sentence = function_sentence(functions, hooks)
    tensors = {
        name: dataclasses.replace(tensor, cause="; ".join(filter(None, [tensor.cause, sentence])))
        if tensor.verdict.is_bug
        else tensor
        for name, tensor in report.tensors.items()
    }
    begins_with_name = any(sentence.startswith(function.name) for function in functions)  # which stays as it is
    said = sentence if begins_with_name else f"{sentence[0].upper()}{sentence[1:]}"
    explanation = f"{report.explanation} {said}."
    return dataclasses.replace(report, tensors=tensors, explanation=explanation, functions=tuple(functions))


def function_sentence(functions: Sequence[FunctionReport], hooks: Sequence[str] = ()) -> str:
    """Which functions are wrong and in which of their gradients, or that none is, and where to look then."""
    wrong = [function for function in functions if function.fault or function.report.verdict.is_bug]
    if wrong:
        others = [f"{counted(len(wrong) - MAX_NAMED, 'other function')} too"] if len(wrong) > MAX_NAMED else []
        return "; ".join([*map(_wrong_function, wrong[:MAX_NAMED]), *others])
    may_change = [f"hooks that may change the gradient: {listed(hooks)}"] if hooks else []
    unsure = [_unsure_function(function) for function in functions if function.report.verdict.is_bug is None]
    if unsure:
        return "; ".join([f"the check of {listed(unsure)} could not tell whether the bug is there", *may_change])
    names = [function.name for function in functions]
    right = [f"{listed(names)} {'is' if len(names) == 1 else 'are'} right; {ELSEWHERE}"] if names else []
    return "; ".join([*right, *may_change])


def _unsure_function(function: FunctionReport) -> str:
    """The name, with the reason where nothing could be measured."""
    return function.name if function.report.tensors else f"{function.name} ({function.report.explanation})"


def _wrong_function(function: FunctionReport) -> str:
    """As in "Cell.backward is wrong in its gradient for w: numerical = 7.0000 x backprop; x and b agree; 13 calls"."""
    tensors = function.report.tensors.values()
    wrong = [tensor for tensor in tensors if tensor.verdict.is_bug]
    right = [tensor.name for tensor in tensors if tensor.verdict is Verdict.ok]
    errors = ", and for ".join(f"{tensor.name}: {_error(tensor)}" for tensor in wrong)
    in_which = [f"{function.name} is wrong in its gradient for {errors}"] if wrong else [f"{function.name} is wrong"]
    fault = [function.fault] if function.fault else []
    agree = [f"{listed(right)} {'agrees' if len(right) == 1 else 'agree'}"] if right else []
    return "; ".join([*in_which, *fault, *agree, counted(function.calls, "call")])


def _error(tensor: TensorReport) -> str:
    """The factor where there is one, or the verdict."""
    if tensor.verdict.is_factor:
        return f"numerical = {tensor.ratio:.5g} x backprop"
    return tensor.verdict.label
