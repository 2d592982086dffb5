"""The calls of hand-written functions during a training step, checked with the cotangents that really occur."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from gradguard.checks.check import CheckOptions
from gradguard.containers import ArrayContainer
from gradguard.diagnosis import summary, worst_verdict
from gradguard.functions.culprits import function_sentence
from gradguard.functions.handwritten import Gradients
from gradguard.functions.traced.patching import Patch, patched
from gradguard.functions.traced.recorded import TracedFunction, WrongCall
from gradguard.perturbation import Snapshot
from gradguard.report import FunctionReport, Report


class BackwardTrace:
    """The functions that `trace_backward` watches, and what their checks found.

    Attributes:
        first_wrong: The first call in the order of the backward pass at which a gradient is wrong; None if none is.
    """

    def __init__(self, functions: Sequence[TracedFunction], found: list[WrongCall]) -> None:
        self._traced = functions
        self._found = found
        self._patches: list[Patch] = []

    def __enter__(self) -> Self:
        try:
            for each in self._traced:
                self._patches.append(patched(each.owner, each.forward, each.call_forward))
                self._patches.append(patched(each.owner, each.backward, each.call_backward))
        except BaseException:
            self._undo()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo()
        for each in self._traced:
            each.forget()

    def _undo(self) -> None:
        while self._patches:
            self._patches[-1].undo()
            self._patches.pop()

    @property
    def first_wrong(self) -> WrongCall | None:  # noqa: D102 - as above
        return next(iter(self._found), None)

    @property
    def functions(self) -> tuple[FunctionReport, ...]:
        """The check of each function; those that are wrong first, in the order in which backpropagation meets them."""
        met = list(dict.fromkeys(wrong.function for wrong in self._found))
        reports = [FunctionReport(each.name, each.calls, each.report()) for each in self._traced]
        return tuple(sorted(reports, key=lambda each: met.index(each.name) if each.name in met else len(met)))

    @property
    def report(self) -> Report:
        """All functions together; the tensors of several are named with the function before them."""
        functions = self.functions
        reports = [function.report for function in functions]
        prefixes = [f"{function.name}." if len(functions) > 1 else "" for function in functions]
        tensors = {
            f"{prefix}{name}": dataclasses.replace(tensor, name=f"{prefix}{name}")
            for prefix, report in zip(prefixes, reports, strict=True)
            for name, tensor in report.tensors.items()
        }
        first = [f"The first wrong gradient of the backward pass: {self.first_wrong}."] if self.first_wrong else []
        if len(functions) == 1:
            explanation = [reports[0].explanation]
        else:
            notes = [f"{each.name}: {note}" for each in self._traced for note in each.notes()]
            explanation = [summary(tensors, 0), *notes]
        return dataclasses.replace(
            reports[0],
            verdict=worst_verdict(tensors),
            tensors=tensors,
            evaluations=sum(report.evaluations for report in reports),
            seconds=sum(report.seconds for report in reports),
            explanation=" ".join([*first, *explanation]),
            screened=sum(report.screened for report in reports),
            functions=functions,
        )

    def __str__(self) -> str:
        report = self.report
        wrong = [f"{function_sentence(report.functions)}."] if report.verdict.is_bug else []
        return "\n".join([*wrong, str(report)])


def trace_backward(
    owner: object,
    *names: str,
    cache: bool | None = None,
    params: ArrayContainer | None = None,
    grads: Gradients | None = None,
    precision: str = "auto",
    snapshot: Snapshot | Iterable[Snapshot] | None = None,
    expected: Mapping[str, str] | None = None,
    seed: int = 0,
) -> BackwardTrace:
    """Check hand-written functions as a training calls them, with the inputs and cotangents that really occur.

    `with trace_backward(model, "step_forward", "step_backward") as traced:` watches the calls within the block. Each
    call of the backward function is checked before it is made, at most 40 of a function, and the training goes on as if
    nothing had happened. `traced.first_wrong` is where a wrong gradient enters the backward pass.

    Args:
        owner: The object, class or module of which the functions are attributes, as the training looks them up.
        names: The names of a forward function and of its backward function, then those of the next pair.
        cache: As in `check_backward`. A backward call belongs to the forward call that returned its cache; without
            one, to the last forward call that has none yet.
        params: As in `check_backward`, for one pair.
        grads: As in `check_backward`, for one pair.
        precision: As in `check`.
        snapshot: As in `check`.
        expected: As in `check`, for one pair.
        seed: The seed of the probes.

    Returns:
        The trace, which is the context. Its `report`, `functions` and `first_wrong` are complete after the block.

    Raises:
        ValueError: The names are no pairs, or an option is for one pair and there are several.
    """
    if not names or len(names) % 2:
        raise ValueError(
            f"the names given are {names}; expected pairs of the names of a forward and of a backward function"
        )
    if (params is None) != (grads is None):
        raise ValueError("one of params and grads was given; expected both, arrays and their gradients, or neither")
    if len(names) > 2 and (params is not None or expected is not None):
        raise ValueError("params, grads and expected are those of one pair; expected one with block for each pair")
    found = list[WrongCall]()
    options = CheckOptions(precision=precision, snapshot=snapshot, seed=seed, expected=expected)
    pairs = zip(names[::2], names[1::2], strict=True)
    traced = [TracedFunction(owner, *pair, options, cache, params, grads, found) for pair in pairs]
    return BackwardTrace(traced, found)
