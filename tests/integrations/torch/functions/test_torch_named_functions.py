"""The Function that a wrong gradient comes from is named, and none that is right."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from function_models import (  # noqa: E402
    BOUND,
    InPlace,
    Layer,
    Newer,
    Noisy,
    Outer,
    Scaled,
    Several,
    Square,
    loss_of,
    report_of,
    sentence_of,
)
from torch import Tensor, distributed, nn  # noqa: E402
from torch.autograd import Function  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402
from torch_checks import guard_of, same, seeded  # noqa: E402
from torch_models import HandLSTM, batches, cross_entropy  # noqa: E402

from gradguard.integrations.torch.functions import check, recorder  # noqa: E402
from gradguard.integrations.torch.step_guard import StepGuard  # noqa: E402

pytestmark = pytest.mark.usefixtures("torch_as_it_was")

WRONG = "is wrong in its gradient for input 1 (`w`): numerical = 2 x backprop; input 0 (`x`) agrees; 1 call"


def right(x: Tensor, w: Tensor) -> Tensor:
    """A Function without a fault."""
    return Scaled.apply(x, w, False)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (Scaled.apply, "Scaled"),
        (BOUND, "Scaled"),
        (Newer.apply, "Newer"),
        (lambda x, w: InPlace.apply(x.clone(), w), "InPlace"),
        (Noisy.apply, "Noisy"),
    ],
)
def test_a_wrong_function_is_named_with_its_wrong_input_and_those_that_agree(
    call: Callable[[Tensor, Tensor], Tensor], name: str
) -> None:
    """Once differentiable, bound before, with a context apart, in place, drawing random numbers."""
    report = report_of(call)
    assert report.tensors["w"].cause.endswith(f"{name}.backward {WRONG}")
    assert report.explanation.endswith(f"{name}.backward {WRONG}.")
    assert not report.tensors["dense.weight"].cause


COMPILED = """
import torch
from function_models import Layer, Scaled, loss_of
from torch_checks import guard_of, seeded

module = seeded(lambda: Layer(Scaled.apply))
loss = loss_of(torch.compile(module, backend="eager"))
with guard_of(module) as guard:
    loss().backward()
    print(guard.after_backward(0, loss).tensors["w"].cause)
"""


def test_a_function_of_a_compiled_module_is_checked_as_it_runs_uncompiled() -> None:
    """The compiler hides its calls; the module that it was made from makes them. In a process without other tests."""
    command, paths = [sys.executable, "-W", "ignore", "-c", COMPILED], os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": paths}
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert f"Scaled.backward {WRONG}" in printed


def test_a_function_of_several_outputs_is_checked_on_those_that_have_a_gradient() -> None:
    """One output is not differentiable and one is no tensor; a term of a third is forgotten."""

    def call(x: Tensor, w: Tensor) -> Tensor:
        product, _sign, total, _text = Several.apply(x, w)
        return product + total**2

    cause = sentence_of(call)
    assert "Several.backward is wrong in its gradient for input 1 (`w`): BUG: structure; input 0 (`x`) agrees" in cause


def test_each_call_counts_once_where_a_checkpoint_repeats_its_forward_pass() -> None:
    """Three calls are made, and made again by the backward pass."""
    assert sentence_of(lambda x, w: checkpoint(Scaled.apply, x, w, use_reentrant=False), steps=3).endswith("; 3 calls")


def test_a_checkpoint_that_hides_its_functions_is_refused_with_the_remedy() -> None:
    """PyTorch cannot differentiate it for chosen leaves, and says what to do."""
    cause = sentence_of(lambda x, w: checkpoint(Scaled.apply, x, w, use_reentrant=True))
    assert "the check of the functions of the loss (" in cause
    assert "set use_reentrant=False" in cause
    assert cause.endswith("could not tell whether the bug is there")


def test_a_function_that_another_one_differentiates_is_named_too() -> None:
    """The outer one is wrong because the inner one is."""
    cause = sentence_of(Outer.apply)
    assert f"Outer.backward {WRONG}" in cause
    assert f"Scaled.backward {WRONG}" in cause


def test_within_a_transform_of_torch_func_a_function_is_refused_by_name() -> None:
    """Single calls cannot be made again there."""

    class Mapped(Newer):
        generate_vmap_rule = True

    def call(x: Tensor, w: Tensor) -> Tensor:
        return torch.func.vmap(lambda row: Mapped.apply(row[None], w)[0])(x)

    cause = sentence_of(call)
    assert "the check of Mapped.backward (it is called within a transform of torch.func" in cause


def test_a_backward_pass_that_is_differentiated_is_not_called_right() -> None:
    """Only its gradients of first order are checked, and the bug may be in the second."""

    class Cube(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return 3 * ctx.saved_tensors[0].detach() ** 2 * grads[0]  # right once, and not twice

    def call(x: Tensor, w: Tensor) -> Tensor:
        with torch.enable_grad():
            slope = torch.autograd.grad(Cube.apply(w).sum(), w, create_graph=True)[0]
        return x.detach() * slope + Cube.apply(w)

    assert "Cube.backward (its gradients agree, but its backward pass is differentiated too" in sentence_of(call)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda x, w: Square.apply(x * w, "backward").sum(1),
            "its backward pass ignores the strides of the upstream gradient: with contiguous copies its gradients are",
        ),
        (
            lambda x, w: Square.apply((x * w).sum(1, keepdim=True).expand(-1, 4), "forward"),
            "its forward pass ignores the strides of input 0 (`x`): for contiguous copies it returns something else",
        ),
        (
            lambda x, w: Square.apply((x * w).t(), "forward").t(),
            "its forward pass ignores the strides of input 0 (`x`): for contiguous copies it returns something else",
        ),
    ],
)
def test_a_kernel_that_ignores_strides_is_named_with_what_it_misreads(
    call: Callable[[Tensor, Tensor], Tensor], says: str
) -> None:
    """An upstream gradient that a sum expands, an expanded input and a transposed one."""
    sentence = sentence_of(call)
    assert sentence.startswith("Square.backward is wrong")
    assert says in sentence


@pytest.mark.parametrize("fault", [None, "averaged"])
def test_rounding_to_sixteen_bits_is_no_fault_of_a_function(fault: str | None) -> None:
    """An LSTM cell under autocast, right with gradients that are tripled later, or with a factor in two inputs."""
    module = seeded(lambda: HandLSTM(fault))
    x, y = batches(1)[0]

    def loss() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return cross_entropy(module(x), y)

    with guard_of(module) as guard:
        loss().backward()
        for parameter in module.parameters():
            parameter.grad *= 3 if fault is None else 1
        report = guard.after_backward(0, loss)
    assert report is not None
    (cell,) = report.functions
    wrong = {name for name, tensor in cell.report.tensors.items() if tensor.verdict.is_bug}
    assert wrong == (set() if fault is None else {"input 3 (`w`)", "input 4 (`b`)"})


def test_of_many_calls_the_first_and_late_ones_are_checked() -> None:
    """An error that zeros hide in the first call, as of a hidden state, is found in another one."""

    class Recurrent(Function):
        @staticmethod
        def forward(ctx: Any, h: Tensor, x: Tensor, w: Tensor) -> Tensor:
            ctx.save_for_backward(h, w)
            return x + h * w

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
            h, w = ctx.saved_tensors
            return grads[0] * w, grads[0], (grads[0] * h).sum(0) / 2

    def call(x: Tensor, w: Tensor) -> Tensor:
        h = x * 0
        for _ in range(11):
            h = Recurrent.apply(h, x, w)
        return h

    cause = sentence_of(call)
    assert "Recurrent.backward is wrong in its gradient for input 2 (`w`): numerical = 2 x backprop" in cause
    assert cause.endswith("11 calls")


def test_clipping_is_told_apart_from_functions_that_are_right() -> None:
    """No Function is named where the gradient is changed after the backward pass."""
    module = seeded(lambda: Layer(right))
    loss = loss_of(module)
    with guard_of(module) as guard:
        loss().backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1e-3)
        report = guard.after_backward(0, loss)
    assert report is not None
    assert "Scaled.backward is right; look at what happens to the gradient after the backward pass" in (
        report.tensors["w"].cause
    )


def test_hooks_are_named_where_the_functions_are_right() -> None:
    """A hook of a tensor, of a parameter and of a module, each with its place; none of them runs in the check."""
    runs: list[str] = []

    def tripled(gradient: Tensor) -> Tensor:
        runs.append("tensor")
        return 3 * gradient

    def of_parameter(gradient: Tensor) -> Tensor:
        runs.append("parameter")
        return gradient

    def of_module(*_: object) -> None:
        runs.append("module")

    part = nn.Identity()
    part.register_full_backward_hook(of_module)

    def call(x: Tensor, w: Tensor) -> Tensor:
        y = part(right(x, w))
        if y.requires_grad:
            y.register_hook(tripled)
        return y

    module = seeded(lambda: Layer(call))
    module.w.register_hook(of_parameter)
    loss = loss_of(module)
    with guard_of(module) as guard:
        loss().backward()
        before = len(runs)
        report = guard.after_backward(0, loss)
    assert report is not None
    assert len(runs) == before == 3
    named = re.search(r"hooks that may change the gradient: (.*)", report.tensors["w"].cause)
    assert named is not None
    assert {name for name in ("tripled", "of_parameter", "of_module") if f"`{name}` (test_" in named[1]} == {
        "tripled",
        "of_parameter",
        "of_module",
    }


def test_a_function_too_large_to_be_copied_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its inputs would need more memory than a check may take."""
    monkeypatch.setattr(recorder, "MAX_BYTES", 16)
    cause = sentence_of(Scaled.apply)
    assert "the check of Scaled.backward (copies of its inputs and upstream gradients would take more" in cause


def test_a_function_for_which_no_time_is_left_is_not_called_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks of Functions end after some seconds."""
    monkeypatch.setattr(check, "MAX_SECONDS", 0.0)
    said = "the check of Scaled.backward (there was no time left) could not tell whether the bug is there"
    assert sentence_of(right) == said


def test_a_function_that_waits_for_other_processes_is_refused_by_name() -> None:
    """They would not answer, since each of them checks its own calls."""

    class Averaged(Function):
        @staticmethod
        def forward(_ctx: Any, x: Tensor, w: Tensor) -> Tensor:
            total = x * w
            distributed.all_reduce(total)
            return total

        @staticmethod
        def backward(_ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
            return grads[0], None

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        sentence = sentence_of(Averaged.apply)
    finally:
        distributed.destroy_process_group()
    assert "the check of Averaged.backward (repeating a call raises RuntimeError('it communicates with" in sentence


def test_the_functions_of_a_training_step_that_a_framework_makes_are_checked() -> None:
    """A window of two steps, of which each calls the Function once."""
    module = seeded(lambda: Layer(Scaled.apply))
    loss, optimizer = loss_of(module), torch.optim.SGD(module.parameters(), lr=0.1)
    with StepGuard(module, optimizer, {"every_n_steps": 1, "max_overhead": None}) as guard:
        for _ in range(2):
            guard.run(0, loss).backward()
        report = guard.check(0)
    assert report is not None
    assert f"Scaled.backward {WRONG.replace('1 call', '2 calls')}" in report.tensors["w"].cause


def test_the_check_of_functions_leaves_the_training_as_it_was() -> None:
    """Parameters, gradients, buffers, counters, random streams and a list that the loss appends to."""

    class Counting(Layer):
        def __init__(self) -> None:
            super().__init__(Noisy.apply)
            self.register_buffer("mean", torch.zeros(3))
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.mean.add_(x.mean(0))
            return super().forward(x)

    module = seeded(Counting)
    seen: list[float] = []
    plain = loss_of(module)

    def loss() -> Tensor:
        seen.append(1.0)
        return plain()

    with guard_of(module) as guard:
        loss().backward()

        def state() -> list[Any]:
            gradients = [parameter.grad for parameter in module.parameters()]
            return [*module.state_dict().values(), *gradients, module.calls, len(seen), torch.get_rng_state()]

        before = [value.clone() if isinstance(value, Tensor) else value for value in state()]
        report = guard.after_backward(0, loss)
    assert report is not None
    assert report.functions
    assert same(before, state())
