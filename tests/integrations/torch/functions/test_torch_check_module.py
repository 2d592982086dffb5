"""One module is checked without a training loop: what gradcheck finds and what it misses."""

import random
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from function_models import Layer, Newer, Scaled, Square  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.autograd import Function, gradcheck  # noqa: E402
from torch_checks import same, seeded  # noqa: E402
from torch_models import HandLSTM, batches  # noqa: E402

from gradguard import Verdict  # noqa: E402
from gradguard.integrations.torch import check_module  # noqa: E402

pytestmark = pytest.mark.usefixtures("torch_as_it_was")


class Squared(nn.Module):
    """x^2 by a kernel that ignores strides in one pass."""

    def __init__(self, of: str) -> None:
        super().__init__()
        self.of = of

    def forward(self, x: Tensor) -> Tensor:
        """The squares."""
        return Square.apply(x, self.of)


class Stateful(nn.Module):
    """Batch statistics, dropout, NumPy's and Python's random numbers, a counter and a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
        self.calls: list[float] = []

    def forward(self, x: Tensor) -> dict[str, Any]:
        """A dict of tensors, one of them without a gradient."""
        self.calls.append(random.random() + np.random.rand())  # noqa: NPY002, S311 - the global streams are meant
        y = self.layers(x) * self.calls[-1]
        return {"y": y, "parts": (y.exp(), y.detach()), "index": y.argmax()}


def test_a_wrong_function_within_a_module_is_named() -> None:
    """In float32, without a loop, and without a loss."""
    report = check_module(seeded(lambda: Layer(Newer.apply)), torch.randn(5, 3))
    assert {name: str(tensor.verdict) for name, tensor in report.tensors.items()} == {
        "w": "scale",
        "dense.weight": "ok",
        "dense.bias": "ok",
    }
    assert "Newer.backward is wrong in its gradient for input 1 (`w`): numerical = 2 x" in report.tensors["w"].cause


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_that_require_a_gradient_are_checked_by_their_names(dtype: torch.dtype) -> None:
    """Beside the parameters, in float32 and float64; nothing is wrong in a right LSTM."""
    module = seeded(lambda: HandLSTM().to(dtype))
    x = batches(1, dtype)[0][0]
    report = check_module(module, x.requires_grad_())
    assert set(report.tensors) == {"w", "b", "out.weight", "out.bias", "input 0 (`x`)"}
    assert report.verdict.is_bug is False


@pytest.mark.parametrize("training", [True, False])
def test_a_module_is_left_as_it_was(training: bool) -> None:
    """Parameters, gradients, buffers, lists, random streams, inputs and the mode; its random masks repeat."""
    module = seeded(Stateful).train(training)
    x = torch.randn(6, 3, requires_grad=True)
    x.grad = torch.ones_like(x)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)

    def state() -> list[Any]:
        tensors = [*module.state_dict().values(), *(each.grad for each in (x, *module.parameters())), x.detach()]
        streams = [torch.get_rng_state(), np.random.get_state()[1], list(random.getstate()[1])]  # noqa: NPY002
        return [*(each.clone() for each in tensors), *streams, list(module.calls), module.training]

    before = state()
    report = check_module(module, x)
    assert report.verdict.is_bug is False
    assert same(before, state())


def test_a_module_that_writes_to_its_input_is_called_with_the_same_one_each_time() -> None:
    """A batch that is doubled in place; the user's stays as it was."""

    class Doubling(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(2))

    x = torch.randn(4, 3)
    before = x.clone()
    assert check_module(Doubling(3, 2), x).verdict is Verdict.ok
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("of", "says"),
    [
        ("forward", "its forward pass ignores the strides of input 0 (`x`)"),
        ("backward", "its backward pass ignores the strides of input 0 (`x`) and the upstream gradient"),
    ],
)
def test_a_kernel_that_ignores_strides_is_found_where_gradcheck_passes_it(of: str, says: str) -> None:
    """`gradcheck` hands contiguous tensors to it; here the second check does not."""
    module = Squared(of)
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert gradcheck(module, x)
    report = check_module(module, x)
    assert report.verdict is Verdict.structure
    assert report.explanation.startswith("With inputs and upstream gradients in another memory layout: ")
    assert says in report.explanation
    assert check_module(Squared(""), x).verdict is Verdict.ok


def test_a_module_that_refuses_other_layouts_is_right() -> None:
    """`view` raises for tensors that are not contiguous, which is no fault."""

    class Viewed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(-1) ** 2

    assert check_module(Viewed(), torch.randn(3, 4, requires_grad=True)).verdict is Verdict.ok


def test_a_backward_pass_that_overwrites_what_was_saved_is_nondeterministic() -> None:
    """As `gradcheck` finds it: a second backward pass through the same graph returns something else."""

    class Overwriting(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.factor = 2 * x
            return x**2

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return ctx.factor.mul_(grads[0])

    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Overwriting.apply(x)

    x = torch.randn(3, 4, requires_grad=True)
    report = check_module(Module(), x)
    assert report.verdict is Verdict.nondeterministic
    assert "a second backward pass through the same graph returns another gradient" in report.explanation
    assert check_module(Module(), x, nondet_tol=1e3).verdict is Verdict.ok


def test_what_cannot_be_checked_is_refused_by_name() -> None:
    """No module, nothing that requires a gradient, a dtype, an output that depends on nothing."""
    with pytest.raises(TypeError, match=r"module is a function; expected a torch\.nn\.Module"):
        check_module(Scaled.apply.__func__, torch.randn(2))
    with pytest.raises(ValueError, match="nothing to check: no parameter of the module and no input requires"):
        check_module(nn.ReLU(), torch.randn(2))
    with pytest.raises(TypeError, match=r"input 0 \(`input`\) has dtype torch.complex64; expected float16, bfloat16"):
        check_module(nn.Identity(), torch.randn(2, dtype=torch.complex64, requires_grad=True))

    class Detached(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    with pytest.raises(ValueError, match="no output of the module depends on a parameter or an input"):
        check_module(Detached(2, 2), torch.randn(2))


def test_an_intended_gradient_is_declared_as_for_any_check() -> None:
    """The verdict is `expected`, by the name of the parameter."""
    module = seeded(lambda: Layer(Scaled.apply))
    report = check_module(module, torch.randn(5, 3), expected={"w": "half of it is meant"})
    assert report.tensors["w"].verdict is Verdict.expected
    assert report.verdict.is_bug is False
