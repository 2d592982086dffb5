"""A training that binds its parameters anew, beside a guard that holds the arrays of the beginning."""

from collections.abc import Callable, Collection

import numpy as np
import pytest
from lstm_training import Params

from gradguard import GradGuard, Report, Verdict

NAMES = ("U", "b", "V", "c")
Change = Callable[[int, Params], Params]


class Net:
    """Two layers by hand, whose loss reads attributes."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.params: Params = {name: rng.normal(size=(4, 4)[: 1 + name.isupper()]) / 2 for name in NAMES}
        self.x, self.y = rng.normal(size=(9, 4)), rng.normal(size=(9, 4))

    def loss(self) -> float:
        """The mean square error."""
        return float(np.mean((self._hidden() @ self.params["V"] + self.params["c"] - self.y) ** 2))

    def grads(self) -> Params:
        """Its gradient."""
        hidden = self._hidden()
        slope = 2 * (hidden @ self.params["V"] + self.params["c"] - self.y) / self.y.size
        inner = slope @ self.params["V"].T * (1 - hidden**2)
        return {"U": self.x.T @ inner, "b": inner.sum(0), "V": hidden.T @ slope, "c": slope.sum(0)}

    def _hidden(self) -> np.ndarray:
        return np.tanh(self.x @ self.params["U"] + self.params["b"])


def trained(
    rebinds: Collection[str], frozen: Collection[str] = (), change: Change = lambda _, grads: grads
) -> list[Report]:
    """Reports at four steps; some parameters are bound anew by each update, some are not updated, the rest in place."""
    net = Net()
    guard = GradGuard(dict(net.params), every_n_steps=1, max_overhead=None)
    reports = []
    for step in range(4):
        grads = net.grads()
        report = guard.after_backward(step, change(step, dict(grads)), net.loss)
        assert report is not None
        reports.append(report)
        for name in set(NAMES) - set(frozen):
            if name in rebinds:
                net.params[name] = net.params[name] - 0.1 * grads[name]
            else:
                net.params[name] -= 0.1 * grads[name]
    return reports


@pytest.mark.parametrize("rebinds", [NAMES, ("U", "V"), ("b",)], ids=str)
def test_parameters_that_are_bound_anew_are_no_bug(rebinds: tuple[str, ...]) -> None:
    """From the second check on the guard's arrays are old: the report says so, and the others are judged as ever."""
    first, *later = trained(rebinds)
    assert first.verdict is Verdict.ok
    for report in later:
        told = {name for name, tensor in report.tensors.items() if tensor.cause_key == "rebound"}
        assert told == set(rebinds)
        assert not any(tensor.verdict.is_bug for tensor in report.tensors.values())
        assert "the loss reads another array" in report.tensors[rebinds[0]].cause
        assert all(report.tensors[name].verdict is Verdict.ok for name in set(NAMES) - told)


def test_parameters_that_are_not_updated_are_no_rebound_ones() -> None:
    """Their bits are the same too, and the loss reads them: a bug of one is found, and one beside a rebound tensor."""
    tripled = lambda step, grads: grads | {"V": grads["V"] * (1 if step < 2 else 3)}  # noqa: E731
    for rebinds in ((), ("U",)):
        *_, last = trained(rebinds, frozen=("V", "b"), change=tripled)
        assert last.tensors["V"].verdict is Verdict.scale
        assert {name for name, tensor in last.tensors.items() if tensor.cause_key == "rebound"} == set(rebinds)
        assert not last.tensors["b"].verdict.is_bug


def test_a_gradient_that_begins_where_the_loss_reads_nothing_is_spurious() -> None:
    """The array has not changed since the last check because its gradient was zero then."""
    params = {"w": np.array([0.3, 0.7, 1.1]), "spare": np.ones(3)}
    guard = GradGuard(params, lambda: float(np.sin(params["w"]).sum()), every_n_steps=1, max_overhead=None)
    for step in range(3):
        grads = {"w": np.cos(params["w"]), "spare": np.full(3, 0.5 * (step == 2))}
        report = guard.after_backward(step, grads)
        params["w"] -= 0.1 * grads["w"]
    assert report is not None
    assert report.tensors["spare"].verdict is Verdict.spurious
