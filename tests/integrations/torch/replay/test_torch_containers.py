"""Law 1, beyond tensors: containers, objects and frozen parameters that a forward pass or the loss writes to."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from busy_network import BATCH, CLASSES, OPTIONS, TENSORS, Network, left_on, same, samples, seed  # noqa: E402 - torch may not be there
from torch import Tensor, nn  # noqa: E402

from gradguard.integrations.torch import TorchGuard  # noqa: E402

STEPS = 8


class Noted:
    """A loss that writes to itself, and to what it names."""

    def __init__(self, loss: Callable[[], Tensor]) -> None:
        self.loss, self.calls, self.notes = loss, 0, {"values": [0.0]}

    def __call__(self) -> Tensor:
        """One call."""
        value = self.loss()
        self.calls += 1
        self.notes["values"].append(float(value.detach()))
        self.notes["latest"] = [value.detach()]
        return value


def trained(make: Callable[[], nn.Module], *, guarded: bool) -> tuple[list[Any], list[Any]]:
    """What some steps with noted losses leave, and the history of the guard."""
    seed()
    network = make()
    x, y = samples(BATCH * STEPS)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    guard = TorchGuard(network, optimizer, every_n_steps=1, **OPTIONS) if guarded else None
    values, noted = [], []
    for step in range(STEPS):
        batch = slice(step * BATCH, (step + 1) * BATCH)

        def loss(batch: slice = batch) -> Tensor:
            value = nn.functional.cross_entropy(network(x[batch]), y[batch])
            values.append(value.detach())
            return value

        noted.append(Noted(loss))
        optimizer.zero_grad()
        noted[-1]().backward()
        if guard is not None:
            guard.after_backward(step, loss=noted[-1])
        optimizer.step()
    left = [left_on(network), values, [(each.calls, each.notes) for each in noted]]
    return left, [] if guard is None else list(guard.history)


def late() -> nn.Module:
    """A network with a parameter that begins to move, and a record that begins, after its fifth forward pass."""

    class Late(Network):
        def __init__(self) -> None:
            super().__init__(busy=True)
            self.running = nn.Parameter(torch.zeros(CLASSES), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            if self.counts["calls"] > 5:
                self.running.data.lerp_(logits.detach().mean(0), 0.5)
                self.late = [*getattr(self, "late", []), logits.detach()]
            return logits + self.running.mean()

    return Late()


@pytest.mark.parametrize(("make", "missed"), [(lambda: Network(busy=True), set()), (late, {5})], ids=["soon", "late"])
def test_what_forward_passes_and_losses_write_is_put_back(
    make: Callable[[], nn.Module], missed: set[int], capfd: pytest.CaptureFixture[str]
) -> None:
    """And the loss repeats, so that every check tells; but one at which something new begins to change."""
    (without, _), (under_guard, history) = trained(make, guarded=False), trained(make, guarded=True)
    assert same(without, under_guard)
    assert [row.step for row in history] == [step for step in range(STEPS) if step not in missed]
    assert history[0].verdicts.keys() == TENSORS
    assert {str(row.verdict) for row in history} <= {"ok", "float_precision"}
    assert "Traceback" not in capfd.readouterr().err


def test_large_frozen_parameters_are_copied_where_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first steps show which do; until then, no check takes for a bug what they do to the loss."""
    monkeypatch.setattr("gradguard.integrations.torch.replay.state.MAX_FROZEN_BYTES", 0)
    _, history = trained(lambda: Network(busy=True), guarded=True)
    assert not any(row.verdict.is_bug for row in history)
    assert {str(row.verdict) for row in list(history)[-2:]} <= {"ok", "float_precision"}


def test_what_a_loss_wrote_is_put_back_after_an_exception() -> None:
    """It is in the middle of a probe, and the training goes on."""
    seed()
    network, notes, calls = Network(busy=True), [], 0
    x, y = samples(BATCH)

    def loss() -> Tensor:
        nonlocal calls
        calls += 1
        notes.append(calls)
        if calls == 20:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(network(x), y)

    with TorchGuard(network, every_n_steps=1, **OPTIONS) as guard:
        loss().backward()
        with pytest.raises(KeyboardInterrupt):
            guard.after_backward(0, loss)
    assert notes == [1]
    assert network.counts == {"calls": 1}
    assert len(network.outputs) == len(network.latest) == len(network.meter.values) == 1


def test_a_batch_that_the_loss_normalizes_in_place_is_put_back_and_refused() -> None:
    """Its second normalization is not that of the training; the message says what to do."""
    seed()
    network = Network()
    x, y = samples(BATCH)

    def loss() -> Tensor:
        return nn.functional.cross_entropy(network(x.sub_(0.1)), y)

    with TorchGuard(network, every_n_steps=1, **OPTIONS) as guard:
        loss().backward()
        before = x.clone()
        with pytest.raises(
            ValueError, match=r"input 0, which was changed in place since.*normalized in place(.|\n)*make new tensors"
        ):
            guard.after_backward(0, loss)
    assert torch.equal(before, x)


def test_a_parameter_that_something_else_writes_during_a_check_is_an_error() -> None:
    """Another thread, as a training with asynchronous updates has it."""
    seed()
    network = Network()
    x, y = samples(BATCH)
    waiting = 3

    def loss() -> Tensor:
        nonlocal waiting
        waiting -= 1
        if waiting == 0:
            thread = threading.Thread(target=update)
            thread.start()
            thread.join()
        return nn.functional.cross_entropy(network(x), y)

    def update() -> None:
        with torch.no_grad():
            network.out.bias.add_(1e-6)

    with TorchGuard(network, every_n_steps=1, **OPTIONS) as guard:
        loss().backward()
        with pytest.raises(RuntimeError, match=r"another thread or the loss itself wrote to the parameters out\.bias"):
            guard.after_backward(0, loss)


def test_what_cannot_be_written_is_left_alone() -> None:
    """Results of an evaluation in inference mode, expanded tensors, and structures deeper than any stack."""

    class Odd(Network):
        def __init__(self) -> None:
            super().__init__()
            with torch.inference_mode():
                self.results = [torch.ones(3)]
            self.mask = torch.ones(1, 1).expand(4, 4)
            self.linked: list[Any] = []
            for _ in range(2000):
                self.linked = [self.linked]

    seed()
    network = Odd()
    x, y = samples(BATCH)
    with TorchGuard(network, every_n_steps=1, **OPTIONS) as guard:
        nn.functional.cross_entropy(network(x), y).backward()
        report = guard.after_backward(0, lambda: nn.functional.cross_entropy(network(x), y))
    assert report is not None
    assert report.verdict == "ok"
