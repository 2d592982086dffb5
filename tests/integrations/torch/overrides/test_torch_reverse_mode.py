"""The exact gradient of every entry by one reverse pass, in which no backward pass by hand has a part."""

import copy
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from exact_checks import by_forward_mode, exact_gradients, is_same, truth  # noqa: E402
from test_torch_forward_mode import PlainLSTM, Stateful  # noqa: E402
from test_torch_functions import Cube, Cubed, Hidden, Newer, Right, Wrong  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.autograd import Function  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402
from torch_checks import same, seeded  # noqa: E402
from torch_models import INPUTS, Everything, HandLSTM, Perceptron, Table, batches, cross_entropy  # noqa: E402

from gradguard.integrations.torch import TorchGuard  # noqa: E402

pytestmark = pytest.mark.usefixtures("torch_as_it_was")


@pytest.mark.parametrize("fault", [None, "averaged", "sign", "no bias", "one per cent", "forgets grad_output"])
def test_a_backward_pass_by_hand_has_no_part_in_the_gradient(fault: str | None) -> None:
    """Right or wrong, the gradient is that of the same network in plain operations."""
    assert is_same(exact_gradients(seeded(lambda: HandLSTM(fault))), truth(seeded(PlainLSTM)))


@pytest.mark.parametrize("function", [Cube, Newer, Right, Wrong])
def test_no_rule_of_a_function_has_a_part_in_the_gradient(function: type[Function]) -> None:
    """Not its `jvp` either; and the context may be set up apart."""
    assert is_same(exact_gradients(seeded(lambda: Cubed(function))), seeded(lambda: cubes_gradient()))


def cubes_gradient() -> dict[str, Tensor]:
    """Of a parameter whose cube PyTorch takes itself."""

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x[-1, :, :1] * (self.w**3).sum(0) + (self.w**3)[0]

    return truth(Plain())


def test_tied_and_sparse_parameters_have_dense_gradients() -> None:
    """The sum over their uses."""
    right = {name: gradient.to_dense() for name, gradient in truth(seeded(Table)).items()}
    assert is_same(exact_gradients(seeded(Table)), right)


class Overwriting(Function):
    """Computes in place, as only a forward pass by hand may, and has no backward pass to speak of."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        """The gates are activated where they lie."""
        z = x @ w
        half = w.shape[1] // 2
        z[:, :half].sigmoid_()
        z[:, half:].tanh_()
        out = z[:, :half] * z[:, half:]
        ctx.save_for_backward(x, w, z.mul_(2))
        return out + (z**2)[:, :half]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:  # noqa: ARG004 - as PyTorch calls it
        """Nothing."""
        return None, None


class Layered(nn.Module):
    """Two layers with something between them that depends on who inherits."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(INPUTS, 6))
        self.v = nn.Parameter(torch.randn(3, 3))
        self.register_buffer("mean", torch.zeros(3))
        self.state = torch.zeros(3)

    def between(self, h: Tensor) -> Tensor:
        """Something between the layers."""
        return h[:, :3]

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the last step."""
        return torch.tanh(self.between(torch.tanh(x[-1] @ self.w)) @ self.v)


class InPlace(Layered):
    """A Function that overwrites its gates."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the last step."""
        return torch.tanh(Overwriting.apply(x[-1], self.w) @ self.v)


class Hooked(Layered):
    """A gradient that a hook makes larger: it is no part of the loss."""

    def between(self, h: Tensor) -> Tensor:
        """The same, with a hook where there are gradients."""
        if h.requires_grad:
            h.register_hook(lambda gradient: 100 * gradient)
        return h[:, :3]


class ModuleHooked(Layered):
    """Hooks on the backward passes of its parts, which count and change gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
        self.fired: list[int] = []
        self.layers[1].register_backward_hook(self.enlarge)
        self.layers[2].register_full_backward_hook(self.enlarge)

    def enlarge(self, _module: nn.Module, inputs: tuple[Tensor | None, ...], _outputs: Any) -> tuple[Any, ...]:
        """100 times."""
        self.fired.append(1)
        return tuple(None if gradient is None else 100 * gradient for gradient in inputs)

    def between(self, h: Tensor) -> Tensor:
        """The parts."""
        return self.layers(h)


class Unrecorded(Layered):
    """What autograd is not to see in a training."""

    def between(self, h: Tensor) -> Tensor:
        """The same, more than once."""
        with torch.no_grad():
            unseen = h[:, :3] * 2
        return h[:, :3] + unseen + h[:, 3:].detach() ** 2


class Written(Layered):
    """A buffer and an attribute that the layers write to and read again."""

    def between(self, h: Tensor) -> Tensor:
        """With both added."""
        self.mean.mul_(0.5).add_(h.detach()[:, :3].mean(0))
        self.state[:] = h.detach()[0, 3:]
        return h[:, :3] + self.mean + self.state


class Recomputed(Layered):
    """Activations that the training computes again in its backward pass."""

    reentrant = False

    def between(self, h: Tensor) -> Tensor:
        """Within a checkpoint."""
        return checkpoint(lambda a: torch.sin(a[:, :3] + a[:, 3:]), h, use_reentrant=self.reentrant)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("make", [Everything, Stateful, InPlace, Hooked, ModuleHooked, Unrecorded, Written, Recomputed])
def test_the_gradient_is_that_of_the_loss_as_the_training_evaluated_it(
    make: Callable[[], nn.Module], dtype: torch.dtype
) -> None:
    """Dropout, batch statistics, hidden states, writes in place: each entry is what forward mode finds alone."""

    def made() -> nn.Module:
        module = make().to(dtype)
        if isinstance(module, Layered):
            module.state = module.state.to(dtype)
        return module

    assert is_same(exact_gradients(seeded(made)), by_forward_mode(seeded(made)))


def test_a_result_that_is_written_to_a_given_tensor_is_recorded_too() -> None:
    """As in spectral normalisation; forward mode refuses it."""

    class Given(Unrecorded):
        def between(self, h: Tensor) -> Tensor:
            unseen = torch.empty_like(h[:, :3])
            with torch.no_grad():
                torch.mul(h[:, :3], 2, out=unseen)
            return h[:, :3] + unseen + h[:, 3:].detach() ** 2

    assert is_same(exact_gradients(seeded(Given)), by_forward_mode(seeded(Unrecorded)))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_unreduced_losses_are_reduced_as_the_gradient_is(reduction: str) -> None:
    """By their sum or their mean."""

    def unreduced(logits: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(logits, y, reduction="none")

    module, (x, y) = seeded(Perceptron).double(), batches(1, torch.float64)[0]
    functional.cross_entropy(module(x), y, reduction=reduction).backward()
    right = {name: parameter.grad for name, parameter in module.named_parameters()}
    assert is_same(exact_gradients(seeded(Perceptron), loss=unreduced, reduction=reduction), right)


def test_autocast_and_a_parameter_that_the_loss_leaves_out() -> None:
    """Computed in float64 all the same; zeros for what the loss does not depend on."""

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return cross_entropy(logits, y)

    class Unused(Perceptron):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x)

    right = truth(seeded(Perceptron)) | {"unused": torch.zeros(2)}
    assert is_same(exact_gradients(seeded(Unused), loss=loss), right)


@pytest.mark.parametrize("make", [Everything, Stateful])
def test_each_forward_pass_of_an_accumulation_window_starts_from_its_own_state(make: Callable[[], nn.Module]) -> None:
    """And from none of another evaluation: along a direction through all tensors, forward mode finds the same."""
    module, window, rng = seeded(make), batches(3), np.random.default_rng(0)

    def loss_of(batch: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(module(batch[0]), batch[1]) / len(window)

    with TorchGuard(module, every_n_steps=1, max_overhead=None) as guard:
        for batch in window:
            loss_of(batch).backward()
        guard._state.learn_changing()
        evaluated, restore = guard._replayed(lambda: sum(map(loss_of, window))), guard.guard._snapshot()
        found = guard._params.exact_gradients(evaluated, None)
        restore()
        vectors = {name: rng.normal(size=gradient.shape) for name, gradient in found.items()}
        space = guard._params.tangents()
        with ExitStack() as moving:
            for name, vector in vectors.items():
                moving.enter_context(space.moving(name)).displace(vector, 2.0**-60, vector)
            with space.installed():
                right = float(evaluated()) * 2.0**60
        restore()
    assert sum(np.vdot(vectors[name], found[name]) for name in vectors) == pytest.approx(right, rel=1e-12)


def fails_in_float64(logits: Tensor, y: Tensor) -> Tensor:
    """A loss that refuses a graph of float64."""
    if logits.dtype is torch.float64 and logits.requires_grad:
        raise ValueError("no float64")
    return cross_entropy(logits, y)


@pytest.mark.parametrize(
    ("make", "loss"),
    [
        pytest.param(lambda: Cubed(Hidden), cross_entropy, id="NumPy in a Function"),
        pytest.param(Perceptron, fails_in_float64, id="raises"),
    ],
)
def test_a_gradient_that_cannot_be_had_is_none(make: Callable[[], nn.Module], loss: Callable[..., Any]) -> None:
    """Nothing is raised."""
    assert exact_gradients(seeded(make), loss=loss) is None


@pytest.mark.parametrize("number", [lambda loss: loss.item(), lambda loss: torch.tensor(loss.tolist())])
def test_a_loss_that_leaves_the_graph_has_no_gradient(number: Callable[[Tensor], Any]) -> None:
    """It is a number, or made anew."""
    module, (x, y) = seeded(Perceptron), batches(1)[0]
    with TorchGuard(module, every_n_steps=1, max_overhead=None) as guard:
        cross_entropy(module(x), y).backward()
        evaluated = guard._replayed(lambda: number(cross_entropy(module(x), y)))
        evaluated()
        assert guard._params.exact_gradients(evaluated, None) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("make", [Everything, Stateful, Written, ModuleHooked, lambda: Cubed(Hidden), HandLSTM])
def test_a_reverse_pass_leaves_the_training_bit_for_bit_as_it_was(
    make: Callable[[], nn.Module], dtype: torch.dtype
) -> None:
    """Parameters, gradients, buffers, hidden states, counters and streams, and none of them is part of a graph."""
    module = seeded(make).to(dtype)
    if isinstance(module, Layered):
        module.state = module.state.to(dtype)
    x, y = batches(1, dtype)[0]
    cross_entropy(module(x), y).backward()
    with TorchGuard(module, every_n_steps=1, max_overhead=None) as guard:
        module.zero_grad()
        loss = cross_entropy(module(x), y)
        loss.backward(retain_graph=True)
        guard._state.learn_changing()
        before, objects = copy.deepcopy(left_by(module)), [id(value) for value in left_by(module)]
        evaluated = guard._replayed(lambda: cross_entropy(module(x), y))
        restore = guard.guard._snapshot()
        evaluated()
        restore()
        guard._params.exact_gradients(evaluated, None)
        restore()
        assert same(before, left_by(module))
        assert objects[:-1] == [id(value) for value in left_by(module)][:-1]
        assert not any(value.grad_fn for value in left_by(module) if isinstance(value, Tensor))
        loss.backward()  # the graph that the training keeps is still whole


def left_by(module: nn.Module) -> list[Any]:
    """All that a step of training leaves behind."""
    tensors = [tensor for part in (module.parameters(), module.buffers()) for tensor in part]
    gradients = [parameter.grad for parameter in module.parameters()]
    states = [getattr(module, name, None) for name in ("calls", "hidden", "state", "fired")]
    return [*tensors, *gradients, *states, torch.get_rng_state()]


@pytest.mark.parametrize("where", ["forward", "function"])
def test_an_interrupt_during_the_reverse_pass_goes_on_to_the_user(where: str) -> None:
    """And nothing of the pass is left in PyTorch's way, not even the copies of what autograd saves."""
    module, (x, y) = seeded(InPlace if where == "function" else Perceptron), batches(1)[0]
    calls = []

    def loss() -> Tensor:
        value = cross_entropy(module(x), y)
        calls.append(value.requires_grad)
        if sum(calls) == (2 if where == "function" else 1):
            raise KeyboardInterrupt
        return value

    with TorchGuard(module, every_n_steps=1, max_overhead=None) as guard:
        cross_entropy(module(x), y).backward()
        evaluated = guard._replayed(loss)
        evaluated()
        with pytest.raises(KeyboardInterrupt):
            guard._params.exact_gradients(evaluated, None)
    saved = torch.ones(2, requires_grad=True)
    assert saved.square().grad_fn._saved_self is saved
