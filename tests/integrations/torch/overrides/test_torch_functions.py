"""Functions with a backward pass by hand take part in forward mode with what their forward pass is made of."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from exact_checks import checked  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.autograd import Function  # noqa: E402
from torch_checks import seeded  # noqa: E402
from torch_models import TIMESTEPS, HandLSTM, batches, cross_entropy  # noqa: E402

from gradguard import Verdict  # noqa: E402
from gradguard.integrations.torch import TorchGuard  # noqa: E402

pytestmark = pytest.mark.usefixtures("torch_as_it_was")


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


BOUND = SimpleNamespace(apply=Cube.apply)
"""As many modules bind it, before any check."""


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
    [(Cube, True), (BOUND, True), (Newer, True), (Right, True), (Wrong, True), (Hidden, False)],
)
def test_a_function_is_measured_exactly_where_that_is_proven(
    function: Any, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own rule, or by what its forward pass is made of; where neither holds, by differences."""
    monkeypatch.setattr("gradguard.measurement.context.tried_batch_size", lambda *_: 1)  # a rule for vmap it has not
    tensor = checked(seeded(lambda: Cubed(function))).tensors["w"]
    assert tensor.verdict is Verdict.scale
    assert tensor.ratio == pytest.approx(0.5, rel=1e-4)
    assert exact == all(entry.error < 1e-12 for entry in tensor.worst)


@pytest.mark.parametrize("function", [Cube, Newer, Right, Wrong, Hidden])
def test_a_function_is_told_from_its_derivative_whichever_way(function: type[Function]) -> None:
    """Whether vmap takes it or not, and whatever rules it has."""
    tensor = checked(seeded(lambda: Cubed(function))).tensors["w"]
    assert tensor.verdict is Verdict.scale
    assert tensor.ratio == pytest.approx(0.5, rel=1e-4)


def test_a_function_in_another_thread_is_left_alone() -> None:
    """A backward pass by hand is called as ever while a check runs elsewhere."""
    module, (x, y) = seeded(lambda: HandLSTM("averaged")), batches(1)[0]
    own, apply = torch.ones(3, requires_grad=True), Function.__dict__["apply"]
    graph = None

    def call() -> None:
        nonlocal graph
        graph = Cube.apply(own).grad_fn

    def loss() -> Tensor:
        if Function.__dict__["apply"] is not apply and graph is None:
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()
        return cross_entropy(module(x), y)

    with TorchGuard(module, every_n_steps=1, max_overhead=None, constants={"timesteps": TIMESTEPS}) as guard:
        cross_entropy(module(x), y).backward()
        guard.after_backward(0, loss)
    assert graph is not None
