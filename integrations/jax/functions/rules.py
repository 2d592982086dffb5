"""Operations of a jaxpr that have a derivative rule of the user: where they are, and what the user calls them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.extend import core

RULES = {"custom_vjp_call": "fwd_jaxpr_thunk", "custom_jvp_call": "jvp_jaxpr_fun"}
"""The operations, each with the parameter that holds its rule."""
JAX = Path(jax.__file__).parent
CUSTOM_GRADIENT = jax.custom_gradient.__code__.co_filename
"""Where JAX makes the rules of `custom_gradient`: they are the user's, although their code is its own."""
UNNAMED = "<lambda>"


def has_rule(equation: Any) -> bool:
    """Whether an operation has a derivative rule that is not one of JAX itself."""
    return equation.primitive.name in RULES and not _is_of_jax(_place(equation)[1])


def with_rules(jaxpr: core.Jaxpr) -> Iterator[Any]:
    """The operations with a rule in a function and in those that it calls.

    Those in the forward pass of such an operation are left out, since no derivative is taken of it.
    """
    for equation in jaxpr.eqns:
        if has_rule(equation):
            yield equation
        elif equation.primitive.name not in RULES:
            yield from rules_within(equation)


def rules_within(equation: Any) -> Iterator[Any]:
    """The operations with a rule in the functions that an operation calls."""
    for inner in core.jaxprs_in_params(equation.params):
        yield from with_rules(inner)


def name_of(equation: Any) -> str:
    """The function and where it is defined, as in "cell (model.py:41)"; the rule, where the function has no name."""
    name, file, line = _place(equation)
    return f"{name} ({Path(file).name}:{line})" if file else name


def input_names(equation: Any) -> list[str]:
    """The names of the inputs, those of closed-over arrays first: parameters of the rule, or "input 3" and so on.

    The leaves of a tree have the keys on the way to them, joined with dots.
    """
    closed_over, count = equation.params["num_consts"], len(equation.invars)
    rule, function = equation.params[RULES[equation.primitive.name]], equation.params["call_jaxpr"].jaxpr
    for known in (rule.debug_info.arg_names, function.debug_info.arg_names):
        if known is not None and len(known) == count - closed_over:
            names = [re.sub(r"\[['\"]?(\w+)['\"]?\]", r".\1", name) for name in known]
            return [f"closed over {index}" for index in range(closed_over)] + names
    return [f"input {index - closed_over}" for index in range(count)]


def _place(equation: Any) -> tuple[str, str, str]:
    """The name of the function or of its rule, its file and its line; "" where JAX does not know the last two."""
    rule = equation.params.get("bwd", equation.params[RULES[equation.primitive.name]])
    for info in (equation.params["call_jaxpr"].jaxpr.debug_info, rule.debug_info):
        name, _, place = info.func_src_info.partition(" at ")
        if name != UNNAMED:
            break
    file, _, line = place.rpartition(":")
    if file == CUSTOM_GRADIENT:
        call = next(frame for frame in equation.source_info.traceback.frames if not _is_of_jax(frame.file_name))
        return f"custom_gradient called in {call.function_name}", call.file_name, str(call.line_num)
    return name, file, line


def _is_of_jax(file: str) -> bool:
    return Path(file).is_relative_to(JAX)
