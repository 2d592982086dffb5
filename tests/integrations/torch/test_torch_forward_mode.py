"""What is in doubt is told by forward mode: exact derivatives that no backward pass has a part in."""

import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.autograd import Function, forward_ad  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch_checks import seeded  # noqa: E402
from torch_models import INPUTS, TIMESTEPS, HandLSTM, Perceptron, batches, cross_entropy  # noqa: E402

from gradguard import Report, TensorReport, Verdict, check  # noqa: E402
from gradguard.integrations.torch import TorchGuard  # noqa: E402

pytestmark = pytest.mark.usefixtures("torch_as_it_was")


def checked(module: nn.Module, *, wrong: float = 1.0, loss: Callable[[Tensor, Tensor], Any] = cross_entropy) -> Report:
    """A deep check of a module, its gradients multiplied by `wrong`, however long that takes."""
    x, y = batches(1)[0]
    with TorchGuard(module, every_n_steps=1, max_overhead=None) as guard:
        loss(module(x), y).backward()
        for parameter in module.parameters():
            parameter.grad = wrong * parameter.grad if parameter.grad is not None else None
        evaluated = guard._evaluated(lambda: loss(module(x), y))
        return check(guard._params, guard._params.gradients(), evaluated, entries=8)


def truth(module: nn.Module) -> dict[str, Tensor]:
    """The gradients of a module of PyTorch's own operations, in float64."""
    x, y = batches(1, torch.float64)[0]
    twin = module.double()
    twin.zero_grad()
    cross_entropy(twin(x), y).backward()
    return {name: parameter.grad for name, parameter in twin.named_parameters()}


def is_exact(tensor: TensorReport, right: Tensor) -> bool:
    """Whether its derivatives have no error to speak of: differences have ten times that, and more."""
    tiny = 1e-12 * float(right.abs().max())
    return all(entry.error < tiny and abs(entry.numeric - float(right[entry.index])) < tiny for entry in tensor.worst)


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


class Cube(Function):
    """x^3, its backward pass twice too large; `jvp` and how the forward pass computes are up to those who inherit."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """x^3."""
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """6 x^2, and it should be 3."""
        return 6 * ctx.saved_tensors[0] ** 2 * grads[0]


class Right(Cube):
    """With a rule for forward mode."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        """3 x^2."""
        return 3 * ctx.saved_tensors[0] ** 2 * tangents[0]


class Wrong(Cube):
    """The same mistake in its rule for forward mode."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        """As the backward pass."""
        return 6 * ctx.saved_tensors[0] ** 2 * tangents[0]


class Hidden(Cube):
    """Computed where PyTorch does not see it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """x^3."""
        ctx.save_for_backward(x)
        return torch.from_numpy(x.detach().numpy() ** 3)


class Newer(Function):
    """x^3 with the context set up apart."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """x^3."""
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ARG004 - as PyTorch calls it
        """Save x."""
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """6 x^2, and it should be 3."""
        return 6 * ctx.saved_tensors[0] ** 2 * grads[0]


class Cubed(nn.Module):
    """A parameter through a Function."""

    def __init__(self, function: type[Function]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 4))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Any logits that follow the parameter."""
        return x[-1, :, :1] * self.function.apply(self.w).sum(0) + self.function.apply(self.w)[0]


@pytest.mark.parametrize(
    ("function", "exact"),
    [(Cube, True), (Newer, True), (Right, True), (Wrong, False), (Hidden, False)],
)
def test_a_function_is_measured_exactly_where_that_is_proven(
    function: type[Function], exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own rule, or by what its forward pass is made of; where neither holds, by differences."""
    monkeypatch.setattr("gradguard.measurement.precision.tried_at_once", lambda *_: 1)  # a rule for vmap it has not
    tensor = checked(seeded(lambda: Cubed(function))).tensors["w"]
    assert tensor.verdict is Verdict.scale
    assert tensor.ratio == pytest.approx(0.5, rel=1e-4)
    assert exact == all(entry.error < 1e-12 for entry in tensor.worst)


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


@pytest.mark.parametrize("function", [Cube, Newer, Right, Wrong, Hidden])
def test_a_function_is_told_from_its_derivative_whichever_way(function: type[Function]) -> None:
    """Whether vmap takes it or not, and whatever rules it has."""
    tensor = checked(seeded(lambda: Cubed(function))).tensors["w"]
    assert tensor.verdict is Verdict.scale
    assert tensor.ratio == pytest.approx(0.5, rel=1e-4)


def test_correct_gradients_stay_silent_when_all_are_measured_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference has no errors of its own that would be told as bugs."""
    monkeypatch.setattr(sys.modules["gradguard.check"], "_agrees", lambda _report: False)
    for make in (Perceptron, PlainLSTM, lambda: HandLSTM(None), lambda: nn.Sequential(nn.ReLU(), Perceptron())):
        assert checked(seeded(make)).verdict is Verdict.ok


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
        if forward_ad.unpack_dual(value).tangent is not None:
            raise error
        return value

    with TorchGuard(module, every_n_steps=1, max_overhead=None) as guard:
        (2 * cross_entropy(module(x), y)).backward()
        if error is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                guard.after_backward(0, loss)
        else:
            assert guard.after_backward(0, loss).verdict is Verdict.scale
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_a_function_in_another_thread_is_left_alone() -> None:
    """A backward pass by hand is called as ever while a check runs elsewhere."""
    module, (x, y) = seeded(lambda: HandLSTM("averaged")), batches(1)[0]
    own, apply = torch.ones(3, requires_grad=True), Function.__dict__["apply"]
    seen = []

    def loss() -> Tensor:
        if Function.__dict__["apply"] is not apply and not seen:
            thread = threading.Thread(target=lambda: seen.append(Cube.apply(own).grad_fn))
            thread.start()
            thread.join()
        return cross_entropy(module(x), y)

    with TorchGuard(module, every_n_steps=1, max_overhead=None, constants={"timesteps": TIMESTEPS}) as guard:
        cross_entropy(module(x), y).backward()
        guard.after_backward(0, loss)
    assert seen[0] is not None
