"""Many points in one call of the loss, where `torch.func.vmap` takes it: found out by trial, nothing else changes."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch_checks import seeded  # noqa: E402
from torch_models import BATCH, CLASSES, HIDDEN, INPUTS, TIMESTEPS, HandLSTM, Perceptron, batches, cross_entropy  # noqa: E402

from gradguard import Report, Verdict  # noqa: E402
from gradguard.integrations.torch import TorchGuard  # noqa: E402
from gradguard.integrations.torch.overrides.vectorized import MAX_BYTES_PER_CALL, CopyLimit  # noqa: E402
from gradguard.loss.batching import MAX_COPIES  # noqa: E402
from gradguard.loss.objective import LossRequest, Objective  # noqa: E402
from gradguard.perturbation.directions import aligned, gaussian, stratified_entries  # noqa: E402


@pytest.fixture
def _on_any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of the loss counts as a millisecond: a busy machine changes no decision."""

    def millisecond(call: Callable[[], object]) -> float:
        call()
        return 1e-3

    monkeypatch.setattr("gradguard.loss.batch_size._seconds", millisecond)


pytestmark = pytest.mark.usefixtures("_on_any_machine", "torch_as_it_was")


class Counted:
    """A loss that counts how often it is called, in a generator: what it wrote to an attribute, a check would undo."""

    def __init__(self, loss: Callable[[], object]) -> None:
        self._numbers = itertools.count()
        self._loss = loss

    def __call__(self) -> object:
        """One call."""
        next(self._numbers)
        return self._loss()

    @property
    def calls(self) -> int:
        """The calls so far; it may be asked once."""
        return next(self._numbers)


def checked(module: nn.Module, *, in_one: bool = True, share: float = 0.5, **options: Any) -> Report:
    """The first check of a module; it must take many points in a call of the loss, or else one."""
    x, y = batches(1)[0]
    loss = Counted(lambda: cross_entropy(module(x), y))
    with TorchGuard(module, every_n_steps=1, max_overhead=None, **options) as guard:
        cross_entropy(module(x), y).backward()
        report = guard.after_backward(0, loss)
    assert report is not None
    assert (loss.calls < share * report.evaluations) is in_one
    return report


class PlainCell(HandLSTM):
    """A cell written in plain operations."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the last step."""
        h = c = torch.zeros(x.shape[1], HIDDEN, dtype=self.w.dtype)
        for step in x:
            i, f, g, o = (torch.cat([step, h], dim=1) @ self.w + self.b).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.out(h)


class Stateful(nn.Module):
    """Statistics, dropout, a state that is carried over and a count."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(INPUTS, HIDDEN, bias=False)
        self.norm = nn.BatchNorm1d(HIDDEN)
        self.out = nn.Linear(2 * HIDDEN, CLASSES)
        self.register_buffer("total", torch.zeros(HIDDEN))
        self.hidden = torch.zeros(BATCH, HIDDEN)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the last step."""
        h = functional.dropout(self.norm(self.inner(x[-1])), 0.3)
        out = self.out(torch.cat([h + 0.1 * self.total, self.hidden], dim=1))
        with torch.no_grad():
            self.total += h.mean(0)
        self.hidden, self.calls = h.detach(), self.calls + 1
        return out


@pytest.mark.parametrize("precision", ["native", "float64"])
@pytest.mark.parametrize("make", [Perceptron, PlainCell, HandLSTM, Stateful])
def test_correct_gradients_are_ok_in_few_calls(make: Callable[[], nn.Module], precision: str) -> None:
    """A cell by hand, statistics, masks and carried states: the losses are those of the points one by one."""
    assert checked(seeded(make), precision=precision).verdict is Verdict.ok


@pytest.mark.parametrize("name", ["inner.weight", "norm.bias", "out.weight"])
def test_the_losses_are_those_of_the_points_one_by_one(name: str) -> None:
    """To the roundings of float64, along entries and directions alike; and so are the realised steps."""
    module, (x, y) = seeded(Stateful), batches(1)[0]
    with TorchGuard(module) as guard:
        cross_entropy(module(x), y).backward()
        space, rng = guard._params.float64_copies(), np.random.default_rng(0)
        loss = guard._replayed(lambda: cross_entropy(module(x), y))
        objective = Objective(loss, space, None, guard._state.capture_all())
        questions = []
        for moved in (name, "out.bias"):
            gradient = guard._params.gradients()[moved]
            chosen = [*stratified_entries(gradient, 2, rng), gaussian(gradient, rng), aligned(gradient, rng)]
            amounts = np.linspace(0.1, 1, 4 * len(chosen)).reshape(-1, 4)
            questions.append(LossRequest(moved, chosen, amounts, gradient))
        objective()
        alone = objective.evaluate(questions)
        objective.at_once = 24  # the second call is of both tensors
        together = objective.evaluate(questions)
    assert objective.at_once == 24
    for one, many in zip(alone, together, strict=True):
        assert np.ptp(one.losses) > 1e-3
        for found, expected in zip(dataclasses.astuple(many), dataclasses.astuple(one), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("fault", "verdicts"),
    [("averaged", {"w": "scale", "b": "scale"}), ("sign", {"w": "sign", "b": "sign"}), ("no bias", {"b": "missing"})],
)
def test_a_fault_of_a_function_is_told_in_few_calls(fault: str, verdicts: dict[str, str]) -> None:
    """Functions that vmap would refuse take part with the operations of their forward pass."""
    # The loss at x, which is repeated, and the screens take calls of their own, and little else is evaluated.
    report = checked(seeded(lambda: HandLSTM(fault)), share=0.6, constants={"timesteps": TIMESTEPS})
    assert {name: str(tensor.verdict) for name, tensor in report.tensors.items() if tensor.verdict.is_bug} == verdicts


class Asks(Perceptron):
    """What it computes depends on a number that it asks for."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the last step."""
        out = super().forward(x)
        return out if float(out.detach().sum()) < 1e9 else -out


class Kernel(nn.Module):
    """It reads the memory of its parameter by a name that nobody else knows of."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(INPUTS, CLASSES))
        memory = self.w.data
        self.read = lambda: memory

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the last step."""
        return x[-1] @ (self.w + self.read() - self.w.detach())


@pytest.mark.parametrize("make", [lambda: Recurrent(nn.LSTM), lambda: Recurrent(nn.GRU), Asks, Kernel])
def test_what_vmap_does_not_take_is_evaluated_point_by_point(make: Callable[[], nn.Module]) -> None:
    """Without a word, whether it is refused or would be something else."""
    assert checked(seeded(make), in_one=False, precision="native").verdict is Verdict.ok


class Recurrent(nn.Module):
    """A layer of PyTorch's."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.inner = kind(INPUTS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Its last outputs."""
        return self.inner(x)[0][-1]


def trained(guarded: bool) -> list[Tensor]:
    """What a training with statistics, masks and states leaves, its random stream included."""
    module = seeded(Stateful)
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    guard = TorchGuard(module, optimizer, every_n_steps=2, max_overhead=None) if guarded else None
    for step, (x, y) in enumerate(batches(5)):
        optimizer.zero_grad()
        cross_entropy(module(x), y).backward()
        if guard is not None:
            guard.after_backward(step, lambda x=x, y=y: cross_entropy(module(x), y))
        optimizer.step()
    if guard is not None:
        assert guard.guard._monitor.memory.proven.at_once > 1
        guard.close()
    return [*module.state_dict().values(), module.hidden, torch.tensor(module.calls), torch.get_rng_state()]


def test_the_training_is_the_same_bit_for_bit() -> None:
    """Statistics, masks, what is carried over, and the random stream."""
    assert all(torch.equal(one, other) for one, other in zip(trained(True), trained(False), strict=True))


def test_a_batch_that_vmap_does_not_take_is_checked_all_the_same() -> None:
    """A loss that asks for a number at some steps only, as one that logs does."""
    module = seeded(Perceptron)
    with TorchGuard(module, every_n_steps=1, max_overhead=None) as guard:
        for step, (x, y) in enumerate(batches(3)):
            module.zero_grad()
            cross_entropy(module(x), y).backward()

            def loss(x: Tensor = x, y: Tensor = y, asks: bool = step == 1) -> Tensor:
                value = cross_entropy(module(x), y)
                return value + 0 * value.item() if asks else value

            assert guard.after_backward(step, loss).verdict is Verdict.ok


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_the_loss_raises_among_many_points_leaves_all_as_it_was(error: type[BaseException]) -> None:
    """An error there is one of vmap's, and the points are evaluated one by one; an interrupt goes on to the user."""
    module, (x, y) = seeded(Stateful), batches(1)[0]

    def loss() -> Tensor:
        value = cross_entropy(module(x), y)
        if torch._C._functorch.is_batchedtensor(value):
            raise error
        return value

    with TorchGuard(module, every_n_steps=1, max_overhead=None) as guard:
        cross_entropy(module(x), y).backward()
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        if error is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                guard.after_backward(0, loss)
        else:
            assert guard.after_backward(0, loss).verdict is Verdict.ok
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert module.calls == 1


def test_unreduced_losses_come_in_few_calls_too() -> None:
    """Each copy has all of them."""
    module, (x, y) = seeded(Perceptron), batches(1)[0]
    loss = Counted(lambda: functional.cross_entropy(module(x), y, reduction="none"))
    with TorchGuard(module, every_n_steps=1, max_overhead=None, reduction="mean") as guard:
        functional.cross_entropy(module(x), y).backward()
        report = guard.after_backward(0, loss)
    assert report.verdict is Verdict.ok
    assert loss.calls < report.evaluations / 3


def test_a_large_forward_pass_is_given_little_room() -> None:
    """What the operations of a call compute together is bounded, whatever the model."""
    assert CopyLimit(parameter_bytes=4, returned_bytes=1000).max_copies() == MAX_COPIES
    assert (
        CopyLimit(parameter_bytes=MAX_BYTES_PER_CALL // 16, returned_bytes=MAX_BYTES_PER_CALL // 16).max_copies() == 8
    )
    assert CopyLimit(parameter_bytes=MAX_BYTES_PER_CALL, returned_bytes=MAX_BYTES_PER_CALL).max_copies() == 0
