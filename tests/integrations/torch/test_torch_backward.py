"""A backward pass by hand, and what is wrong with it."""

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402 - torch may not be there
from torch.nn import functional  # noqa: E402
from torch_checks import bugs, checked, guard_of, seeded  # noqa: E402
from torch_models import CLASSES, TIMESTEPS, HandLSTM, Perceptron, batches  # noqa: E402


@pytest.mark.parametrize(
    ("fault", "verdicts", "says"),
    [
        (None, {}, "No bug"),
        ("averaged", {"w": "scale", "b": "scale"}, "the backward pass divides by the number of timesteps"),
        ("sign", {"w": "sign", "b": "sign"}, "the backward pass has the wrong sign"),
        ("no bias", {"b": "missing"}, "the backward pass never writes this gradient, or something detaches it"),
        ("one per cent", {"w": "scale", "b": "scale"}, "% too large throughout"),
    ],
)
def test_a_fault_of_a_custom_function_is_named(fault: str | None, verdicts: dict[str, str], says: str) -> None:
    """Each by its cause, on the tensors that it is in and on no other; in float64, though the loss is in float32."""
    report = checked(seeded(lambda: HandLSTM(fault)), constants={"timesteps": TIMESTEPS})
    assert report.precision == "float64"
    assert bugs(report) == verdicts
    assert says in report.explanation


def test_the_same_in_the_precision_of_the_training() -> None:
    """Differences of the float32 loss find the factor too."""
    report = checked(seeded(lambda: HandLSTM("averaged")), precision="native", constants={"timesteps": TIMESTEPS})
    assert report.precision == "native"
    assert bugs(report) == {"w": "scale", "b": "scale"}
    assert report.tensors["w"].ratio == pytest.approx(TIMESTEPS, rel=0.01)


def test_a_function_that_forgets_grad_output_is_found_where_the_loss_is_weighted() -> None:
    """What is handed down does not reach its own parameters."""
    module = seeded(lambda: HandLSTM("forgets grad_output"))
    assert set(bugs(checked(module, scale=2.0))) == {"w", "b"}


def test_a_loss_that_forgets_grad_output_is_off_by_its_weight() -> None:
    """A fused loss that hands down its own gradient, whatever is asked for, gives half of it where it counts twice."""

    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, logits: Tensor, y: Tensor) -> Tensor:
            p = logits.softmax(1)
            ctx.save_for_backward((p - functional.one_hot(y, CLASSES)) / len(y))
            return -p.gather(1, y[:, None]).log().mean()

        @staticmethod
        def backward(ctx: Any, _grad: Tensor) -> tuple[Tensor, None]:
            return ctx.saved_tensors[0], None

    module = seeded(Perceptron)
    x, y = batches(1)[0]
    with guard_of(module) as guard:
        (2 * Fused.apply(module(x), y)).backward()
        report = guard.after_backward(0, lambda: 2 * Fused.apply(module(x), y))
    assert report is not None
    assert set(bugs(report).values()) == {"scale"}
    assert len(bugs(report)) == 4
    assert "the backward pass lost a factor of 2" in report.explanation


def test_a_detached_branch_is_missing() -> None:
    """Autograd leaves None where the graph is cut, and the loss moves all the same."""

    class Detached(Perceptron):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.tanh(self.inner(x[-1])).detach())

    report = checked(seeded(Detached))
    assert bugs(report) == {"inner.weight": "missing", "inner.bias": "missing"}


def test_a_parameter_without_gradient_that_the_loss_does_not_read_is_fine() -> None:
    """None is missing only where the loss moves."""
    module = seeded(Perceptron)
    module.unused = nn.Parameter(torch.ones(2))
    report = checked(module)
    assert bugs(report) == {}
    assert "does not depend on this tensor" in report.tensors["unused"].explanation
    assert module.unused.grad is None


def test_a_dropout_mask_that_is_drawn_anew_for_the_backward_pass_is_found() -> None:
    """The masks of the forward pass are drawn again for the loss, so that only the backward pass is wrong."""

    class Forgetful(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: Any, x: Tensor) -> Tensor:
            return x * (torch.rand_like(x) < 0.5) * 2

        @staticmethod
        def backward(_ctx: Any, grad: Tensor) -> Tensor:
            return grad * (torch.rand_like(grad) < 0.5) * 2

    class Model(nn.Module):
        def __init__(self, drop: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.inner, self.out, self.drop = nn.Linear(2, 8), nn.Linear(8, 3), drop

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.drop(torch.tanh(self.inner(x[-1]))))

    assert bugs(checked(seeded(lambda: Model(Forgetful.apply))))["inner.weight"] == "structure"
    assert bugs(checked(seeded(lambda: Model(nn.Dropout(0.5))))) == {}


def test_saved_tensors_that_are_overwritten_are_found() -> None:
    """Behind autograd's back, so that it does not complain."""

    class Model(Perceptron):
        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.inner(x[-1]))
            logits = self.out(h)
            h.data.mul_(0.5)
            return logits

    assert set(bugs(checked(seeded(Model)))) == {"inner.weight", "inner.bias", "out.weight"}
