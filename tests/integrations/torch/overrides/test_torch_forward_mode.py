"""What is in doubt is told by forward mode: exact derivatives that no backward pass has a part in."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from exact_checks import checked, is_exact, truth  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch_checks import seeded  # noqa: E402
from torch_models import INPUTS, HandLSTM, Perceptron, batches, cross_entropy  # noqa: E402

from gradguard import Verdict  # noqa: E402
from gradguard.integrations.torch import TorchGuard  # noqa: E402

pytestmark = pytest.mark.usefixtures("torch_as_it_was")


class PlainLSTM(HandLSTM):
    """The same network with a backward pass of autograd's."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the last step."""
        h = c = torch.zeros(x.shape[1], self.out.in_features, dtype=self.w.dtype)
        for step in x:
            i, f, g, o = (torch.cat([step, h], dim=1) @ self.w + self.b).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.out(h)


@pytest.mark.parametrize("make", [Perceptron, PlainLSTM])
def test_a_wrong_scale_is_told_by_exact_derivatives(make: Callable[[], nn.Module]) -> None:
    """They are right to the last digits, in the entries and in their error bars."""
    report, right = checked(seeded(make), wrong=2.0), truth(seeded(make))
    for name, tensor in report.tensors.items():
        assert tensor.verdict is Verdict.scale
        assert is_exact(tensor, right[name])


@pytest.mark.parametrize("fault", ["averaged", "sign", "no bias", "one per cent"])
def test_a_backward_pass_by_hand_has_no_part_in_them(fault: str) -> None:
    """What is wrong with it is not in the derivatives that it is compared with."""
    report, right = checked(seeded(lambda: HandLSTM(fault))), truth(seeded(PlainLSTM))
    wrong = {name: tensor for name, tensor in report.tensors.items() if tensor.verdict.is_bug}
    assert set(wrong) == ({"b"} if fault == "no bias" else {"w", "b"})
    assert all(is_exact(tensor, right[name]) for name, tensor in wrong.items())


class Stateful(nn.Module):
    """Statistics, dropout, and a mean that is carried over."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(INPUTS, 3, bias=False)
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the last step."""
        h = self.norm(self.inner(x[-1]))
        self.mean.mul_(0.9).add_(0.1 * h.detach().mean(0))
        return functional.dropout(h, 0.3) + self.mean


def test_statistics_and_dropout_have_exact_derivatives_too() -> None:
    """Masks, buffers and carried states are those of the training's forward pass; what is detached moves the loss."""
    report = checked(seeded(Stateful), wrong=2.0)
    assert report.tensors["inner.weight"].verdict is Verdict.scale
    assert report.tensors["norm.weight"].verdict is Verdict.scale
    assert report.tensors["norm.bias"].verdict is Verdict.structure
    assert all(entry.error < 1e-11 for tensor in report.tensors.values() for entry in tensor.worst)


@pytest.mark.parametrize(
    ("loss", "exact"),
    [
        pytest.param(lambda logits, y: cross_entropy(logits, y).item(), False, id="a float"),
        pytest.param(lambda logits, y: cross_entropy(torch.tensor(logits.tolist()), y), False, id="made anew"),
        pytest.param(lambda logits, y: cross_entropy(logits.detach(), y), True, id="detached"),
        pytest.param(lambda logits, y: cross_entropy(logits.data, y), True, id="data"),
    ],
)
def test_a_loss_that_leaves_the_graph_is_measured_all_the_same(loss: Callable[..., Any], exact: bool) -> None:
    """A derivative that it drops is not believed; what only autograd is not to see goes on."""
    module, (x, y) = seeded(Perceptron), batches(1)[0]
    with TorchGuard(module, every_n_steps=1, max_overhead=None) as guard:
        (2 * cross_entropy(module(x), y)).backward()
        tensor = guard.after_backward(0, lambda: loss(module(x), y)).tensors["out.weight"]
    assert tensor.verdict is Verdict.scale
    assert exact == is_exact(tensor, truth(seeded(Perceptron))["out.weight"])


def test_correct_gradients_stay_silent_when_all_are_measured_exactly() -> None:
    """The reference has no errors of its own that would be told as bugs."""
    for make in (Perceptron, PlainLSTM, lambda: HandLSTM(None), lambda: nn.Sequential(nn.ReLU(), Perceptron())):
        assert checked(seeded(make)).verdict is Verdict.ok


def test_a_report_says_what_measured_the_derivatives() -> None:
    """It names neither the complex step, which measures losses of NumPy, nor a step size, which there is none of."""
    report = checked(seeded(Perceptron))
    for tensor in report.tensors.values():
        assert re.fullmatch(
            r"d = \S+; rounding and truncation account for up to \S+ \((reverse pass|forward mode)\)",
            tensor.explanation,
        )
    assert "complex step" not in str(report)


def test_tensors_that_move_at_once_have_the_sum_of_their_derivatives() -> None:
    """Each tensor keeps its tangent while others are moved, and has none once it is left."""
    module, (x, y) = seeded(lambda: HandLSTM("averaged")), batches(1)[0]
    right, generator = truth(seeded(PlainLSTM)), np.random.default_rng(0)
    vectors = {name: generator.normal(size=tuple(right[name].shape)) for name in ("w", "b", "out.weight")}
    slopes = {name: float(np.vdot(vector, right[name].numpy())) for name, vector in vectors.items()}
    with TorchGuard(module, every_n_steps=1, max_overhead=None) as guard:
        cross_entropy(module(x), y).backward()
        evaluated, space = guard._replayed(lambda: cross_entropy(module(x), y)), guard._params.tangents()
        evaluated()

        def derivative() -> float:
            with space.installed():
                return float(evaluated()) * 2.0**60

        with space.moving("w") as w:
            w.displace(vectors["w"], 2.0**-60, vectors["w"])
            with space.moving("b") as b, space.moving("out.weight") as out:
                b.displace(vectors["b"], 2.0**-60, vectors["b"])
                out.displace(vectors["out.weight"], -(2.0**-60), vectors["out.weight"])
                several = derivative()
            one = derivative()
        none = derivative()
    assert several == pytest.approx(slopes["w"] + slopes["b"] - slopes["out.weight"], rel=1e-12)
    assert one == pytest.approx(slopes["w"], rel=1e-12)
    assert none == 0


def test_an_entry_at_a_corner_has_no_derivative() -> None:
    """A bias of zero that alone reaches a ReLU: autograd says 0 there, and the loss has two slopes."""

    class AtZero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.b = nn.Parameter(torch.tensor([0.0, 0.5, 0.7]))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.b) + 0 * x[-1, :, :1]

    tensor = checked(seeded(AtZero), wrong=2.0).tensors["b"]
    assert tensor.kinks == 1
    assert all(entry.index != (0,) for entry in tensor.worst)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_the_loss_raises_in_forward_mode_leaves_all_as_it_was(error: type[BaseException]) -> None:
    """An error is that loss's with tangents, and differences speak; an interrupt goes on to the user."""
    module, (x, y) = seeded(Perceptron), batches(1)[0]
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    def loss() -> Tensor:
        value = cross_entropy(module(x), y)
        if value.requires_grad and not is_training:
            raise ValueError("there is no reverse pass")
        if forward_ad.unpack_dual(value).tangent is not None:
            raise error
        return value

    is_training = True
    with TorchGuard(module, every_n_steps=1, max_overhead=None) as guard:
        (2 * cross_entropy(module(x), y)).backward()
        is_training = False
        if error is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                guard.after_backward(0, loss)
        else:
            assert guard.after_backward(0, loss).verdict is Verdict.scale
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
