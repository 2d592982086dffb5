"""Many points in one call, and parameters in dtypes that NumPy lacks."""

from collections import Counter
from typing import Any

import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax_models import batch, bugs, parameters, recurrent  # noqa: E402

from gradguard.integrations.jax import JaxGuard  # noqa: E402
from gradguard.integrations.jax.losses import CallTimes  # noqa: E402
from gradguard.integrations.jax.parameters import RoundedArray, RoundedCopies  # noqa: E402
from gradguard.integrations.jax.steps import LossCache, Step  # noqa: E402


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_losses_of_copies_are_those_of_each(dtype: Any) -> None:
    """In the dtypes of the training and in float64."""
    step = Step(LossCache(recurrent(), None), parameters(), batch())
    arrays = {name: array.astype(dtype) for name, array in step.arrays.items()}
    copies = [{name: array * dtype(1 + count / 8) for name, array in arrays.items()} for count in range(3)]
    together = step({name: np.stack([copy[name] for copy in copies]) for name in arrays})
    assert together.shape == (3,)
    assert np.allclose(together, [step(copy) for copy in copies], rtol=8 * np.finfo(dtype).eps)


def test_copies_are_tried_where_they_can_pay() -> None:
    """Calls of a loss that takes long are shared by points; compiling for that takes longer than it saves otherwise."""
    slow, fast = CallTimes(), CallTimes()
    for seconds in (1.0, 0.02, 0.01):
        slow.record(seconds)
        fast.record(seconds / 100 if seconds < 1 else seconds)
    assert slow.copies_pay
    assert not fast.copies_pay
    assert not CallTimes().copies_pay


def test_calls_with_copies_take_two_numbers_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is compiled for each; a fault is told all the same."""
    sizes: Counter[int] = Counter()
    call = Step.__call__

    def counted(step: Step, params: Any) -> Any:
        sizes[len(params["rnn.b"]) if params["rnn.b"].ndim > 1 else 1] += 1
        return call(step, params)

    monkeypatch.setattr(Step, "__call__", counted)
    monkeypatch.setattr(CallTimes, "copies_pay", True)
    guard = JaxGuard(recurrent("averaged"), every_n_steps=1, max_overhead=None, on_alert=lambda _alert: None)
    for step in range(2):
        report = guard.before_step(step, parameters(), *batch(step))
        assert report is not None
        assert set(bugs(report.tensors)) == {"rnn.w", "rnn.u"}
    assert set(sizes) == {1, 8, 32}


def test_moves_are_rounded_as_the_dtype_rounds() -> None:
    """What was really moved is measured: in bfloat16 a small move is none."""
    base = np.asarray(jnp.asarray([1.0, -0.25, 3.0], jnp.bfloat16).astype(jnp.float32))
    tensor = RoundedArray(base.copy(), base, jnp.bfloat16)
    gradient = np.asarray([1.0, 1.0, 2.0], np.float32)
    assert tensor.displace(gradient, 1e-4, gradient) == (0.0, 0.0)
    along, change = tensor.displace(gradient, 0.01, gradient)
    want = np.asarray(jnp.asarray(base + 0.01 * gradient, jnp.bfloat16).astype(jnp.float32)).astype(np.float64) - base
    assert np.array_equal(tensor.array - base, want)
    assert (along, change) == pytest.approx((want @ gradient, want @ gradient))
    tensor.restore()
    assert np.array_equal(tensor.array, base)
    assert tensor.displace_entry((2,), 0.01) == pytest.approx(0.015625)
    tensor.restore((2,))
    assert np.array_equal(tensor.array, base)


def test_the_spacing_of_bfloat16_is_told() -> None:
    """And parameters of a dtype that NumPy has are moved as ever beside it."""
    arrays = {"w": np.ones(2, np.float32), "v": np.ones(2, np.float32)}
    space = RoundedCopies(arrays, {"w": jnp.dtype(jnp.bfloat16)})
    assert (space.spacing("w"), space.spacing("v")) == (2.0**-7, 2.0**-23)
    with space.moving("w") as rounded, space.moving("v") as plain:
        assert (type(rounded), type(plain).__name__) == (RoundedArray, "PerturbedArray")
        rounded.write(np.full(2, 1.001, np.float32))
        plain.write(np.full(2, 1.001, np.float32))
        assert space.arrays["w"].tolist() == [1.0, 1.0]
    assert space.arrays["w"] is arrays["w"]
