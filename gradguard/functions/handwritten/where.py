"""Where a backward pass is wrong: for the cotangents of which outputs, and at which calls."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from gradguard.checks.check import CheckOptions, explanation_of
from gradguard.diagnosis import worst_verdict
from gradguard.functions.handwritten.call import Call, CheckedCall, checked_call
from gradguard.functions.handwritten.structure import output_names
from gradguard.report import FunctionReport, Report, TensorReport, Verdict, counted, listed

MAX_CALLS = (
    40  # of a function that are checked: that of an LSTM step takes about 180 evaluations, or 300 if it is wrong
)


def with_outputs(call: Call, report: Report, wrong: Sequence[str], options: CheckOptions) -> Report:
    """The report of a call, with the outputs for which some tensors are wrong, as checks of each output alone show."""
    names = output_names(call.pair.backward, len(call.cotangents))
    alone = {name: call.of_output(index) for index, name in enumerate(names)}
    alone = {name: single for name, single in alone.items() if not single.is_zero}
    if not wrong or len(alone) < 2:
        return report
    reports = {name: checked_call(single, options).report for name, single in alone.items()}
    tensors = {
        name: with_cause(tensor, _by_output({output: each.tensors.get(name) for output, each in reports.items()}))
        if name in wrong
        else tensor
        for name, tensor in report.tensors.items()
    }
    evaluations = report.evaluations + sum(each.evaluations for each in reports.values())
    seconds = report.seconds + sum(each.seconds for each in reports.values())
    return dataclasses.replace(report, tensors=tensors, evaluations=evaluations, seconds=seconds)


def with_cause(tensor: TensorReport, sentence: str) -> TensorReport:
    """The report of a tensor with a further clause in its cause."""
    return dataclasses.replace(tensor, cause="; ".join(filter(None, [tensor.cause, sentence])))


def _by_output(tensors: Mapping[str, TensorReport | None]) -> str:
    """As in "numerical = 2 x backprop for cotangents of h; right for those of c"."""
    groups: dict[str, list[str]] = {}
    found = {output: tensor for output, tensor in tensors.items() if tensor is not None}  # else there is no gradient
    for output, tensor in sorted(found.items(), key=lambda item: -item[1].verdict.level):
        groups.setdefault(_short(tensor), []).append(output)
    if list(groups) == ["right"]:
        return "right for the cotangents of each output alone: backward is not linear in its cotangents"
    first, *others = (f"{what} for {{}} of {listed(outputs)}" for what, outputs in groups.items())
    return "; ".join([first.format("cotangents"), *(clause.format("those") for clause in others)])


def _short(tensor: TensorReport) -> str:
    """What is said of the gradient of a tensor in a few words."""
    if tensor.verdict.is_factor:
        return f"numerical = {tensor.ratio:.5g} x backprop"
    if tensor.verdict.is_bug:
        return "wrong" if tensor.verdict is Verdict.structure else tensor.verdict.words
    return "right" if tensor.verdict.is_bug is False else f"not certain ({tensor.verdict.words})"


def checked_calls(calls: Mapping[int, Call], total: int, unit: str, options: CheckOptions) -> Report:
    """The check of several calls of one function, in the order of the backward pass: the last call first.

    Args:
        calls: The calls to check, by their index in the order of the forward pass.
        total: How many calls there were.
        unit: What an index counts, such as "timestep".
        options: The options of the checks.
    """
    checked: dict[int, CheckedCall] = {}
    known: set[str] = set()  # tensors that are wrong at a call after this one
    for index in sorted(calls, reverse=True):
        checked[index] = checked_with_outputs(calls[index], known, options)
    return merged(checked, total, unit)


def checked_with_outputs(call: Call, known: set[str], options: CheckOptions) -> CheckedCall:
    """The check of one call, with the outputs for which a tensor is wrong that was right so far.

    Args:
        call: The call.
        known: The tensors that are known to be wrong; takes those of this call.
        options: The options of the check.
    """
    checked = checked_call(call, options)
    tensors = checked.report.tensors
    entering = [name for name, tensor in tensors.items() if tensor.verdict.is_bug and name not in known]
    known.update(entering)
    report = with_outputs(call, checked.report, entering, options)
    return dataclasses.replace(checked, report=report)


def merged(checked: Mapping[int, CheckedCall], total: int, unit: str) -> Report:
    """One report of several calls: of each tensor, that of the call at which it is wrong first in the backward pass.

    Args:
        checked: The checks by the index of the call, in the order of the backward pass.
        total: How many calls there were.
        unit: What an index counts.
    """
    reports = {index: each.report for index, each in checked.items()}
    names = dict.fromkeys(name for report in reports.values() for name in report.tensors)
    by_tensor = {
        name: {index: report.tensors[name] for index, report in reports.items() if name in report.tensors}
        for name in names
    }
    where = {name: _where(tensors, total, unit) for name, tensors in by_tensor.items()}
    tensors = {name: with_cause(_gravest(each.values()), where[name]) for name, each in by_tensor.items()}
    last = next(iter(reports.values()))
    return dataclasses.replace(
        last,
        verdict=worst_verdict(tensors),
        tensors=tensors,
        precision="float64" if all(report.precision == "float64" for report in reports.values()) else "native",
        evaluations=sum(report.evaluations for report in reports.values()),
        seconds=sum(report.seconds for report in reports.values()),
        explanation=" ".join([explanation_of(tensors, last.step), *notes_of(checked, total, unit)]),
        screened=sum(tensor.screened_at == last.step for tensor in tensors.values()),
        functions=tuple(FunctionReport(f"{unit} {index}", 1, report) for index, report in reports.items() if total > 1),
    )


def notes_of(checked: Mapping[int, CheckedCall], total: int, unit: str) -> list[str]:
    """How many calls were checked, and what of them was not, in sentences."""
    count = [f"{len(checked)} of {counted(total, unit)} checked."] if total > 1 else []
    return [*count, *dict.fromkeys(note for each in checked.values() for note in each.notes)]


def _gravest(tensors: Iterable[TensorReport]) -> TensorReport:
    """The gravest of some reports of one tensor; the first of equally grave ones."""
    return max(tensors, key=lambda tensor: tensor.verdict.level)


def _where(tensors: Mapping[int, TensorReport], total: int, unit: str) -> str:
    """As in "wrong at timesteps 0 to 11, right at 12; the error enters at timestep 11"."""
    wrong = [index for index, tensor in tensors.items() if tensor.verdict.is_bug]
    right = [index for index, tensor in tensors.items() if tensor.verdict.is_bug is False]
    unsure = [index for index, tensor in tensors.items() if tensor.verdict.is_bug is None]
    if not wrong or total == 1:
        return ""
    if len(wrong) == len(tensors):
        which = f"wrong at every {unit}" if len(tensors) == total else f"wrong at every {unit} that was checked"
        return f"{which}, first at {unit} {wrong[0]}"
    others = (("right", right), ("not certain", unsure))
    parts = [f"{what} at {spans(indices)}" for what, indices in others if indices]
    plural = unit if len(wrong) == 1 else f"{unit}s"
    return f"wrong at {plural} {spans(wrong)}, {', '.join(parts)}; the error enters at {unit} {wrong[0]}"


def spans(indices: Sequence[int]) -> str:
    """Whole numbers in words, as in "0 to 4, 7 and 9"."""
    rows: list[list[int]] = []
    for index in sorted(indices):
        if rows and rows[-1][-1] == index - 1:
            rows[-1].append(index)
        else:
            rows.append([index])
    words = [[f"{row[0]} to {row[-1]}"] if len(row) > 2 else list(map(str, row)) for row in rows]
    return listed([word for row in words for word in row])


def evenly_chosen(total: int) -> list[int]:
    """The indices of the calls to check: all, or `MAX_CALLS` with the first and the last among them."""
    if total <= MAX_CALLS:
        return list(range(total))
    return sorted({round(index * (total - 1) / (MAX_CALLS - 1)) for index in range(MAX_CALLS)})
