import threading

import numpy as np
import pytest

from gradguard import GradGuard, Report, Verdict


def test_a_guard_in_use_refuses_a_second_thread() -> None:
    """With both names and what to do; afterwards either may use it."""
    params, started, go_on = {"w": np.array([0.3])}, threading.Event(), threading.Event()

    def loss() -> float:
        started.set()
        assert go_on.wait(60)
        return float(np.sin(params["w"]).sum())

    guard = GradGuard(params, loss, every_n_steps=1, max_overhead=None)
    reports: list[Report | None] = []
    grads = {"w": np.cos(params["w"])}
    first = threading.Thread(target=lambda: reports.append(guard.after_backward(0, grads)), name="first")
    first.start()
    assert started.wait(60)
    with pytest.raises(RuntimeError, match=r"MainThread calls a guard that the thread first is using.*a guard and"):
        guard.after_backward(0, grads)
    go_on.set()
    first.join()
    reports.append(guard.after_backward(1, grads))
    assert [report.verdict for report in reports if report is not None] == [Verdict.ok] * 2


def test_each_thread_may_have_a_guard() -> None:
    """Eight at once find what each would find alone."""

    def train(seed: int, found: dict[int, list[float]]) -> None:
        params = {"w": np.random.default_rng(seed).standard_normal(3).astype(np.float32)}
        guard = GradGuard(params, lambda: np.sin(params["w"]).sum(), every_n_steps=1, max_overhead=None, seed=seed)
        for step in range(4):
            guard.after_backward(step, {"w": np.cos(params["w"])})
        found[seed] = [row.ratios["w"] for row in guard.history]

    alone: dict[int, list[float]] = {}
    for seed in range(8):
        train(seed, alone)
    together: dict[int, list[float]] = {}
    threads = [threading.Thread(target=train, args=(seed, together)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
