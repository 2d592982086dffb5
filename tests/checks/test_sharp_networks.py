"""Networks with large weights, that bend and amplify roundings: what is heard in them, and what is seen."""

import numpy as np
import pytest

from gradguard import check
from gradguard.differences import noise
from gradguard.loss.objective import Objective
from gradguard.perturbation.spaces import InPlace
from gradguard.testing import FAULTS, LSTM, Batch, faulty, random_batch


def sharp(factor: float, fault: str | None = None, seed: int = 0) -> tuple[LSTM, Batch]:
    """An untrained LSTM with its weights times a factor."""
    model = (faulty(fault) if fault else LSTM)(hidden=16, seed=seed)
    for param in model.params.values():
        param *= np.float32(factor)
    return model, random_batch(39, 4, seed=seed)


@pytest.mark.parametrize(("factor", "seed"), [(12.0, 0), (12.0, 1), (16.0, 0), (16.0, 1)])
def test_a_bend_close_by_is_not_heard_as_noise(factor: float, seed: int) -> None:
    """The noise is that of a float64 twin within a factor of 2.5, where the loss bends by hundreds of times that."""
    model, batch = sharp(factor, seed=seed)
    objective, rng = (
        Objective(lambda: model.loss(batch), InPlace(model.params), None, lambda: None),
        np.random.default_rng(0),
    )
    base, errors = model.params["Wh"].copy(), []
    for _ in range(60):
        model.params["Wh"][...] = base * (1 + 1e-6 * rng.standard_normal(base.shape))
        exact = {name: param.astype(np.float64) for name, param in model.params.items()}
        errors.append(float(objective()[0]) - float(model.loss(batch, exact)))
    model.params["Wh"][...] = base
    heard = noise.estimate_noise(objective, ["Wh"], objective(), np.random.default_rng(seed)).sigma
    assert np.std(errors) / 2.5 < heard < 2.5 * np.std(errors)


@pytest.mark.parametrize(
    ("fault", "precision"), [("last-step-dropped", "auto"), ("no-cell-slope", "native"), ("clipped-by-norm", "auto")]
)
def test_a_fault_is_named_on_every_tensor_of_a_sharp_network(fault: str, precision: str) -> None:
    """Also where backprop itself is off by a thousandth, and one gradient is ten thousand times another."""
    model, batch = sharp(12.0, fault)
    truth = LSTM()
    truth.params = model.params
    right, grads = truth.loss_and_grads(batch)[1], model.loss_and_grads(batch)[1]
    report = check(
        model.params,
        grads,
        lambda: model.loss(batch),
        constants={"timesteps": 39, "batch": 4},
        precision=precision,
        entries=30,
    )
    spoilt = {name for name in right if np.linalg.norm(grads[name] - right[name]) > 0.01 * np.linalg.norm(right[name])}
    assert spoilt
    assert {name for name, tensor in report.tensors.items() if tensor.verdict.is_bug} == spoilt, str(report)
    assert {report.tensors[name].verdict for name in spoilt} <= FAULTS[fault].expected, str(report)


@pytest.mark.parametrize(("seed", "precision"), [(0, "native"), (2, "native"), (2, "auto")])
def test_a_sharp_network_is_not_blamed(seed: int, precision: str) -> None:
    """Its float32 gradients are off by more than its loss's roundings let expect."""
    model, batch = sharp(16.0, seed=seed)
    report = check(
        model.params, model.loss_and_grads(batch)[1], lambda: model.loss(batch), precision=precision, entries=60
    )
    assert not report.verdict.is_bug, str(report)
