"""The check of one module without a training loop."""

import dataclasses
import inspect
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradguard.arrays import Blocks
from gradguard.checks.check import CheckOptions, checked
from gradguard.diagnosis import summary, worst_verdict
from gradguard.environment import with_short_traceback
from gradguard.functions import with_functions
from gradguard.integrations.torch.functions.calls import named_inputs
from gradguard.integrations.torch.functions.check import FunctionChecks
from gradguard.integrations.torch.functions.layout import can_be_relaid, copied, relaid, shares_memory
from gradguard.integrations.torch.functions.products import product
from gradguard.integrations.torch.overrides.substitution import result_in_active_mode
from gradguard.integrations.torch.overrides.vectorized import VectorizedCopies
from gradguard.integrations.torch.parameters import Parameters
from gradguard.integrations.torch.replay.evaluation import eager
from gradguard.integrations.torch.replay.forwards import AutocastState, tensors_in
from gradguard.integrations.torch.replay.saved import HeldTensor, restore_all
from gradguard.integrations.torch.replay.state import ModuleState, RandomStreams
from gradguard.integrations.torch.tensors import PERTURBABLE_DTYPES, HostArrays, coarsest, to_host
from gradguard.loss import try_twice
from gradguard.perturbation import combined_snapshot, run_with_cleanup, snapshot_rng
from gradguard.report import Report, Verdict


@with_short_traceback
def check_module(
    module: nn.Module,
    inputs: Tensor | tuple[Any, ...],
    *,
    constants: Mapping[str, float] | None = None,
    blocks: Blocks | None = None,
    expected: Mapping[str, str] | None = None,
    precision: str = "auto",
    entries: int | str | None = None,
    nondet_tol: float = 0.0,
    seed: int = 0,
) -> Report:
    """Check the gradients of a module for random upstream gradients of its outputs; no training loop is needed.

    The parameters and inputs that require a gradient are checked, in their own dtype. Where their gradients are right,
    they are checked once more with inputs and upstream gradients that are not contiguous. The module is called as it
    is, in training or in evaluation mode; its random masks repeat. Afterwards it is as it was, bit for bit.

    Args:
        module: The module.
        inputs: Its positional arguments, or the one that it has. Floating tensors that require a gradient are checked.
        constants: As of `gradguard.check`.
        blocks: As of `gradguard.check`.
        expected: As of `gradguard.check`.
        precision: As of `gradguard.check`.
        entries: As of `gradguard.check`.
        nondet_tol: By how much entries of two backward passes through one graph may differ, as of `gradcheck`.
        seed: Seed of the upstream gradients, directions and entries.

    Returns:
        The report: a verdict on each parameter, by its name, and on each input, as in "input 0 (`x`)". Where one is
        wrong, its cause names the `torch.autograd.Function` that the module calls and that is wrong.

    Raises:
        TypeError: `module` is no module, or something is of a kind that cannot be checked; the message names it.
        ValueError: Nothing requires a gradient, or an option's value does not fit.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module is a {type(module).__name__}; expected a torch.nn.Module")
    options = CheckOptions(constants, blocks, "sum", precision, None, entries, seed, None, expected)
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    report = _check(ModuleCall(module, given, seed), options, nondet_tol)
    if report.verdict.is_bug:
        return report
    others = tuple(map(_relaid, given))
    # A module may refuse such inputs, as `view` does; that is no fault.
    again = try_twice(lambda: _check(ModuleCall(module, others, seed, other_layout=True), options, nondet_tol))
    if isinstance(again, Exception) or not again.verdict.is_bug:
        return report
    said = f"With inputs and upstream gradients in another memory layout: {again.explanation}"
    return dataclasses.replace(again, explanation=said)


class ModuleCall:
    """A call of a module, repeated from the same state; its loss is the products of upstream gradients and outputs.

    Args:
        module: The module.
        inputs: Its positional arguments, of which copies are used.
        seed: Draws the upstream gradients.
        other_layout: Whether the upstream gradients are not contiguous.

    Attributes:
        tensors: What requires a gradient, by name.
        state: What a call of the module changes in it.
        snapshots: Of everything that a call changes.
        restore: Restores that.
        autocast: The autocast of the caller.
        upstream: The upstream gradient of each output; None where it is not differentiable.

    Raises:
        TypeError: An input that requires a gradient has a dtype that cannot be checked.
        ValueError: Nothing requires a gradient, or no output depends on what does.
    """

    def __init__(self, module: nn.Module, inputs: tuple[Any, ...], seed: int, *, other_layout: bool = False) -> None:
        self._module = module
        self._args = [_own(each) if isinstance(each, Tensor) else each for each in inputs]
        parameters = module.named_parameters()
        self.tensors: dict[str, Tensor] = {name: each for name, each in parameters if each.requires_grad}
        self.tensors |= {
            name: each
            for name, each in zip(_input_names(module, len(inputs)), self._args, strict=True)
            if isinstance(each, Tensor) and each.requires_grad
        }
        _require_checkable(self.tensors)
        self.state = ModuleState(module, self.tensors.values())
        others = [each for each in self._args if isinstance(each, Tensor) and not each.requires_grad]
        streams = RandomStreams({tensor.device for tensor in self.tensors.values()})
        self.snapshots = [
            self.state.capture_all,
            streams.capture,
            snapshot_rng(np.random),
            snapshot_rng(random),
            lambda: restore_all([HeldTensor(each) for each in others]),
        ]
        self.restore = combined_snapshot(self.snapshots)()
        self.autocast = AutocastState.current(next(iter(self.tensors.values())).device.type)
        self.upstream: list[Tensor | None] = []
        run_with_cleanup(lambda: self._draw_upstream(seed, other_layout=other_layout), self.restore)

    def __call__(self, copies: VectorizedCopies | None = None) -> object:
        """The products, unreduced; in forward mode, their tangents.

        Args:
            copies: K copies of the tensors, for products of shape (K, ...); None for those of the tensors themselves.
        """
        with torch.no_grad(), self.autocast.enter_again(), eager():
            products = self._products() if copies is None else copies.losses(self._products)
            return to_host(result_in_active_mode(products))

    def gradients(self) -> list[dict[str, Tensor]]:
        """The gradients of the products by two backward passes through one graph, by name."""

        def differentiate() -> list[dict[str, Tensor]]:
            with torch.enable_grad():
                roots, upstream = zip(*self.paired(self.outputs()), strict=True)
                return [self._backward(roots, upstream) for _ in range(2)]

        return run_with_cleanup(differentiate, self.restore)

    def outputs(self) -> list[Tensor]:
        """The tensors that the module returns."""
        return tensors_in(self._module(*self._args))

    def paired(self, outputs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The differentiable outputs, each with its upstream gradient."""
        pairs = zip(outputs, self.upstream, strict=True)
        return [(output, upstream) for output, upstream in pairs if upstream is not None]

    def _backward(self, roots: Sequence[Tensor], upstream: Sequence[Tensor]) -> dict[str, Tensor]:
        found = torch.autograd.grad(roots, list(self.tensors.values()), upstream, allow_unused=True, retain_graph=True)
        return {
            name: torch.zeros_like(tensor) if gradient is None else gradient.to_dense().clone()
            for (name, tensor), gradient in zip(self.tensors.items(), found, strict=True)
        }

    def _draw_upstream(self, seed: int, *, other_layout: bool) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.enable_grad(), eager():
            for output in self.outputs():
                drawn = torch.randn(output.shape, generator=generator).to(output) if output.requires_grad else None
                self.upstream.append(relaid(drawn) if other_layout and drawn is not None else drawn)
        if all(upstream is None for upstream in self.upstream):
            raise ValueError("no output of the module depends on a parameter or an input that requires a gradient")

    def _products(self) -> Tensor:
        return torch.cat([product(output, upstream) for output, upstream in self.paired(self.outputs())])


def _check(call: ModuleCall, options: CheckOptions, nondet_tol: float) -> Report:
    """The check of a call, with the Functions in it that are wrong where its gradients are."""
    gradients, again = call.gradients()
    params = Parameters(call.tensors, call.state.constant, written=call.state.written)
    params.autocast = coarsest([call.autocast.dtype, *(it.dtype for it in call.upstream if it is not None)])
    options = dataclasses.replace(options, snapshot=call.snapshots)
    report = checked(params, HostArrays(gradients), call, options)
    report = _with_repetition(report, gradients, again, nondet_tol)
    if not report.verdict.is_bug:
        return report
    functions = FunctionChecks()
    found = run_with_cleanup(
        lambda: functions.check(lambda recorder: recorder.record(call.outputs, call.paired)), call.restore
    )
    return with_functions(report, found, functions.hooks)


def _with_repetition(
    report: Report, gradients: Mapping[str, Tensor], again: Mapping[str, Tensor], nondet_tol: float
) -> Report:
    """The report, where a gradient that agrees is nondeterministic if a second backward pass returns another one."""
    tensors = dict(report.tensors)
    for name, tensor in report.tensors.items():
        off = float((gradients[name] - again[name]).abs().max()) if gradients[name].numel() else 0.0
        if off > nondet_tol and not tensor.verdict.is_bug:
            said = (
                f"a second backward pass through the same graph returns another gradient, off by up to {off:.2g}: the "
                "backward pass writes to what the forward pass saved, or its kernel is nondeterministic (nondet_tol)"
            )
            tensors[name] = dataclasses.replace(tensor, verdict=Verdict.nondeterministic, explanation=said, cause="")
    if tensors == report.tensors:
        return report
    return dataclasses.replace(
        report, tensors=tensors, verdict=worst_verdict(tensors), explanation=summary(tensors, report.step)
    )


def _relaid(value: Any) -> Any:
    """A floating tensor in another memory layout; anything else itself."""
    if not isinstance(value, Tensor) or not can_be_relaid(value):
        return value
    return relaid(value).requires_grad_(value.requires_grad)


def _own(tensor: Tensor) -> Tensor:
    """A copy that the check may move, each entry by itself where it requires a gradient."""
    own = tensor.detach().contiguous() if tensor.requires_grad and shares_memory(tensor) else tensor
    return copied(own).requires_grad_(tensor.requires_grad)


def _input_names(module: nn.Module, count: int) -> list[str]:
    """What the inputs are called, as in "input 0 (`x`)"."""
    return named_inputs(list(inspect.signature(module.forward).parameters.values()), count)


def _require_checkable(tensors: Mapping[str, Tensor]) -> None:
    """Refuse a module of which nothing can be checked.

    Raises:
        TypeError: A tensor has a dtype that cannot be checked.
        ValueError: There is none.
    """
    if not tensors:
        raise ValueError(
            "nothing to check: no parameter of the module and no input requires a gradient; expected "
            "inputs such as torch.randn(4, 5, requires_grad=True)"
        )
    for name, tensor in tensors.items():
        if tensor.dtype not in PERTURBABLE_DTYPES:
            raise TypeError(f"{name} has dtype {tensor.dtype}; expected float16, bfloat16, float32 or float64")
