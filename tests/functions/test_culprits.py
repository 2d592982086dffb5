"""What the checks of single functions add to the report of a model."""

import dataclasses

import numpy as np

import gradguard
from gradguard.functions import with_functions
from gradguard.report import FunctionReport, Verdict

X, W = np.linspace(-1.0, 1.0, 12).reshape(3, 4), np.linspace(0.5, -0.7, 8).reshape(4, 2)


def report_of(factor_x: float, factor_w: float) -> gradguard.Report:
    """The check of sum(tanh(xw)) with gradients divided by these factors."""
    inputs = {"x": X.copy(), "w": W.copy()}
    slope = 1 - np.tanh(X @ W) ** 2
    grads = {"x": slope @ W.T / factor_x, "w": X.T @ slope / factor_w}
    return gradguard.check(inputs, grads, lambda: float(np.tanh(inputs["x"] @ inputs["w"]).sum()))


def test_a_wrong_function_is_named_with_its_wrong_input_in_the_cause_of_the_tensor() -> None:
    """The cause names the function, the input, the factor, the inputs that agree and the number of calls."""
    functions = [FunctionReport("Cell.backward", 13, report_of(1.0, 7.0))]
    named = with_functions(report_of(1.0, 7.0), functions)
    sentence = "Cell.backward is wrong in its gradient for w: numerical = 7 x backprop; x agrees; 13 calls"
    assert named.tensors["w"].cause.endswith(sentence)
    assert "Cell" not in named.tensors["x"].cause
    assert named.explanation.endswith(f"{sentence}.")
    assert named.functions == tuple(functions)


def test_where_all_functions_are_right_the_bug_lies_after_the_backward_pass() -> None:
    """Functions that are all right leave scaling, clipping, accumulation and hooks as places of the bug."""
    named = with_functions(report_of(1.0, 7.0), [FunctionReport("Cell.backward", 1, report_of(1.0, 1.0))])
    assert "Cell.backward is right; look at what happens to the gradient after" in named.tensors["w"].cause


def test_a_loss_without_functions_leaves_the_report_as_it_is() -> None:
    """No function is checked, and nothing is said of functions."""
    report = report_of(1.0, 7.0)
    assert with_functions(report, []) is report


def test_hooks_are_named_where_no_function_is_wrong() -> None:
    """With the functions that are right, and also where the loss calls none."""
    report, hooks = report_of(1.0, 7.0), ["`scale` (model.py:31)", "`clip` (model.py:35)"]
    right = with_functions(report, [FunctionReport("Cell.backward", 1, report_of(1.0, 1.0))], hooks)
    said = "hooks that may change the gradient: `scale` (model.py:31) and `clip` (model.py:35)"
    assert right.tensors["w"].cause.endswith(f"hooks; {said}")
    assert with_functions(report, [], hooks).tensors["w"].cause.endswith(f"; {said}")
    assert "scale`" not in with_functions(report, [FunctionReport("Cell.backward", 1, report)], hooks).explanation


def test_a_fault_besides_single_gradients_is_said_with_the_function() -> None:
    """It makes the function wrong, whatever its gradients are."""
    fault = "its forward pass ignores the strides of x"
    functions = [FunctionReport("Square.backward", 2, report_of(1.0, 1.0), fault)]
    cause = with_functions(report_of(1.0, 7.0), functions).tensors["w"].cause
    assert cause.endswith(f"Square.backward is wrong; {fault}; x and w agree; 2 calls")


def test_a_function_that_could_not_be_checked_says_why() -> None:
    """Its report has no tensors, and the reason for its explanation."""
    unchecked = dataclasses.replace(
        report_of(1.0, 1.0), verdict=Verdict.inconclusive, tensors={}, explanation="its inputs are sparse"
    )
    cause = with_functions(report_of(1.0, 7.0), [FunctionReport("Cell.backward", 1, unchecked)]).tensors["w"].cause
    assert cause.endswith("the check of Cell.backward (its inputs are sparse) could not tell whether the bug is there")
