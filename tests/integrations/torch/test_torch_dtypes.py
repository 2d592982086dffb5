"""Kinds of numbers."""

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402 - torch may not be there
from torch_checks import bugs, checked, guard_of, seeded  # noqa: E402
from torch_models import TIMESTEPS, HandLSTM, Perceptron, batches, cross_entropy  # noqa: E402


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("make", [Perceptron, lambda: HandLSTM("averaged")], ids=["right", "wrong"])
def test_other_dtypes_than_float32(dtype: str, make: Callable[[], nn.Module]) -> None:
    """A correct module is silent in each, and a wrong one is found on float64 copies; bfloat16 may blur the factor."""
    kind = getattr(torch, dtype)
    module = seeded(make).to(kind)
    x, y = batches(1, kind)[0]
    with guard_of(module, constants={"timesteps": TIMESTEPS}) as guard:
        cross_entropy(module(x), y).backward()
        report = guard.after_backward(0, lambda: cross_entropy(module(x), y))
    assert report is not None
    assert report.precision == "float64"
    if isinstance(module, Perceptron):
        assert bugs(report) == {}
        assert max(tensor.discrepancy for tensor in report.tensors.values()) < 2e-2
    else:
        assert report.tensors["w"].ratio == pytest.approx(TIMESTEPS, rel=0.05)
        assert set(bugs(report)) == {"w", "b"}
        assert set(bugs(report).values()) == {"scale"} or dtype == "bfloat16"


def test_bfloat16_in_its_own_precision_claims_nothing_that_it_cannot_see() -> None:
    """Eight bits are too few for differences; a correct gradient is not blamed for it."""
    module = seeded(Perceptron).bfloat16()
    x, y = batches(1, torch.bfloat16)[0]
    with guard_of(module, precision="native") as guard:
        cross_entropy(module(x), y).backward()
        report = guard.after_backward(0, lambda: cross_entropy(module(x), y))
    assert report is not None
    assert bugs(report) == {}


@pytest.mark.parametrize("factor", [1, 2])
def test_autocast_with_biases_of_zero_is_checked_in_float64(factor: int) -> None:
    """The usual start of a deep network: a gradient twice as large is found, and a right one is not blamed."""
    torch.manual_seed(0)
    layers = [nn.Linear(width, 64) for width in (8, 64, 64, 64)]
    module = nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())), nn.Linear(64, 4))
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    x, y = torch.randn(64, 8), torch.randint(4, (64,))

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return cross_entropy(module(x).float(), y)

    with guard_of(module) as guard:
        loss().backward()
        layers[2].weight.grad *= factor
        report = guard.after_backward(0, loss)
    assert report.precision == "float64"
    assert bugs(report).keys() == ({"4.weight"} if factor == 2 else set())


def test_a_float32_buffer_and_float32_constants_within_are_no_obstacle() -> None:
    """In the copy every operation is in float64: zeros made on the way, casts that the author wrote, statistics."""

    class Model(Perceptron):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(4)
            self.register_buffer("offset", torch.linspace(0, 1, 4))

        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros(x.shape[1], 4, dtype=torch.float32)
            h += self.inner(x[-1].to(torch.float32))
            return self.out(self.norm((h + self.offset).float().softmax(-1, dtype=torch.float32)).type_as(x))

    report = checked(seeded(Model))
    assert report.precision == "float64"
    assert bugs(report) == {}
    assert max(tensor.discrepancy for tensor in report.tensors.values()) < 1e-5


def test_what_refuses_float64_is_told_and_checked_natively() -> None:
    """By name where it is asked for; else the check is in the precision of the training."""

    class Model(Perceptron):
        def forward(self, x: Tensor) -> Tensor:
            h = self.inner(x[-1])
            assert h.dtype == torch.float32, "a kernel for float32"
            return self.out(torch.tanh(h))

    assert checked(seeded(Model)).precision == "native"
    with pytest.raises(ValueError, match="the loss raises AssertionError: a kernel for float32"):
        checked(seeded(Model), precision="float64")
