import numpy as np
import pytest
from numpy.typing import NDArray

from gradguard.testing import LSTM, Batch, random_batch


def sgd(model: LSTM, batch: Batch, steps: int) -> None:
    """Trains the model a little."""
    for _ in range(steps):
        _, grads = model.loss_and_grads(batch)
        for name, grad in grads.items():
            model.params[name] -= np.float32(0.5) * grad


def true_gradient(model: LSTM, batch: Batch, name: str) -> NDArray[np.float64]:
    """The gradient by complex step, exact to rounding in float64."""
    gradient = np.empty(model.params[name].shape)
    for index in np.ndindex(gradient.shape):
        params = {key: param.astype(complex) for key, param in model.params.items()}
        params[name][index] += 1e-30j
        gradient[index] = model.loss(batch, params).imag / 1e-30
    return gradient


@pytest.fixture(params=[0, 200], ids=["untrained", "trained"])
def model(request: pytest.FixtureRequest) -> LSTM:
    """A model before and after some training."""
    lstm = LSTM()
    sgd(lstm, random_batch(), request.param)
    return lstm


@pytest.mark.parametrize("name", LSTM().params)
def test_backpropagation_agrees_with_the_complex_step(model: LSTM, name: str) -> None:
    """The gradients are right to rounding, in float64 and in float32."""
    batch = random_batch()
    in_float32 = model.loss_and_grads(batch)[1][name]
    model.params = {key: param.astype(np.float64) for key, param in model.params.items()}
    in_float64 = model.loss_and_grads(batch)[1][name]
    truth = true_gradient(model, batch, name)
    assert np.abs(in_float64 - truth).max() < 1e-10 * np.abs(truth).max()
    assert np.linalg.norm(in_float32 - truth) < 1e-5 * np.linalg.norm(truth)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_everything_is_computed_in_the_dtype_of_the_parameters(dtype: type) -> None:
    """Loss, unreduced losses and gradients take the precision of the parameters."""
    model, batch = LSTM(dtype=dtype), random_batch()
    loss, grads = model.loss_and_grads(batch)
    assert {loss.dtype, model.loss(batch).dtype, model.losses(batch).dtype} == {np.dtype(dtype)}
    assert {grad.dtype for grad in grads.values()} == {np.dtype(dtype)}


@pytest.mark.parametrize("name", LSTM().params)
def test_one_float64_tensor_promotes_the_loss(name: str) -> None:
    """Float64 in a single tensor reaches the loss: a step too small for float32 moves it."""
    model, batch = LSTM(), random_batch()
    shadow = model.params | {name: model.params[name].astype(np.float64)}
    before = model.loss(batch, shadow)
    shadow[name].flat[0] += 1e-10
    assert before.dtype == np.float64
    assert 0 < abs(model.loss(batch, shadow) - before) < 1e-10


def test_the_loss_is_the_mean_of_the_unreduced_losses_and_reads_the_live_arrays() -> None:
    """`loss` is the mean of `losses`, at the parameters it is given or at the model's own."""
    model, batch = LSTM(), random_batch()
    loss = model.loss(batch)
    assert model.losses(batch).shape == (39, 4)
    assert loss == model.losses(batch).mean() == model.loss_and_grads(batch)[0] == model.loss(batch, dict(model.params))
    model.params["c"][0] += 1
    assert model.loss(batch) != loss


def test_the_network_of_the_question_has_250_parameters_and_learns() -> None:
    """At 5/5/5 it is the network of the question, and gradient descent lowers its loss."""
    model, batch = LSTM(), random_batch()
    assert sum(param.size for param in model.params.values()) == 250
    before = model.loss(batch)
    sgd(model, batch, 200)
    assert model.loss(batch) < 0.95 * before


def test_saturated_gates_and_logits_do_not_overflow() -> None:
    """Huge weights give a finite loss and finite gradients, without a warning."""
    model, batch = LSTM(), random_batch()
    for param in model.params.values():
        param *= np.float32(1e4)
    loss, grads = model.loss_and_grads(batch)
    assert np.isfinite(loss)
    assert all(np.isfinite(grad).all() for grad in grads.values())


def test_a_random_batch_never_feeds_the_last_symbol_and_repeats_with_its_seed() -> None:
    """The last input symbol is padding; the same seed draws the same batch."""
    batch, again, other = random_batch(seed=3), random_batch(seed=3), random_batch(seed=4)
    assert batch.x.shape == (39, 4, 5)
    assert (batch.x.sum(axis=-1) == 1).all()
    assert not batch.x[..., -1].any()
    assert (batch.y == again.y).all()
    assert (batch.y != other.y).any()
