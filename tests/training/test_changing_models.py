import numpy as np
import pytest
from lstm_training import Training

from gradguard import GradGuard, Verdict


@pytest.mark.parametrize("precision", ["native", "float64"])
def test_an_array_that_is_rebound_between_steps_is_followed(precision: str) -> None:
    """`params[name] = new` instead of an update in place: the new arrays are checked, and are there afterwards."""
    training = Training()
    guard = GradGuard(training.model.params, training.loss, every_n_steps=1, max_overhead=None, precision=precision)
    for step in range(4):
        _, grads = training.model.loss_and_grads(training.batch)
        if step == 3:
            grads["Wh"] = 3 * grads["Wh"]
        objects = dict(training.model.params)
        report = guard.after_backward(step, grads)
        assert report is not None
        assert {name for name, tensor in report.tensors.items() if tensor.verdict.is_bug} == (
            {"Wh"} if step == 3 else set()
        )
        assert all(training.model.params[name] is array for name, array in objects.items())
        for name, grad in grads.items():
            training.model.params[name] = training.model.params[name] - np.float32(0.1) * grad


def test_a_tensor_that_is_added_during_training_is_checked() -> None:
    """A model that grows has its new tensor looked at deeply when it first appears."""
    params = {"w": np.array([0.3, 0.7])}

    def loss() -> float:
        return sum(float(np.sin(weights).sum()) for weights in params.values())

    guard = GradGuard(params, loss, every_n_steps=1, max_overhead=None)
    guard.after_backward(0, {"w": np.cos(params["w"])})
    params["new"] = np.array([1.1, 0.4])
    report = guard.after_backward(1, {"w": np.cos(params["w"]), "new": 2 * np.cos(params["new"])})
    assert report is not None
    assert report.tensors["new"].verdict is Verdict.scale


def test_a_tensor_with_blocks_that_changes_its_shape_is_told() -> None:
    """A vocabulary that grows: the message names the tensor, or the blocks are found anew."""
    params = {"w": np.array([0.3, 0.7])}
    guard = GradGuard(
        params,
        lambda: float(np.sin(params["w"]).sum()),
        every_n_steps=1,
        max_overhead=None,
        blocks={"w": {"all": np.s_[:]}},
    )
    guard.after_backward(0, {"w": np.cos(params["w"])})
    params["w"] = np.array([0.3, 0.7, 1.1])
    try:
        guard.after_backward(1, {"w": 2 * np.cos(params["w"])})
    except ValueError as error:
        assert "'w'" in str(error)  # noqa: PT017 - either outcome will do
