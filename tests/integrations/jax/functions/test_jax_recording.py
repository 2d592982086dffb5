"""What is recorded of the calls of functions with a derivative rule, and what they are called."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from gradguard.integrations.jax.functions.recorder import record  # noqa: E402
from gradguard.integrations.jax.functions.rules import input_names, name_of, with_rules  # noqa: E402

LINES = Path(__file__).read_text(encoding="utf-8").splitlines()


def place(text: str) -> str:
    """This file and the first line in which a text is."""
    return f"(test_jax_recording.py:{1 + next(number for number, line in enumerate(LINES) if text in line)})"


@jax.custom_vjp
def doubled(c: Any) -> Any:
    """Twice a number."""
    return 2 * c


doubled.defvjp(lambda c: (2 * c, None), lambda _, d: (2 * d,))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 7])
def test_iterations_of_a_scan_are_recorded_as_they_are_made(length: int, reverse: bool) -> None:
    """The first, a middle and the last one; their inputs and the gradients of their outputs are those of a loop."""
    x, weights = np.linspace(0.5, 1.5, length), np.linspace(1.0, 2.0, length)

    def loss(c: Any) -> Any:
        def step(c: Any, factor: Any) -> Any:
            after = doubled(c) * factor
            return after, after

        c, outputs = jax.lax.scan(step, c, jnp.asarray(x), reverse=reverse)
        return c + (outputs * weights).sum()

    calls, unreached = record(jax.make_jaxpr(loss)(0.7), [jnp.float32(0.7)], [], lambda loss: loss)
    order = list(range(length))[:: -1 if reverse else 1]
    states = [0.7]
    for index in order:
        states.append(2 * states[-1] * x[index])
    after, cotangents = 1.0, {}
    for place in reversed(range(length)):  # the gradient of the loss with respect to each state
        after += weights[order[place]]
        cotangents[place] = after * x[order[place]]
        after = 2 * cotangents[place]
    chosen = sorted({0, length // 2, length - 1})
    assert [float(call.inputs[0]) for call in calls] == pytest.approx([states[place] for place in chosen])
    assert [float(call.cotangents[0]) for call in calls] == pytest.approx([cotangents[place] for place in chosen])
    assert sum(call.count for call in calls) == pytest.approx(length)
    assert not unreached


def test_calls_that_the_gradient_does_not_pass_are_left_out() -> None:
    """Behind `stop_gradient`, and of data alone; inputs that are data are marked."""

    @jax.custom_vjp
    def product(a: Any, b: Any) -> Any:
        return a * b

    product.defvjp(lambda a, b: (a * b, (a, b)), lambda kept, d: (d * kept[1], d * kept[0]))

    def loss(w: Any, x: Any) -> Any:
        return product(w, doubled(x)) + jax.lax.stop_gradient(doubled(w))

    calls, _ = record(jax.make_jaxpr(loss)(1.0, 2.0), [jnp.float32(1.0)], [jnp.float32(2.0)], lambda loss: loss)
    assert [name_of(call.equation).split()[0] for call in calls] == ["product"]
    assert list(calls[0].is_differentiated) == [True, False]


SCALE = jnp.arange(2.0)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def closing(tree: Any, power: int) -> Any:
    """A function of a tree that closes over an array."""
    return tree["a"][0] * SCALE**power


closing.defvjp(lambda tree, _power: (SCALE, tree), lambda _power, tree, _d: (tree,))
unnamed = jax.custom_vjp(lambda *args: args[0])
unnamed.defvjp(lambda *args: (args[0], args), lambda kept, _d: kept)


@jax.custom_gradient
def squared(x: Any) -> Any:
    """The square."""
    return x**2, lambda d: (2 * d * x,)


@pytest.mark.parametrize(
    ("call", "name", "inputs"),
    [
        (lambda x: doubled(x), f"doubled {place('@jax.custom_vjp')}", ["c"]),
        (lambda x: closing({"a": [x]}, 2), f"closing {place('@partial')}", ["closed over 0", "tree.a.0"]),
        (lambda x: jax.vmap(unnamed)(x, x), f"<lambda> {place('unnamed.defvjp')}", ["args.0", "args.1"]),
        (lambda x: squared(x), f"custom_gradient called in <lambda> {place('squared(x),')}", ["args.0"]),
    ],
)
def test_functions_and_inputs_have_the_names_of_the_user(call: Any, name: str, inputs: list[str]) -> None:
    """With the line of the function, or of its rule, or of the call; trees are joined with dots."""
    (equation,) = with_rules(jax.make_jaxpr(call)(jnp.ones(2)).jaxpr)
    assert name_of(equation) == name
    assert input_names(equation) == inputs


def test_rules_of_jax_itself_are_not_those_of_the_user() -> None:
    """They are what the user's rules are made of."""
    assert not list(with_rules(jax.make_jaxpr(lambda x: jax.nn.relu(jax.nn.logsumexp(x)))(jnp.ones(2)).jaxpr))
