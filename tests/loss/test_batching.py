import pickle
import time
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from recorder import Recorder

from gradguard import GradGuard, Verdict, batched, check
from gradguard.arrays.types import Array
from gradguard.loss.batch_size import tried_batch_size
from gradguard.loss.batching import MAX_BYTES, Stack, StackFactory, max_copies
from gradguard.loss.objective import LossRequest, Objective
from gradguard.perturbation.directions import MAX_KEPT_DIRECTION, gaussian
from gradguard.perturbation.spaces import NativeCopies
from gradguard.testing import LSTM, faulty, random_batch

TIMESTEPS = 6
Loss = Callable[[Mapping[str, Array]], object]


def lstm(batch: int = 2) -> tuple[LSTM, Loss, Loss, dict[str, Array], Recorder]:
    """A network, its loss and its unreduced losses, its gradients, and the sizes of the calls."""
    model, data, calls = LSTM(3, 4, 3, seed=1), random_batch(TIMESTEPS, batch, inputs=3, outputs=3), Recorder()

    def counted(loss: Callable[..., Array]) -> Loss:
        def evaluate(params: Mapping[str, Array]) -> Array:
            calls.append(1 if params["b"].ndim == 1 else len(params["b"]))
            return loss(data, params)

        return evaluate

    return model, counted(model.loss), counted(model.losses), model.loss_and_grads(data)[1], calls


@pytest.mark.parametrize("precision", ["native", "float64"])
@pytest.mark.parametrize("reduction", [None, "mean"])
def test_a_batched_loss_says_the_same_in_few_calls(precision: str, reduction: str | None) -> None:
    """The verdicts are those of one evaluation at a time, for a seventh of the calls."""
    model, loss, losses, grads, calls = lstm()
    evaluate = losses if reduction else loss
    alone = check(model.params, grads, evaluate, reduction=reduction, precision=precision)
    calls.clear()
    together = check(model.params, grads, batched(evaluate), reduction=reduction, precision=precision)
    assert len(calls) < together.evaluations / 7
    assert sum(calls) == together.evaluations
    for name, tensor in together.tensors.items():
        assert tensor.verdict is alone.tensors[name].verdict is Verdict.ok
        # Matrices of another shape may be multiplied in another order.
        assert tensor.ratio == pytest.approx(alone.tensors[name].ratio, abs=4 * tensor.ratio_error)


def test_where_the_arithmetic_is_the_same_so_is_the_report() -> None:
    """Sums of squares round alike for one copy and for many: all numbers of differences are the same, bit for bit."""
    weights = np.random.default_rng(0).standard_normal(40).astype(np.float32)

    def loss(params: Mapping[str, Array]) -> Array:
        return np.tanh(params["w"]).cumsum(axis=-1)[..., -1] ** 2

    factor = 2 * np.tanh(weights.astype(np.float64)).sum()
    grads = {"w": (factor * (1 - np.tanh(weights.astype(np.float64)) ** 2)).astype(np.float32)}
    alone, together = (
        check({"w": weights}, grads, form, precision="native").tensors["w"] for form in (loss, batched(loss))
    )
    assert alone == together
    assert alone.verdict is Verdict.ok


def test_a_guard_batches_its_routine_checks_too() -> None:
    """A call takes the four points of a probe; the first and the last one of a check evaluate the loss as it is."""
    model, loss, _, grads, calls = lstm()
    guard = GradGuard(model.params, batched(loss), every_n_steps=1, max_overhead=None, precision="native")
    guard.after_backward(0, grads)
    calls.clear()
    report = guard.after_backward(1, grads)
    assert report is not None
    assert report.verdict is Verdict.ok
    assert calls.items == [1, *[4] * (2 + 3), 1]
    assert sum(calls) == report.evaluations


def test_a_fault_is_found_through_a_batched_loss() -> None:
    """And named: the gradient divided by the number of timesteps."""
    data = random_batch(TIMESTEPS, 2)
    model = faulty("timesteps")(seed=0)
    loss = batched(lambda params: model.loss(data, params))
    report = check(model.params, model.loss_and_grads(data)[1], loss, constants={"timesteps": TIMESTEPS})
    assert report.verdict is Verdict.scale
    assert "`timesteps`" in report.explanation


def test_a_slow_batch_is_not_used() -> None:
    """Where a call for many copies takes longer than as many calls, the first check finds out and leaves it."""
    calls = Recorder()

    def loss(params: Mapping[str, Array]) -> Array:
        w = params["w"]
        calls.append(w.ndim)
        for _ in range(60 if w.ndim > 1 else 0):
            np.linalg.svd(np.random.default_rng(0).standard_normal((60, 60)))
        return (w**2).sum(axis=-1)

    weights = np.ones(5, np.float32)
    report = check({"w": weights}, {"w": 2 * weights}, batched(loss), precision="native")
    assert report.verdict is Verdict.ok
    assert calls.items.count(2) == 3  # the proof, and the calls whose time was taken


class Compiled:
    """The batched loss of an LSTM, busy for a while at each call with a number of copies that it has not had before."""

    def __init__(self) -> None:
        self.model, self._loss, _, self.grads, self.calls = lstm()

    def __call__(self, params: Mapping[str, Array]) -> object:
        """The loss, or the losses of some copies."""
        before = set(self.calls)
        loss = self._loss(params)
        ready = time.perf_counter() + (0.0 if self.calls.items[-1] in before else 0.1)
        while time.perf_counter() < ready:
            pass
        return loss


def test_a_loss_that_is_compiled_for_each_number_of_copies_is_called_with_few() -> None:
    """The first check calls it with two numbers, and later checks with no others; the report is as ever."""
    loss = Compiled()
    guard = GradGuard(loss.model.params, batched(loss), every_n_steps=1, max_overhead=None, precision="native")
    for step in range(4):
        report = guard.after_backward(step, loss.grads)
        assert report is not None
        assert report.verdict is Verdict.ok
        assert set(loss.calls) == {1, 8, 32}
        assert report.evaluations <= sum(loss.calls)
        assert step == 0 or report.evaluations <= 24


def test_a_loss_that_is_compiled_already_is_called_with_few_numbers_of_copies() -> None:
    """A second check tries two numbers that the first one has not used, and sees that each takes long."""
    loss = Compiled()
    check(loss.model.params, loss.grads, batched(loss))
    assert set(loss.calls) == {1, 8, 32}
    check(loss.model.params, loss.grads, batched(loss))
    assert len(set(loss.calls)) <= 5


def test_a_fault_is_found_through_calls_that_are_padded() -> None:
    """The copies that fill a call up are no points of the check: the factor is as sharp as ever."""
    loss = Compiled()
    grads = loss.grads | {"Wh": loss.grads["Wh"] / np.float32(3)}
    report = check(loss.model.params, grads, batched(loss))
    assert {name for name, tensor in report.tensors.items() if tensor.verdict.is_bug} == {"Wh"}
    assert report.tensors["Wh"].ratio == pytest.approx(3, rel=1e-3)


def test_large_models_are_padded_within_their_memory() -> None:
    """A padded call takes 8, 32 or as many copies as there is room for."""
    for room, rows in ((512, [8, 8, 32, 32]), (20, [8, 8, 20]), (4, [4])):
        factory = StackFactory(NativeCopies({"w": np.broadcast_to(np.float32(0), MAX_BYTES // (4 * room))}), pads=True)
        assert factory.max_copies() == rows[-1]
        counts = [count for count in (1, 8, 9, 32) if count <= factory.max_copies()]
        assert [factory.copies(["w"] * count).rows for count in counts] == rows[: len(counts)]
        assert [factory.joint_copies(["w"], count).rows for count in counts] == rows[: len(counts)]


def of_one_only(params: Mapping[str, Array]) -> Array:
    """Sums over the copies too."""
    return (params["w"] ** 2).sum() + (params["b"] ** 2).sum()


def mixed(params: Mapping[str, Array]) -> Array:
    """Returns a loss a copy, and takes the bias of the first one for all."""
    bias = params["b"] if params["b"].ndim == 1 else params["b"][0]
    return (params["w"] ** 2).sum(axis=-1) + (bias**2).sum()


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (of_one_only, r"8 copies of the parameters .* shape \(\); expected \(8,\), a loss of each copy"),
        (mixed, r"3 copies of 'b' on a leading axis it returns .*, and for each copy alone .*; expected the same"),
    ],
)
def test_a_mark_that_is_not_true_is_an_error_at_once(loss: Loss, says: str) -> None:
    """It names the tensor or the shape, before anything is measured with it."""
    params = {"w": np.ones(5, np.float32), "b": np.full(2, 0.5, np.float32)}
    kept = {name: array.copy() for name, array in params.items()}
    with pytest.raises(ValueError, match=says):
        check(params, {name: 2 * array for name, array in params.items()}, batched(loss))
    assert all(np.array_equal(params[name], kept[name]) for name in params)


def test_only_a_callable_can_be_marked() -> None:
    """The error names what was given."""
    with pytest.raises(TypeError, match=r"loss is a float; expected a callable, loss\(params\)"):
        batched(1.0)  # type: ignore[arg-type]


def test_a_guard_with_a_marked_loss_can_be_pickled() -> None:
    """Where the loss itself can."""
    weights = {"w": np.ones(5, np.float32), "b": np.ones(2, np.float32)}
    guard = GradGuard(weights, batched(mixed))
    assert isinstance(pickle.loads(pickle.dumps(guard)), GradGuard)  # noqa: S301 - just pickled


def test_copies_share_what_is_not_moved() -> None:
    """A stack takes the memory of one tensor's copies; the other tensors are repeated in place, 0-dimensional too."""
    arrays = {"w": np.ones((3, 2), np.float32), "scale": np.array(2.0, np.float32)}
    for name in arrays:
        stack = Stack.of(arrays, [name] * 5, rows=7)
        assert len(stack.tensors) == 5
        stack.tensors[4].write(np.full(arrays[name].shape, 9, np.float32))
        assert {other: array.shape for other, array in stack.arrays.items()} == {"w": (7, 3, 2), "scale": (7,)}
        assert np.array_equal((stack.arrays[name] == 9).reshape(7, -1).all(axis=1), np.arange(7) == 4)
        others = [other for other in arrays if other != name]
        assert all(np.shares_memory(stack.arrays[other], arrays[other]) for other in others)
        assert arrays["w"].all()
        assert arrays["scale"] == 2


def test_a_call_does_not_hold_the_directions_of_others() -> None:
    """Many directions through a large tensor take the memory of those of one call, and none afterwards."""
    weights = np.ones(2 * MAX_KEPT_DIRECTION, np.float32)
    rng, alive = np.random.default_rng(0), Recorder()
    probes = [gaussian(weights, rng) for _ in range(6)]

    def loss(params: Mapping[str, Array]) -> Array:
        alive.append(sum(probe._vector is not None for probe in probes))
        return params["w"].sum(axis=-1)

    objective = Objective(batched(loss), NativeCopies({"w": weights}), None, lambda: None)
    objective.at_once = 8
    objective.evaluate([LossRequest("w", probes, np.ones((6, 4)), weights)])
    assert alive.items == [0, 0, 0]


def test_a_call_is_bounded_by_memory() -> None:
    """Large models are stacked a few copies at a time, but never less than a probe's four points."""
    assert max_copies({"w": np.empty(10, np.float32)}) == 512
    assert max_copies({"w": np.empty(MAX_BYTES // 400, np.float32)}) == 100
    assert max_copies({"w": np.broadcast_to(np.float32(0), 2**40)}) == 4


def test_a_machine_that_becomes_busy_lets_no_error_of_a_trial_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that takes no copies is evaluated one by one, whatever the times that the trial measures."""
    times = iter([1e-3, 1.0])
    monkeypatch.setattr("gradguard.loss.batch_size._seconds", lambda _call: next(times))

    def loss(params: Mapping[str, Array]) -> np.float32:
        if params["w"].ndim > 1:
            raise NotImplementedError
        return np.float32(params["w"] @ params["w"])

    objective = Objective(loss, NativeCopies({"w": np.ones(3, np.float32)}), None, lambda: None)
    assert tried_batch_size(objective, objective(), lambda: False) == 1
