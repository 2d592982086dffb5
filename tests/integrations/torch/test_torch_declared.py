"""Gradients of a PyTorch module that differ on purpose."""

import logging

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402 - after the question whether it is installed

from gradguard.integrations.torch import TorchGuard  # noqa: E402 - as above


class Reversed(torch.autograd.Function):
    """Gradient reversal: the identity forward, the negated gradient backward."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:  # noqa: ARG004, D102 - PyTorch passes it
        return x.clone()

    @staticmethod
    def backward(ctx: object, slope: Tensor) -> Tensor:  # noqa: ARG004, D102 - as above
        return -slope


class Adversarial(nn.Module):
    """Features below a gradient reversal, and a head above it."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Linear(4, 6)
        self.head = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - as in PyTorch
        reversed_features: Tensor = Reversed.apply(torch.tanh(self.features(x)))
        return self.head(reversed_features)


def test_a_declared_reversal_is_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    """Patterns are of the names that the module gives its parameters; the head is judged as ever."""
    torch.manual_seed(0)
    model, x = Adversarial(), torch.randn(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def loss() -> Tensor:
        return (model(x) ** 2).mean()

    declared = {"features.*": "gradient reversal"}
    with (
        caplog.at_level(logging.WARNING, "gradguard"),
        TorchGuard(model, optimizer, every_n_steps=1, expected=declared) as guard,
    ):
        for step in range(3):
            optimizer.zero_grad()
            loss().backward()
            guard.after_backward(step, loss=loss)
            optimizer.step()
        assert guard.report is not None
        verdicts = {name: str(tensor.verdict) for name, tensor in guard.report.tensors.items()}
    assert verdicts == {
        "features.weight": "expected",
        "features.bias": "expected",
        "head.weight": "ok",
        "head.bias": "ok",
    }
    assert not caplog.records


def test_a_pattern_that_matches_no_parameter_is_an_error() -> None:
    """It names the parameters that there are."""
    with pytest.raises(ValueError, match=r"features\.weight, features\.bias, head\.weight and head\.bias"):
        TorchGuard(Adversarial(), expected={"feature.*": "gradient reversal"})
