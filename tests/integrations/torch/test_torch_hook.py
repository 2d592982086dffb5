"""The hook on the optimizer."""

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402 - torch may not be there
from torch_checks import guard_of, same, seeded  # noqa: E402
from torch_models import HandLSTM, Perceptron, batches, cross_entropy  # noqa: E402

from gradguard import GradientError  # noqa: E402
from gradguard.integrations.torch import TorchGuard  # noqa: E402


def test_one_line_hooks_the_optimizer() -> None:
    """The step counts itself, the loss reads the current batch, and a bug stops the training before the update."""
    module = seeded(lambda: HandLSTM("averaged"))
    optimizer = torch.optim.Adam(module.parameters())
    guard = guard_of(module, optimizer, loss=lambda: cross_entropy(module(x), y), on_alert="raise", start_step=1)
    guard.hook()
    for step, (x, y) in enumerate(batches(2)):
        optimizer.zero_grad()
        cross_entropy(module(x), y).backward()
        before = copy.deepcopy(module.state_dict())
        if step:
            with pytest.raises(GradientError):
                optimizer.step()
            assert same(before, module.state_dict())
        else:
            optimizer.step()
    guard.close()
    optimizer.step()
    assert [row.step for row in guard.history] == [1]


def test_a_hook_needs_an_optimizer_and_a_loss() -> None:
    """Both are named."""
    with pytest.raises(ValueError, match=r"TorchGuard\(module, optimizer, loss=\.\.\.\)"):
        TorchGuard(nn.Linear(2, 3)).hook()


def test_an_optimizer_that_computes_gradients_within_its_step_is_refused_by_the_hook() -> None:
    """With where to check instead, and that works."""
    module = seeded(Perceptron)
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=3)
    x, y = batches(1)[0]
    guard = guard_of(module, optimizer, loss=lambda: cross_entropy(module(x), y))
    steps = iter(range(100))

    def closure() -> float:
        optimizer.zero_grad()
        loss = cross_entropy(module(x), y)
        loss.backward()
        guard.after_backward(next(steps))
        return loss.item()

    optimizer.step(closure)
    assert len(guard.history) >= 3
    assert not any(row.verdict.is_bug for row in guard.history)
    guard.hook()
    with pytest.raises(ValueError, match="at the end of the closure"):
        optimizer.step(closure)
