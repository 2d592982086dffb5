import copy
import io
import logging
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402 - torch may not be there
from torch.nn import functional  # noqa: E402
from torch_models import CLASSES, TIMESTEPS, Everything, HandLSTM, Perceptron, batches, cross_entropy  # noqa: E402

from gradguard import GradientError, snapshot_rng  # noqa: E402
from gradguard.integrations.torch import TorchGuard  # noqa: E402
from gradguard.report import Report  # noqa: E402

DENSE = {"out.weight", "out.bias"}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Small tensors gain nothing from several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seeded(make: Callable[[], Any]) -> Any:
    """What it makes with the random streams at their start."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global streams are those that must be left alone
    random.seed(0)
    return make()


def guard_of(module: nn.Module, optimizer: Any = None, **options: Any) -> TorchGuard:
    """A guard that checks every step, whatever it costs."""
    return TorchGuard(module, optimizer, **{"every_n_steps": 1, "max_overhead": None} | options)


def checked(module: nn.Module, *, scale: float = 1.0, constants: Any = None, **options: Any) -> Report:
    """The first check of a module on one batch of sequences."""
    x, y = batches(1)[0]
    with guard_of(module, **options) as guard:
        (scale * cross_entropy(module(x), y)).backward()
        report = guard.after_backward(0, lambda: scale * cross_entropy(module(x), y), constants=constants)
    assert report is not None
    return report


def bugs(report: Report) -> dict[str, str]:
    """The verdicts of the wrong tensors."""
    return {name: str(tensor.verdict) for name, tensor in report.tensors.items() if tensor.verdict.is_bug}


# A backward pass by hand.


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
    assert "does not depend on it" in report.tensors["unused"].explanation
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


# Where in the step.


def trained_once(wrong: str, constants: dict[str, float] | None = None) -> Report:
    """A step over two micro-batches, with a mistake between backward and check."""
    module = seeded(Perceptron)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    (x0, y0), (x1, y1) = batches(2)

    def loss() -> Tensor:
        return (cross_entropy(module(x0), y0) + cross_entropy(module(x1), y1)) / 2

    with guard_of(module, optimizer) as guard:
        if wrong == "stale":
            cross_entropy(module(x1), y1).backward()
        if wrong == "undivided":
            cross_entropy(module(x0), y0).backward()
            cross_entropy(module(x1), y1).backward()
        elif wrong == "divided twice":
            (loss() / 2).backward()
        elif wrong == "short window":
            ((cross_entropy(module(x0), y0) + cross_entropy(module(x1), y1)) / 5).backward()
        elif wrong == "still scaled":
            scaler.scale(loss()).backward()
        else:
            loss().backward()
        if wrong == "clipped":
            nn.utils.clip_grad_norm_(module.parameters(), 1e-2)
        if wrong == "clipped by value":
            nn.utils.clip_grad_value_(module.parameters(), 1e-3)
        report = guard.after_backward(0, loss, constants=constants)
    assert report is not None
    return report


@pytest.mark.parametrize(
    ("wrong", "constants", "says"),
    [
        ("nothing", {}, "No bug"),
        ("still scaled", {"loss_scale": 1024.0}, "1/`loss_scale`"),
        ("undivided", {"accumulation": 2}, "1/`accumulation`"),
        ("divided twice", {"accumulation": 2}, "the backward pass divides by the number of accumulated batches"),
        ("short window", {"accumulation": 5, "window": 2}, "`accumulation`/`window`"),
        ("clipped", {}, "the gradient is clipped to a norm of"),
        ("clipped by value", {}, "the gradient is clipped at 0.001 before the check"),
        ("stale", {}, "no single factor explains it"),
    ],
)
def test_what_happens_between_backward_and_check_is_named(wrong: str, constants: dict[str, float], says: str) -> None:
    """Gradients still scaled, summed and not averaged, clipped, or left over from the step before."""
    report = trained_once(wrong, constants)
    assert bool(bugs(report)) == (wrong != "nothing")
    assert says in str(report)


# Training is never changed.


class Table(nn.Module):
    """An embedding with sparse gradients under a layer that shares its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 3, sparse=True)
        self.decoder = nn.Linear(3, 4, bias=False)
        self.decoder.weight = self.embedding.weight
        self.out = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits by the sign of the last step."""
        return self.out(torch.tanh(self.embedding((x[-1, :, 0] > 0).long())))


def in_autocast(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """As one writes it for mixed precision."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return cross_entropy(module(x), y)


def plain(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Nothing else around it."""
    return cross_entropy(module(x), y)


def left_by_training(
    make: Callable[[], nn.Module], loss: Callable[..., Tensor], *, guarded: bool, hooked: bool = False, **options: Any
) -> tuple[list[Any], list[Any]]:
    """All that two steps over two micro-batches each leave behind, bit for bit; and the history of the guard."""
    module = seeded(make)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    window: list[tuple[Tensor, Tensor]] = []

    def whole() -> Tensor:
        return sum((loss(module, *batch) for batch in window), torch.zeros(())) / len(window)

    guard = guard_of(module, optimizer, loss=whole, **options) if guarded else None
    if guard is not None and hooked:
        guard.hook()
    grads = []
    for step in range(2):
        optimizer.zero_grad()
        window[:] = batches(4)[2 * step : 2 * step + 2]
        for batch in window:
            scaler.scale(loss(module, *batch) / 2).backward()
        scaler.unscale_(optimizer)
        if guard is not None and not hooked:
            guard.after_backward(step)
        grads += [None if p.grad is None else p.grad.clone() for p in module.parameters()]
        scaler.step(optimizer)
        scaler.update()
    left = [*module.state_dict().values(), *module.parameters(), *grads, *optimizer.state_dict()["state"].values()]
    left += [getattr(module, name, None) for name in ("calls", "hidden")]
    left += [torch.get_rng_state(), random.getstate(), np.random.get_state()[1], [m.training for m in module.modules()]]  # noqa: NPY002
    return left, [] if guard is None else list(guard.history)


def same(one: Any, other: Any) -> bool:
    """Bit for bit."""
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one.to_dense(), other.to_dense())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(np.array_equal(one, other))


@pytest.mark.parametrize(
    ("make", "loss", "options"),
    [
        (Everything, plain, {"precision": "auto"}),
        (Everything, plain, {"precision": "native", "hooked": True}),
        (Perceptron, in_autocast, {"precision": "auto"}),
        (Perceptron, in_autocast, {"precision": "native"}),
        (Table, plain, {"precision": "auto", "hooked": True}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_training_is_bit_for_bit_the_same_under_guard(
    make: Callable[[], nn.Module], loss: Callable[..., Tensor], options: dict[str, Any]
) -> None:
    """Weights, gradients, momenta, buffers, hidden state, counters and all random streams; and nothing is wrong."""
    without, _ = left_by_training(make, loss, guarded=False)
    under_guard, history = left_by_training(make, loss, guarded=True, **options)
    assert [same(one, other) for one, other in zip(without, under_guard, strict=True)] == [True] * len(without)
    assert [row.step for row in history] == [0, 1]
    assert not any(row.verdict.is_bug for row in history)
    assert {row.verdict for row in history} <= {"ok", "float_precision", "inconclusive"}


def test_a_loss_that_raises_in_the_middle_leaves_everything_as_it_was() -> None:
    """Parameters, buffers, hidden state and streams."""
    module = seeded(Everything)
    x, y = batches(1)[0]
    calls = []

    def loss() -> Tensor:
        calls.append(1)
        if len(calls) == 30:
            raise KeyboardInterrupt
        return cross_entropy(module(x), y)

    with guard_of(module) as guard:
        cross_entropy(module(x), y).backward()
        before = copy.deepcopy([module.state_dict(), module.hidden, module.calls, torch.get_rng_state()])
        objects = [id(tensor) for tensor in (*module.parameters(), *module.buffers())]
        with pytest.raises(KeyboardInterrupt):
            guard.after_backward(0, loss)
    assert same(before, [module.state_dict(), module.hidden, module.calls, torch.get_rng_state()])
    assert objects == [id(tensor) for tensor in (*module.parameters(), *module.buffers())]
    assert module.training


def test_a_graph_that_is_kept_for_another_backward_stays_valid() -> None:
    """Autograd does not see the parameters move."""
    module = seeded(Perceptron)
    x, y = batches(1)[0]
    with guard_of(module, precision="native") as guard:
        loss = cross_entropy(module(x), y)
        loss.backward(retain_graph=True)
        guard.after_backward(0, lambda: cross_entropy(module(x), y))
        loss.backward()


# Kinds of numbers.


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


def test_a_float32_buffer_and_float32_constants_within_are_no_obstacle() -> None:
    """In the copy every operation is in float64: zeros made on the way, casts that the author wrote, statistics."""

    class Model(Perceptron):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(4)
            self.register_buffer("shift", torch.linspace(0, 1, 4))

        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros(x.shape[1], 4, dtype=torch.float32)
            h += self.inner(x[-1].to(torch.float32))
            return self.out(self.norm((h + self.shift).float().softmax(-1, dtype=torch.float32)).type_as(x))

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


# What is checked.


def test_frozen_parameters_and_those_of_other_optimizers_are_skipped_and_told(caplog: pytest.LogCaptureFixture) -> None:
    """By name and with the reason; the others are checked."""
    module = seeded(Perceptron)
    module.inner.weight.requires_grad = False
    caplog.set_level(logging.INFO, "gradguard")
    guard = guard_of(module, torch.optim.SGD(module.out.parameters()))
    assert guard.skipped == {"inner.weight": "frozen", "inner.bias": "not in the optimizer"}
    assert "not checked: inner.weight (frozen); inner.bias (not in the optimizer)" in caplog.text
    x, y = batches(1)[0]
    cross_entropy(module(x), y).backward()
    report = guard.after_backward(0, lambda: cross_entropy(module(x), y))
    assert report is not None
    assert set(report.tensors) == {"out.weight", "out.bias"}
    assert report.precision == "float64"


def test_tied_parameters_are_one() -> None:
    """Under their first name, moved together, with the sum of their gradients."""
    report = checked(seeded(Table))
    assert set(report.tensors) == {"embedding.weight", "out.weight", "out.bias"}
    assert bugs(report) == {}


def lazy() -> nn.Module:
    """A module without shapes."""
    return nn.LazyLinear(3)


def complex_numbers() -> nn.Module:
    """A module of complex numbers."""
    return nn.Linear(2, 3, dtype=torch.complex64)


def without_memory() -> nn.Module:
    """A module that is only described."""
    return nn.Linear(2, 3, device="meta")


def expanded() -> nn.Module:
    """A parameter whose entries are one place in memory."""
    module = nn.Module()
    module.w = nn.Parameter(torch.ones(1).expand(3))
    return module


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: [torch.ones(3)], TypeError, ["module is a list", "torch.nn.Module"]),
        (nn.Tanh, ValueError, ["nothing to check", "it has no parameters"]),
        (lambda: nn.Linear(2, 3).requires_grad_(False), ValueError, ["nothing to check", "weight is frozen"]),
        (lazy, ValueError, ["'weight'", "no shape yet", "call the module once"]),
        (complex_numbers, TypeError, ["'weight'", "torch.complex64", "float32"]),
        (without_memory, TypeError, ["'weight'", "meta"]),
        (expanded, ValueError, ["'w'", "one place in memory"]),
    ],
)
def test_modules_that_cannot_be_checked_are_refused_by_name(
    make: Callable[[], Any], error: type[Exception], words: list[str]
) -> None:
    """With what was found and what was expected."""
    with pytest.raises(error) as raised:
        TorchGuard(make())
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    ("loss", "error", "words"),
    [
        (None, ValueError, ["there is no loss", "loss()"]),
        (torch.ones(()), TypeError, ["loss is a Tensor", "loss()"]),
        (lambda model: model, TypeError, ["loss wants an argument", "lambda: criterion(model(x), y)"]),
        (lambda: torch.ones(2), ValueError, ["shape (2,)", "reduction"]),
        (lambda: "low", TypeError, ["the loss returned", "expected a number"]),
    ],
)
def test_a_loss_that_is_none_is_told(loss: Any, error: type[Exception], words: list[str]) -> None:
    """At once, with what was expected."""
    module = seeded(Perceptron)
    with guard_of(module) as guard, pytest.raises(error) as raised:
        guard.after_backward(0, loss)
    assert all(word in str(raised.value) for word in words)


def test_an_optimizer_that_is_none_is_told() -> None:
    """With what was expected."""
    with pytest.raises(TypeError, match=r"optimizer is a list; expected a torch\.optim\.Optimizer"):
        TorchGuard(nn.Linear(2, 3), [])


# The loss is that of the step.


def test_a_hidden_state_of_after_the_step_is_refused() -> None:
    """It is another function than the one the gradient is of; with the state the step began with all is right."""
    cell = seeded(lambda: nn.GRU(2, 3))
    x = batches(1)[0][0]
    h = torch.randn(1, 4, 3)
    with guard_of(cell) as guard:
        h0 = h
        out, h = cell(x, h)
        out.square().mean().backward()
        with pytest.raises(ValueError, match=r"other inputs than the training did \(input 1\).*h0 = h before"):
            guard.after_backward(0, lambda: cell(x, h)[0].square().mean())
        report = guard.after_backward(0, lambda: cell(x, h0)[0].square().mean())
    assert report is not None
    assert report.verdict.is_bug is False


def test_a_loss_that_draws_its_own_random_numbers_is_refused() -> None:
    """They were others in the training; nothing of the stream is used up by finding that out."""
    module = seeded(Perceptron)
    x, y = batches(1)[0]

    def noisy() -> Tensor:
        return cross_entropy(module(x + torch.randn_like(x)), y)

    with guard_of(module) as guard:
        noisy().backward()
        before = torch.get_rng_state()
        with pytest.raises(ValueError, match="draws random numbers before it calls the module"):
            guard.after_backward(0, noisy)
    assert torch.equal(before, torch.get_rng_state())


def test_a_forward_pass_that_cannot_be_repeated_is_refused() -> None:
    """Dropout from a generator of the module's own; a snapshot of that is taken before each forward pass."""

    class Model(Perceptron):
        def __init__(self) -> None:
            super().__init__()
            self.generator = torch.Generator()

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.inner(x[-1]))
            return self.out(h * (torch.rand(h.shape, generator=self.generator) < 0.5))

    module = seeded(Model)
    with pytest.raises(ValueError, match=r"does not repeat the training's forward pass: .* \(off by \d+%\)"):
        checked(module)
    module.zero_grad()
    report = checked(module, snapshot=snapshot_rng(module.generator))
    assert bugs(report) == {}
    assert report.precision == "float64"


def test_the_loss_may_be_in_one_piece_where_the_training_was_in_several() -> None:
    """Accumulated over two micro-batches, checked on both at once."""
    module = seeded(Perceptron)
    parts = batches(2)
    x, y = torch.cat([x for x, _ in parts], 1), torch.cat([y for _, y in parts])
    with guard_of(module) as guard:
        for part in parts:
            (cross_entropy(module(part[0]), part[1]) / 2).backward()
        report = guard.after_backward(0, lambda: cross_entropy(module(x), y))
    assert report is not None
    assert report.verdict == "ok"


def test_unreduced_losses_are_taken_with_their_reduction() -> None:
    """As of the core."""
    module = seeded(Perceptron)
    x, y = batches(1)[0]
    with guard_of(module, reduction="mean", precision="native") as guard:
        cross_entropy(module(x), y).backward()
        report = guard.after_backward(0, lambda: functional.cross_entropy(module(x), y, reduction="none"))
    assert report is not None
    assert report.verdict.is_bug is False


def test_spectral_norm_starts_each_time_from_the_vectors_of_the_training() -> None:
    """Each forward pass changes them, and the gradient was computed with those of before."""

    def made() -> nn.Module:
        module = Perceptron()
        nn.utils.parametrizations.spectral_norm(module.inner)
        return module

    report = checked(seeded(made))
    assert "inner.parametrizations.weight.original" in report.tensors
    assert bugs(report) == {}


# The hook.


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


def test_a_copy_and_a_saved_module_are_free_of_the_guard() -> None:
    """An average of the weights, or a whole module in a file, does not take the guard along."""
    module = seeded(Perceptron)
    with guard_of(module) as guard:
        copied, file = copy.deepcopy(module), io.BytesIO()
        torch.save(module, file)
        assert b"gradguard" not in file.getvalue()
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        x = batches(1)[0][0]
        for other in (copied, loaded):
            assert torch.equal(other(x), module(x))
        assert guard._forwards.count == 2
    module(x)
    assert guard._forwards.count == 2


@pytest.mark.parametrize("attached", ["compiled", "inner"])
def test_a_compiled_module_is_checked_as_it_is_written(attached: str) -> None:
    """Its parameters keep their names, nothing is compiled for the check, and training is bit for bit the same."""
    compilations = []

    def backend(graph: Any, inputs: Any) -> Any:
        compilations.append(len(inputs))
        return graph.forward

    def left(*, guarded: bool) -> dict[str, Tensor]:
        torch.compiler.reset()
        module = seeded(Perceptron)
        compiled = torch.compile(module, backend=backend)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        guard = guard_of(compiled if attached == "compiled" else module, optimizer) if guarded else None
        for step, (x, y) in enumerate(batches(2)):
            optimizer.zero_grad()
            cross_entropy(compiled(x), y).backward()
            if guard is not None:
                report = guard.after_backward(step, lambda x=x, y=y: cross_entropy(compiled(x), y))
                assert report is not None
                assert set(report.tensors) == {"inner.weight", "inner.bias", "out.weight", "out.bias"}
                assert report.verdict.is_bug is False
                assert report.precision == "float64"
            optimizer.step()
        return module.state_dict()

    without, count = left(guarded=False), len(compilations)
    assert same(without, left(guarded=True))
    assert len(compilations) == 2 * count


# Several processes.


def test_a_distributed_module_of_one_process_is_checked() -> None:
    """Its parameters keep the names that they have without."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        report = checked(nn.parallel.DistributedDataParallel(seeded(Perceptron)))
    finally:
        torch.distributed.destroy_process_group()
    assert set(report.tensors) == {"inner.weight", "inner.bias", "out.weight", "out.bias"}
    assert bugs(report) == {}
