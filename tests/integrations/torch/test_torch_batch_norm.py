"""A bias before a normalisation has no effect but by rounding, which is no reason to leave float64."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402 - torch may not be there

from gradguard import check  # noqa: E402
from gradguard.integrations.torch import TorchGuard  # noqa: E402


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("unit", [nn.ReLU, nn.Tanh])
def test_a_bias_that_a_normalisation_takes_away_is_checked_in_float64(seed: int, unit: type[nn.Module]) -> None:
    """With the others, of which none is wrong."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), unit(), nn.Linear(8, 3))
    x, y = torch.randn(16, 4), torch.randint(3, (16,))
    with TorchGuard(module) as guard:
        nn.functional.cross_entropy(module(x), y).backward()
        loss = guard._replayed(lambda: nn.functional.cross_entropy(module(x), y))
        report = check(guard._params, guard._params.gradients(), loss, entries=4)
    assert report.precision == "float64"
    assert report.verdict.is_bug is False
    assert report.tensors["0.bias"].verdict == "float_precision"
    assert "is rounding error" in report.tensors["0.bias"].explanation


def test_what_float16_leaves_in_the_gradient_of_such_a_bias_is_no_bug() -> None:
    """The loss on float64 copies changes by its rounding only, which is no slope to measure the bias by."""
    torch.manual_seed(3)
    module = nn.Sequential(
        nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)
    )
    nn.init.zeros_(module[1].bias)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    with TorchGuard(module, optimizer, start_step=60, max_overhead=None) as guard:
        for step in range(61):
            x = torch.randn(32, 8)

            def loss(x: torch.Tensor = x) -> torch.Tensor:
                with torch.autocast("cpu", torch.float16):
                    return nn.functional.cross_entropy(module(x).float(), x[:, :4].argmax(1))

            optimizer.zero_grad()
            loss().backward()
            guard.after_backward(step, loss)
            optimizer.step()
    assert guard.report.precision == "float64"
    assert not guard.report.verdict.is_bug
