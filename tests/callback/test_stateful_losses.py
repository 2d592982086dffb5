from types import SimpleNamespace

import numpy as np
import pytest
from lstm_training import Params

from gradguard import GradGuard, Verdict, snapshot_attributes, snapshot_rng


def test_a_loss_with_a_state_needs_a_snapshot(caplog: pytest.LogCaptureFixture) -> None:
    """Without one it is not said to be a bug but what it is; with it the state is as if no check had been made."""
    params = {"w": np.array([0.3, -0.7])}
    rng, layer = np.random.default_rng(0), SimpleNamespace(mean=np.zeros(2), calls=0)

    def loss() -> float:
        layer.calls += 1
        layer.mean = 0.9 * layer.mean + 0.1 * params["w"]
        return float(np.sin(params["w"] * (1 + layer.mean) + rng.random()).sum())

    def true_gradient() -> Params:
        later = np.random.default_rng()
        later.bit_generator.state = rng.bit_generator.state
        w, mean = params["w"], 0.9 * layer.mean + 0.1 * params["w"]
        return {"w": np.cos(w * (1 + mean) + later.random()) * (1 + mean + 0.1 * w)}

    stateless = GradGuard(params, loss, every_n_steps=1, max_overhead=None)
    report = stateless.after_backward(0, true_gradient())
    assert report is not None
    assert report.verdict is Verdict.nondeterministic
    assert report.verdict.is_bug is None
    assert "snapshot=" in caplog.records[0].getMessage()
    snapshots = [snapshot_attributes(layer, "mean", "calls"), snapshot_rng(rng)]
    guard = GradGuard(params, loss, every_n_steps=1, max_overhead=None, snapshot=snapshots)
    for step in range(3):
        state, mean, calls = rng.bit_generator.state, layer.mean.tolist(), layer.calls
        report = guard.after_backward(step, true_gradient())
        assert report is not None
        assert report.verdict is Verdict.ok
        assert (rng.bit_generator.state, layer.mean.tolist(), layer.calls) == (state, mean, calls)
        loss()  # training goes on
