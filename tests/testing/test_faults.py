from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradguard.testing import FAULTS, LSTM, faulty, random_batch


@pytest.fixture(scope="module", params=[0, 200], ids=["untrained", "trained"])
def params(request: pytest.FixtureRequest) -> dict[str, NDArray[np.floating[Any]]]:
    """The parameters of the correct model, before and after some training."""
    model, batch = LSTM(), random_batch()
    for _ in range(request.param):
        _, grads = model.loss_and_grads(batch)
        for name, grad in grads.items():
            model.params[name] -= np.float32(0.5) * grad
    return model.params


def gradients(
    model: LSTM, params: dict[str, NDArray[np.floating[Any]]], seed: int = 0
) -> dict[str, NDArray[np.floating[Any]]]:
    """The gradients at `params` on the batch of that seed."""
    model.params = params
    return model.loss_and_grads(random_batch(seed=seed))[1]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_spoils_the_tensors_it_names_and_no_others(
    name: str, params: dict[str, NDArray[np.floating[Any]]]
) -> None:
    """Each named tensor is off by more than 1e-4, each other one is the same bit for bit, and all stay float32."""
    right, wrong = gradients(LSTM(), params), gradients(faulty(name)(), params)
    off = {key: np.linalg.norm(wrong[key] - right[key]) / np.linalg.norm(right[key]) for key in right}
    assert {key for key in right if wrong[key].tobytes() != right[key].tobytes()} == FAULTS[name].tensors
    assert min(off[key] for key in FAULTS[name].tensors) > 1e-4
    assert {grad.dtype for grad in wrong.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_leaves_the_loss_alone(name: str) -> None:
    """Only the backward pass is wrong: the loss, alone and beside the gradients, is the correct model's."""
    batch = random_batch()
    model = faulty(name)(seed=2)
    assert model.loss(batch) == model.loss_and_grads(batch)[0] == LSTM(seed=2).loss(batch)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_describes_itself_in_a_line(name: str) -> None:
    """Its name is as listed, and its description one readable line; it replaces a method that exists."""
    fault = FAULTS[name]
    assert fault.name == name
    assert 10 < len(fault.description) < 100
    assert "\n" not in fault.description
    assert fault.expected
    assert callable(getattr(LSTM, fault.replaces))


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.constant])
def test_a_fault_of_scale_shows_the_constant_it_names(name: str, params: dict[str, NDArray[np.floating[Any]]]) -> None:
    """The ratio of the right gradient to the wrong one is the constant, or its inverse, in every entry."""
    right, wrong = gradients(LSTM(), params), gradients(faulty(name)(), params)
    constant = {"timesteps": 39, "batch": 4}[str(FAULTS[name].constant)]
    for key in FAULTS[name].tensors:
        ratio = np.linalg.norm(right[key]) / np.linalg.norm(wrong[key])
        assert max(ratio, 1 / ratio) == pytest.approx(constant, rel=1e-5)
        assert np.allclose(right[key], ratio * wrong[key], rtol=1e-5, atol=0)


def test_a_stale_gradient_is_the_previous_batch_s() -> None:
    """After a first batch, the gradient of the second is the first's."""
    model, params = faulty("stale")(), LSTM().params
    gradients(model, params, seed=5)
    second = gradients(model, params, seed=6)
    assert all(np.array_equal(second[key], grad) for key, grad in gradients(LSTM(), params, seed=5).items())


def test_an_accumulated_gradient_grows_by_each_batch() -> None:
    """What is new in the second gradient is the second batch's."""
    model, params = faulty("accumulated")(), LSTM().params
    first, second = gradients(model, params, seed=5), gradients(model, params, seed=6)
    for key, grad in gradients(LSTM(), params, seed=6).items():
        assert np.allclose(second[key] - first[key], grad, atol=1e-6)


def test_an_unknown_fault_is_told_with_those_there_are() -> None:
    """A misspelt name is an error that lists the names."""
    with pytest.raises(ValueError, match=r"'timestep'.*timesteps, batch-twice"):
        faulty("timestep")


def test_a_fault_takes_the_place_of_one_piece_of_a_subclass_too() -> None:
    """A user's own subclass is kept, with its one piece replaced."""

    class Mine(LSTM):
        greeting = "hello"

    model = faulty("missing-bias", Mine)()
    assert isinstance(model, Mine)
    assert not model.loss_and_grads(random_batch())[1]["b"].any()


def test_there_are_faults_of_every_kind_of_verdict_a_wrong_gradient_can_get() -> None:
    """Scale, sign, missing, spurious, clipped and structure each have a fault."""
    kinds = {str(verdict) for fault in FAULTS.values() for verdict in fault.expected}
    assert kinds == {"scale", "sign", "missing", "spurious", "clipped", "structure"}
    assert len(FAULTS) >= 34
