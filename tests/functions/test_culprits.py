"""What the checks of single functions add to the report of a model."""

import numpy as np

import gradguard
from gradguard.functions import with_functions
from gradguard.report import FunctionReport

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
