"""Does a TorchGuard name the `torch.autograd.Function` whose backward pass is wrong, and its wrong inputs?

What is measured: thirteen Functions of usual kinds, each with a usual fault in its backward pass, each in a small
float32 model that also calls a Function that is right. The model trains for one step under guard. Then the right twin
of each model does, with its gradients doubled after the backward pass: a bug that no Function is to blame for. Beside
it, `check_module` checks a module that calls the Function once, in float32, and `torch.autograd.gradcheck` the Function
itself: in float64 with its defaults, and in float32 with a step of 1e-3 and tolerances of 1e-2, as people use it. All
three get the inputs of the training step.

How to read it: "named" is "yes" if the report names the Function, "inputs" if it names exactly its wrong inputs.
"blamed" counts Functions that are right and that the reports of the model and of its twin call wrong: the goal is 0.
"module" and "gradcheck" say "found" or "missed" for the Function with the fault, and "FALSE" where the check fails on
the right twin. "evaluations" are those of the forward pass of the Function, and "ms" the time, each for the check of
the Function by the guard (on up to three calls) and by gradcheck in float64.

    python tests/benchmarks torch_functions
"""

import argparse
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from benchmarks.functions.faulty_functions import BATCH, FAULTS, Fault, Model
from benchmarks.support.options import parser_of
from benchmarks.support.tables import Row, table
from gradguard import Report
from gradguard.integrations.torch import TorchGuard, check_module
from gradguard.integrations.torch.functions.calls import FunctionCall
from gradguard.integrations.torch.functions.recorder import CallRecorder

USUAL_TIME = "about 30 s"

QUICK = 2
LOOSE = {"eps": 1e-3, "atol": 1e-2, "rtol": 1e-2}
HEAD = (
    *("function", "named", "inputs", "blamed", "module", "gradcheck 64", "gradcheck 32"),
    *("evaluations", "of gradcheck", "ms", "of gradcheck"),
)


@dataclass(slots=True)
class Outcome:
    """What a checker says of a Function with its fault and of its right twin.

    Attributes:
        found: Whether the fault is reported.
        is_false: Whether the right twin is reported.
        evaluations: Of the forward pass of the one with the fault.
        seconds: The time for it.
    """

    found: bool
    is_false: bool
    evaluations: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return ("found" if self.found else "missed") + (", FALSE" if self.is_false else "")


class Calling(nn.Module):
    """A module that calls the Function of a recorded call."""

    def __init__(self, call: FunctionCall) -> None:
        super().__init__()
        self._call = call

    def forward(self, *needed: Tensor) -> Any:
        """What the Function returns for these inputs that need a gradient."""
        given = dict(zip(self._call.needed, needed, strict=True))
        return self._call.function.apply(*(given.get(i, arg) for i, arg in enumerate(self._call.args)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each Function, and their sum."""
    options = parser().parse_args(arguments)
    logging.getLogger("gradguard").addHandler(logging.NullHandler())
    torch.set_num_threads(1)
    faults = FAULTS[:QUICK] if options.quick else FAULTS
    print(table(HEAD, rows(faults)))


def parser() -> argparse.ArgumentParser:
    """The options."""
    return parser_of(__name__, f"{QUICK} Functions")


def rows(faults: Sequence[Fault]) -> Iterator[Row]:
    """A row for each Function, and one for all."""
    named = right_inputs = blamed = 0
    outcomes: list[tuple[Outcome, ...]] = []
    for fault in faults:
        report, twin = trained(fault, wrong=True), trained(fault, wrong=False)
        wrong = wrong_inputs(report)
        innocent = len(wrong.keys() - {f"{fault.function.__name__}.backward"}) + len(wrong_inputs(twin))
        inputs = wrong.get(f"{fault.function.__name__}.backward", ())
        is_right = {name.partition("`")[2].rstrip("`)") for name in inputs} == set(fault.inputs)
        own = next(each for each in report.functions if each.name == f"{fault.function.__name__}.backward")
        found = (
            by_module(fault),
            by_gradcheck(fault, torch.float64, {}),
            by_gradcheck(fault, torch.float32, LOOSE),
            Outcome(bool(inputs), False, own.report.evaluations, own.report.seconds),
        )
        outcomes.append(found)
        named, right_inputs, blamed = named + bool(inputs), right_inputs + is_right, blamed + innocent
        said = ("yes" if inputs else "NO", "yes" if is_right else "NO", str(innocent), *map(str, found[:3]))
        yield (fault.function.__name__, *said, *costs([found]))
    counts = (f"{sum(each[i].found for each in outcomes)} of {len(faults)}" for i in range(3))
    sums = (f"{named} of {len(faults)}", f"{right_inputs} of {len(faults)}", str(blamed), *counts)
    yield ("all", *sums, *costs(outcomes))


def costs(outcomes: Sequence[tuple[Outcome, ...]]) -> Row:
    """Evaluations and milliseconds of the guard and of gradcheck in float64."""
    evaluations = (str(sum(each[i].evaluations for each in outcomes)) for i in (3, 1))
    return (*evaluations, *(f"{1e3 * sum(each[i].seconds for each in outcomes):.0f}" for i in (3, 1)))


def trained(fault: Fault, *, wrong: bool) -> Report:
    """The check of one step; the gradients of the right twin are doubled after the backward pass."""
    module = Model(fault, wrong=wrong)
    loss = loss_of(module)
    with TorchGuard(module, every_n_steps=1, max_overhead=None) as guard:
        loss().backward()
        for parameter in module.parameters():
            if parameter.grad is not None and not wrong:
                parameter.grad *= 2
        report = guard.after_backward(0, loss)
    if report is None:
        raise RuntimeError("the guard skipped a check that was due")
    return report


def loss_of(module: nn.Module) -> Callable[[], Tensor]:
    """The squared distance to targets, always the same."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, 4, generator=generator)
    with torch.no_grad():
        targets = torch.randn(module(x).shape, generator=generator)
    return lambda: ((module(x) - targets) ** 2).sum()


def wrong_inputs(report: Report) -> dict[str, tuple[str, ...]]:
    """The Functions that a report calls wrong, each with its wrong inputs."""
    return {
        function.name: tuple(name for name, tensor in function.report.tensors.items() if tensor.verdict.is_bug)
        for function in report.functions
        if function.fault or function.report.verdict.is_bug
    }


def call_of(fault: Fault, *, wrong: bool) -> FunctionCall:
    """The last call of the Function that a training step keeps, when hidden states are no longer zero."""
    recorder = CallRecorder()
    recorder.record(loss_of(Model(fault, wrong=wrong)))
    (calls,) = (kind for kind in list(recorder.functions[fault.function].calls.values())[:1])
    return calls[max(calls)]


def by_module(fault: Fault) -> Outcome:
    """What `check_module` says of a module that makes the call."""
    bugs = []
    for wrong in (True, False):
        call = call_of(fault, wrong=wrong)
        inputs = tuple(call.leaves.values())
        bugs.append(bool(check_module(Calling(call), inputs).verdict.is_bug))
    return Outcome(*bugs)


def by_gradcheck(fault: Fault, dtype: torch.dtype, settings: dict[str, float]) -> Outcome:
    """What `gradcheck` says of the call."""
    failed, evaluations, seconds = [], 0, 0.0
    for wrong in (False, True):
        module = Calling(call_of(fault, wrong=wrong))
        call = module._call
        inputs = [leaf.detach().to(dtype).requires_grad_() for leaf in call.leaves.values()]
        module._call = in_dtype(call, dtype)
        count = 0

        def counted(*needed: Tensor, module: Calling = module) -> Any:
            nonlocal count
            count += 1
            return module(*needed)

        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Input #")  # gradcheck warns of float32, which is what is measured here
            failed.append(not gradcheck(counted, inputs, raise_exception=False, **settings))
        evaluations, seconds = count, time.perf_counter() - started
    return Outcome(failed[1], failed[0], evaluations, seconds)


def in_dtype(call: FunctionCall, dtype: torch.dtype) -> FunctionCall:
    """A call whose floating inputs have a dtype."""
    args = [arg.to(dtype) if isinstance(arg, Tensor) and arg.is_floating_point() else arg for arg in call.args]
    return FunctionCall(call.function, tuple(args), call.needed, call.autocast, call.restore)
