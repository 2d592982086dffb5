"""A module whose training hands over the loss that it computed, and updates that come before the check."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402 - torch may not be there
from torch.nn import functional  # noqa: E402
from torch_checks import guard_of, seeded  # noqa: E402

from gradguard import Verdict  # noqa: E402

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def network() -> nn.Module:
    """Two layers."""
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4))


def batch(seed: int, dtype: Any) -> tuple[Tensor, Tensor]:
    """Inputs and classes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(32, 6, generator=generator).to(dtype), torch.randint(4, (32,), generator=generator)


def update(module: nn.Module, rate: float) -> None:
    """A step of gradient descent."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter -= rate * parameter.grad


def verdicts(dtype: Any, other: bool, autocast: bool = False, as_number: bool = False) -> list[Verdict]:
    """Those of two checks; at the second batch of classes the check has other ones than the training, if `other`."""
    module = seeded(network).to(dtype)
    x, y = batch(0, dtype)
    classes = batch(1, dtype)[1] if other else y

    def loss(y: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=autocast):
            return functional.cross_entropy(module(x), y)

    found = []
    with guard_of(module, on_alert=lambda _alert: None) as guard:
        for step in range(2):
            module.zero_grad()
            value = loss(y)
            value.backward()
            report = guard.after_backward(step, lambda: loss(classes), value=value.item() if as_number else value)
            assert report is not None
            found.append(report.verdict)
    return found


@pytest.mark.parametrize("as_number", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_loss_on_other_targets_is_another_loss(dtype: Any, as_number: bool) -> None:
    """The inputs of the module are the same; in every precision, as a tensor of the graph and as a number."""
    assert verdicts(dtype, other=True, as_number=as_number) == [Verdict.other_loss] * 2
    assert Verdict.other_loss not in verdicts(dtype, other=False, as_number=as_number)


def test_autocast_does_not_hide_another_loss() -> None:
    """The value is a float32 that was computed in bfloat16."""
    assert verdicts(torch.float32, other=True, autocast=True) == [Verdict.other_loss] * 2
    assert Verdict.other_loss not in verdicts(torch.float32, other=False, autocast=True)


def test_parameters_updated_by_hand_before_the_check() -> None:
    """No optimizer tells of it: the loss does, and after a larger update the outputs of the module do."""
    module = seeded(network)
    x, y = batch(0, torch.float32)
    with guard_of(module) as guard:
        value = functional.cross_entropy(module(x), y)
        value.backward()
        update(module, 1e-3)
        report = guard.after_backward(0, lambda: functional.cross_entropy(module(x), y), value=value)
        assert report is not None
        assert report.verdict is Verdict.other_loss
        assert "learning rate of about 0.001" in report.tensors["0.weight"].cause
        update(module, 1e-1)
        with pytest.raises(ValueError, match="Call after_backward before the parameters are updated"):
            guard.after_backward(1, lambda: functional.cross_entropy(module(x), y), value=value)


def test_a_check_after_the_optimizer_is_refused() -> None:
    """By itself; before the optimizer's step, at the next step of the training, all is right."""
    module = seeded(network)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-5)
    x, y = batch(0, torch.float32)

    def loss() -> Tensor:
        return functional.cross_entropy(module(x), y)

    with guard_of(module, optimizer) as guard:
        loss().backward()
        optimizer.step()
        with pytest.raises(ValueError, match=r"between loss.backward\(\) and optimizer.step\(\)"):
            guard.after_backward(0, loss)
        optimizer.zero_grad()
        loss().backward()
        report = guard.after_backward(1, loss)
    assert report is not None
    assert report.verdict.is_bug is False


def test_the_value_is_not_read_at_steps_without_a_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading it would wait for a device."""
    reads = []
    item = Tensor.item
    monkeypatch.setattr(Tensor, "item", lambda tensor: reads.append(None) or item(tensor))
    module = seeded(network)
    x, y = batch(0, torch.float32)
    with guard_of(module, every_n_steps=10) as guard:
        for step in range(3):
            value = functional.cross_entropy(module(x), y)
            value.backward()
            module.zero_grad(set_to_none=step > 0)
            before = len(reads)
            guard.after_backward(step, lambda: functional.cross_entropy(module(x), y), value=value)
            assert (len(reads) > before) == (step == 0)


def test_a_tensor_of_several_losses_is_refused() -> None:
    """At once, and the message gives its shape."""
    module = seeded(network)
    x, y = batch(0, torch.float32)
    with guard_of(module, every_n_steps=10) as guard:
        functional.cross_entropy(module(x), y).backward()
        losses = functional.cross_entropy(module(x), y, reduction="none")
        with pytest.raises(TypeError, match=r"value is a Tensor of shape \(32,\); expected one number"):
            guard.after_backward(3, lambda: functional.cross_entropy(module(x), y), value=losses)
