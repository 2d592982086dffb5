"""The loss is that of the step."""

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402 - torch may not be there
from torch.nn import functional  # noqa: E402
from torch_checks import bugs, checked, guard_of, seeded  # noqa: E402
from torch_models import Perceptron, batches, cross_entropy  # noqa: E402

from gradguard import snapshot_rng  # noqa: E402


def test_a_hidden_state_of_after_the_step_is_refused() -> None:
    """It is another function than the one the gradient is of; with the state the step began with all is right."""
    cell = seeded(lambda: nn.GRU(2, 3))
    x = batches(1)[0][0]
    h = torch.randn(1, 4, 3)
    with guard_of(cell) as guard:
        h0 = h
        out, h = cell(x, h)
        out.square().mean().backward()
        with pytest.raises(ValueError, match=r"other inputs than the training did \(input 1\)(.|\n)*h0 = h before"):
            guard.after_backward(0, lambda: cell(x, h)[0].square().mean())
        report = guard.after_backward(0, lambda: cell(x, h0)[0].square().mean())
    assert report is not None
    assert report.verdict.is_bug is False


def test_a_loss_that_draws_its_own_random_numbers_is_refused() -> None:
    """They were others in the training; nothing of the stream is used up by finding that out."""
    module = seeded(Perceptron)
    x, y = batches(1)[0]

    def noisy() -> Tensor:
        return cross_entropy(module(x + torch.randn_like(x)), y)

    with guard_of(module) as guard:
        noisy().backward()
        before = torch.get_rng_state()
        with pytest.raises(ValueError, match="draws random numbers before it calls the module"):
            guard.after_backward(0, noisy)
    assert torch.equal(before, torch.get_rng_state())


def test_a_forward_pass_that_cannot_be_repeated_is_refused() -> None:
    """Dropout from a generator of the module's own; a snapshot of that is taken before each forward pass."""

    class Model(Perceptron):
        def __init__(self) -> None:
            super().__init__()
            self.generator = torch.Generator()

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.inner(x[-1]))
            return self.out(h * (torch.rand(h.shape, generator=self.generator) < 0.5))

    module = seeded(Model)
    with pytest.raises(ValueError, match=r"does not repeat the training's forward pass: .* \(off by \d+%\)"):
        checked(module)
    module.zero_grad()
    report = checked(module, snapshot=snapshot_rng(module.generator))
    assert bugs(report) == {}
    assert report.precision == "float64"


def test_the_loss_may_be_in_one_piece_where_the_training_was_in_several() -> None:
    """Accumulated over two micro-batches, checked on both at once."""
    module = seeded(Perceptron)
    parts = batches(2)
    x, y = torch.cat([x for x, _ in parts], 1), torch.cat([y for _, y in parts])
    with guard_of(module) as guard:
        for part in parts:
            (cross_entropy(module(part[0]), part[1]) / 2).backward()
        report = guard.after_backward(0, lambda: cross_entropy(module(x), y))
    assert report is not None
    assert report.verdict == "ok"


def test_unreduced_losses_are_taken_with_their_reduction() -> None:
    """As of the core."""
    module = seeded(Perceptron)
    x, y = batches(1)[0]
    with guard_of(module, reduction="mean", precision="native") as guard:
        cross_entropy(module(x), y).backward()
        report = guard.after_backward(0, lambda: functional.cross_entropy(module(x), y, reduction="none"))
    assert report is not None
    assert report.verdict.is_bug is False


def test_spectral_norm_starts_each_time_from_the_vectors_of_the_training() -> None:
    """Each forward pass changes them, and the gradient was computed with those of before."""

    def made() -> nn.Module:
        module = Perceptron()
        nn.utils.parametrizations.spectral_norm(module.inner)
        return module

    report = checked(seeded(made))
    assert "inner.parametrizations.weight.original" in report.tensors
    assert bugs(report) == {}
