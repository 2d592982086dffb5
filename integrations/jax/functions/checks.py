"""The check of a function with a derivative rule: does the rule return the gradient of the forward pass?"""

import inspect
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradguard.checks.check import check
from gradguard.functions import merged, unchecked
from gradguard.integrations.jax.functions.recorder import Call, record, spread
from gradguard.integrations.jax.functions.rules import input_names, name_of, with_rules
from gradguard.integrations.jax.losses import CompiledLoss, Loss
from gradguard.integrations.jax.parameters import Parameters
from gradguard.integrations.jax.steps import LossCache, Step, snapshot_x64
from gradguard.integrations.jax.trees import named_leaves
from gradguard.integrations.jax.widening import Values, bind
from gradguard.loss import try_twice
from gradguard.report import FunctionReport, Report

NOT_REACHED = "it is called within an operation whose calls cannot be recorded, such as a while loop"
NOT_FINITE = "its inputs, or the gradients that reach its outputs, are not finite"
NO_TIME = "no time was left"
MAX_SECONDS = 30.0
"""Once the checks of a step's functions have taken so long, none is begun: each takes 0.3 to 2 s, mostly to compile."""


def check_function(function: Callable[..., Any], *args: Any, seed: int = 0, **options: Any) -> Report:
    """Check the derivative rules of a function, without a training.

    The loss is the sum of the outputs, each number of them times a random one. Its gradient by the rules is compared
    with that of the operations of the forward pass.

    Args:
        function: A `custom_vjp` or `custom_jvp`, or a function that calls some.
        *args: What it is called with. The floating-point arrays among them are checked, and the rest stays as it is.
        seed: Seed of the random numbers.
        **options: Further options of `gradguard.check`, such as `constants`.

    Returns:
        The report. The tensors are the arguments by their names in the signature, joined with the keys within them.

    Raises:
        TypeError: The function takes or returns no floating-point array.
    """
    call = inspect.signature(function).bind(*args)
    arguments = OrderedDict(call.arguments)
    structure, leaves = jax.tree.structure(arguments), named_leaves(arguments)
    arrays = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, jax.Array | np.ndarray)}
    inputs = OrderedDict((name, leaf) for name, leaf in arrays.items() if _is_floating(leaf))
    others = {name: leaf for name, leaf in arrays.items() if name not in inputs}
    rng = np.random.default_rng(seed)
    cotangents = [
        rng.standard_normal(output.shape).astype(output.dtype) if _is_floating(output) else None
        for output in map(jnp.asarray, jax.tree.leaves(function(*args)))
    ]
    if not inputs or all(each is None for each in cotangents):
        raise TypeError(
            f"the function {'returns' if inputs else 'is called with'} no array of floating-point numbers; expected "
            "one, of which there is a gradient"
        )

    def loss(inputs: Any, others: Any, cotangents: Any) -> Any:
        given = leaves | others | inputs
        call.arguments = jax.tree.unflatten(structure, [given[name] for name in leaves])
        return _products(jax.tree.leaves(function(*call.args)), cotangents)

    return _check(loss, inputs, others, cotangents, seed=seed, **options)


def check_rules(loss: CompiledLoss, params: Values, others: Values) -> list[FunctionReport]:
    """Check each function with a derivative rule that a loss calls, on what it is handed at this step.

    Args:
        loss: The loss.
        params: The arrays of its parameters.
        others: The other numbers that it depends on.

    Returns:
        The checks, wrong functions first; those that the gradient does not pass are left out.
    """
    if not any(with_rules(loss.closed.jaxpr)):
        return []
    calls, unreached = record(loss.closed, params, others, loss.total)
    of_function: dict[str, list[Call]] = {}
    for call in calls:
        of_function.setdefault(name_of(call.equation), []).append(call)
    end = time.perf_counter() + MAX_SECONDS
    reports = [_function_report(name, each, end) for name, each in of_function.items()]
    reports += [FunctionReport(name, 0, unchecked(NOT_REACHED)) for name in dict.fromkeys(map(name_of, unreached))]
    return sorted(reports, key=lambda function: -function.report.verdict.level)


def _function_report(name: str, calls: Sequence[Call], end: float) -> FunctionReport:
    """The checks of a function together, one for each form that it has: by the shapes and options of a call."""
    forms: dict[str, list[Call]] = {}
    for call in calls:
        forms.setdefault(str(call.equation.params["call_jaxpr"]), []).append(call)
    reports = [_check_form(each) if time.perf_counter() < end else unchecked(NO_TIME) for each in forms.values()]
    return FunctionReport(name, round(sum(call.count for call in calls)), merged(reports))


def _check_form(calls: Sequence[Call]) -> Report:
    """The check of some calls of one form together: an input that they share gets the sum of their gradients."""
    finite = [call for call in calls if _are_finite([*call.inputs, *call.cotangents])]
    if not finite:
        return unchecked(NOT_FINITE)
    report = try_twice(lambda: _check_calls([finite[index] for index in spread(len(finite))]))
    return unchecked(str(report)) if isinstance(report, Exception) else report


def _check_calls(calls: Sequence[Call]) -> Report:
    names = input_names(calls[0].equation)
    columns = dict(zip(names, zip(*(call.inputs for call in calls), strict=True), strict=True))
    shared = {name for name, column in columns.items() if all(value is column[0] for value in column)}
    arrays = {name: column[0] if name in shared else jnp.stack(column) for name, column in columns.items()}
    is_checked = map(any, zip(*(call.is_differentiated for call in calls), strict=True))
    inputs = OrderedDict((name, arrays[name]) for name, checked in zip(names, is_checked, strict=True) if checked)
    others = {name: array for name, array in arrays.items() if name not in inputs}

    def loss(inputs: Any, others: Any, cotangents: Any) -> Any:
        given = others | inputs
        products = []
        for index, call in enumerate(calls):
            values = [given[name] if name in shared else given[name][index] for name in names]
            products.append(_products(bind(call.equation, values, call.equation.params), cotangents[index]))
        return jnp.concatenate(products)

    return _check(loss, inputs, others, [call.cotangents for call in calls])


def _check(loss: Loss, inputs: Any, *args: Any, **options: Any) -> Report:
    """Check the gradient that a loss has by its rules, for some inputs."""
    step = Step(LossCache(loss, "sum"), inputs, args)
    step.compile(in_float64=options.get("precision") != "native")
    return check(Parameters(step), step.gradients(), step, reduction="sum", snapshot=snapshot_x64, **options)


def _products(outputs: Values, cotangents: Values) -> Any:
    """The numbers in some outputs, each times the one in its cotangent; outputs without a cotangent are left out.

    In float32 at least: 16 bits would round them too coarsely to be differenced.
    """
    pairs = [(output, given) for output, given in zip(outputs, cotangents, strict=True) if given is not None]
    dtype = jnp.result_type(jnp.float32, *(given.dtype for _, given in pairs))
    return jnp.concatenate([(output.astype(dtype) * given.astype(dtype)).ravel() for output, given in pairs])


def _is_floating(array: Any) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def _are_finite(arrays: Values) -> bool:
    return all(bool(jnp.isfinite(array).all()) for array in arrays if array is not None and _is_floating(array))
