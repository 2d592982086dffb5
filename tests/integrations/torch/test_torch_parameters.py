"""What is checked, and what cannot be."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402 - torch may not be there
from torch_checks import bugs, checked, guard_of, seeded  # noqa: E402
from torch_models import Perceptron, Table, batches, cross_entropy  # noqa: E402

from gradguard.integrations.torch import TorchGuard  # noqa: E402


def test_frozen_parameters_and_those_of_other_optimizers_are_skipped_and_told(caplog: pytest.LogCaptureFixture) -> None:
    """By name and with the reason; the others are checked."""
    module = seeded(Perceptron)
    module.inner.weight.requires_grad = False
    caplog.set_level(logging.INFO, "gradguard")
    guard = guard_of(module, torch.optim.SGD(module.out.parameters()))
    assert guard.skipped == {"inner.weight": "frozen", "inner.bias": "not in the optimizer"}
    assert "not checked: inner.weight (frozen); inner.bias (not in the optimizer)" in caplog.text
    x, y = batches(1)[0]
    cross_entropy(module(x), y).backward()
    report = guard.after_backward(0, lambda: cross_entropy(module(x), y))
    assert report is not None
    assert set(report.tensors) == {"out.weight", "out.bias"}
    assert report.precision == "float64"


def test_tied_parameters_are_one() -> None:
    """Under their first name, moved together, with the sum of their gradients."""
    report = checked(seeded(Table))
    assert set(report.tensors) == {"embedding.weight", "out.weight", "out.bias"}
    assert bugs(report) == {}


def lazy() -> nn.Module:
    """A module without shapes."""
    return nn.LazyLinear(3)


def complex_numbers() -> nn.Module:
    """A module of complex numbers."""
    return nn.Linear(2, 3, dtype=torch.complex64)


def without_memory() -> nn.Module:
    """A module that is only described."""
    return nn.Linear(2, 3, device="meta")


def expanded() -> nn.Module:
    """A parameter whose entries are one place in memory."""
    module = nn.Module()
    module.w = nn.Parameter(torch.ones(1).expand(3))
    return module


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: [torch.ones(3)], TypeError, ["module is a list", "torch.nn.Module"]),
        (nn.Tanh, ValueError, ["nothing to check", "it has no parameters"]),
        (lambda: nn.Linear(2, 3).requires_grad_(False), ValueError, ["nothing to check", "weight is frozen"]),
        (lazy, ValueError, ["'weight'", "no shape yet", "call the module once"]),
        (complex_numbers, TypeError, ["'weight'", "torch.complex64", "float32"]),
        (without_memory, TypeError, ["'weight'", "meta"]),
        (expanded, ValueError, ["'w'", "one place in memory"]),
    ],
)
def test_modules_that_cannot_be_checked_are_refused_by_name(
    make: Callable[[], Any], error: type[Exception], words: list[str]
) -> None:
    """With what was found and what was expected."""
    with pytest.raises(error) as raised:
        TorchGuard(make())
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    ("loss", "error", "words"),
    [
        (None, ValueError, ["there is no loss", "loss()"]),
        (torch.ones(()), TypeError, ["loss is a Tensor", "loss()"]),
        (lambda model: model, TypeError, ["loss takes an argument", "lambda: criterion(model(x), y)"]),
        (lambda: torch.ones(2), ValueError, ["shape (2,)", "reduction"]),
        (lambda: "low", TypeError, ["the loss returned", "expected a number"]),
    ],
)
def test_a_loss_that_is_none_is_told(loss: Any, error: type[Exception], words: list[str]) -> None:
    """At once, with what was expected."""
    module = seeded(Perceptron)
    with guard_of(module) as guard, pytest.raises(error) as raised:
        guard.after_backward(0, loss)
    assert all(word in str(raised.value) for word in words)


def test_an_optimizer_that_is_none_is_told() -> None:
    """With what was expected."""
    with pytest.raises(TypeError, match=r"optimizer is a list; expected a torch\.optim\.Optimizer"):
        TorchGuard(nn.Linear(2, 3), [])
