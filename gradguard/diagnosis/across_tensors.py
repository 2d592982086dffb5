"""The tensors of a check together: causes that only all of them show, and the summary of the check."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from gradguard.arrays import Array
from gradguard.diagnosis.causes.registry import causes_of_model, hint_of_model
from gradguard.diagnosis.causes.shared import share_one_factor
from gradguard.diagnosis.causes.symptoms import Diagnosis, Model
from gradguard.diagnosis.explain import CHAIN_RULE, ONE_ENTRY, uncertain
from gradguard.diagnosis.known_factors import MAX_RELATIVE_REACH
from gradguard.report import TensorReport, Verdict, listed


def worst_verdict(tensors: Mapping[str, TensorReport]) -> Verdict:
    """The gravest verdict, the first of its level; ok where there are no tensors."""
    return max((tensor.verdict for tensor in tensors.values()), key=lambda verdict: verdict.level, default=Verdict.ok)


def revise_across_tensors(
    tensors: Mapping[str, TensorReport], gradients: Mapping[str, Array]
) -> dict[str, TensorReport]:
    """The reports, revised where only all tensors together show the cause, such as a gradient clipped by its norm.

    Args:
        tensors: The reports of all tensors, by name.
        gradients: Their gradients, by name.
    """
    tensors = _all_revised(tensors, _with_factor_of_others(list(tensors.values())))
    return _all_revised(tensors, causes_of_model(Model(tensors, gradients)))


def _with_factor_of_others(tensors: Sequence[TensorReport]) -> dict[str, Diagnosis]:
    """What is said of tensors of one entry, which show no factor alone, where others show the same one."""
    by_factor = [tensor for tensor in tensors if tensor.verdict.is_factor]
    single = [tensor for tensor in tensors if tensor.cause_key == ONE_ENTRY]
    return {
        tensor.name: Diagnosis(
            key=other.cause_key,
            explanation=(
                f"numerical = {uncertain(tensor.ratio, tensor.ratio_error)} x backprop in its one entry, "
                f"as in {other.name}"
            ),
            cause=other.cause,
            verdict=other.verdict,
        )
        for tensor in single
        for other in by_factor
        if share_one_factor([tensor, other]) and 3 * tensor.ratio_error <= MAX_RELATIVE_REACH * abs(tensor.ratio)
    }


def _all_revised(tensors: Mapping[str, TensorReport], diagnoses: Mapping[str, Diagnosis]) -> dict[str, TensorReport]:
    return {
        name: _revised(tensor, diagnoses[name]) if name in diagnoses else tensor for name, tensor in tensors.items()
    }


def _revised(tensor: TensorReport, diagnosis: Diagnosis) -> TensorReport:
    return dataclasses.replace(
        tensor,
        verdict=diagnosis.verdict or tensor.verdict,
        explanation=diagnosis.explanation,
        cause=diagnosis.cause,
        cause_key=diagnosis.key,
    )


def summary(tensors: Mapping[str, TensorReport], step: int | None = None) -> str:
    """The check in a sentence or two: which tensors are wrong and how, or that rounding and truncation account for all.

    Args:
        tensors: The reports of all tensors, by name.
        step: The step of the check, of which alone numbers are quoted; None where the reports have no dates.
    """
    model = Model(tensors, {})
    if model.wrong:
        hint = hint_of_model(model)
        return " ".join([*_findings(model.wrong), *([_sentence(hint)] if hint else []), *_agreement(model.right)])
    if model.unclear:
        reasons = "; ".join(f"{_names(alike)}: {alike[0].explanation}" for alike in _alike(model.unclear))
        return f"This check cannot tell: {reasons}."
    if not model.right and tensors:
        return "No bug."
    other = "" if len(model.right) == len(tensors) else "other "
    of_now = [tensor for tensor in model.right if tensor.measured_at == step and not math.isnan(tensor.discrepancy)]
    furthest = max(of_now, key=lambda tensor: tensor.discrepancy, default=None)
    if furthest is None or furthest.discrepancy == 0:
        return f"No bug: the {other}gradients agree with the differences of the loss."
    largest = f"largest in {furthest.name}: {furthest.explanation}"
    return f"No bug: rounding and truncation account for every {other}difference ({largest})."


def _findings(wrong: Sequence[TensorReport]) -> list[str]:
    return [f"Gradient bug in {_names(alike)} ({alike[0].verdict}): {_finding(alike)}." for alike in _alike(wrong)]


def _finding(alike: Sequence[TensorReport]) -> str:
    first = alike[0]
    if first.faulty_block and len(alike) > 1:
        return f"wrong only in {first.faulty_block} of each ({first.name}: {first.explanation})"
    if first.cause_key == CHAIN_RULE and len(alike) > 1:
        return "no single factor explains any of them"
    return f"{first.explanation}; {first.cause}"


def _alike(tensors: Iterable[TensorReport]) -> list[list[TensorReport]]:
    """Tensors that share a sentence: the same verdict in the same block, or with a cause of the same wording."""
    groups: dict[tuple[str, str], list[TensorReport]] = {}
    for tensor in tensors:
        shared = tensor.faulty_block or ("" if tensor.cause_key == CHAIN_RULE else tensor.cause)
        groups.setdefault((tensor.verdict, shared), []).append(tensor)
    return list(groups.values())


def _sentence(hint: Diagnosis) -> str:
    return f"{': '.join(filter(None, [hint.explanation, hint.cause]))}."


def _agreement(right: Sequence[TensorReport]) -> list[str]:
    return [f"{_names(right)} {'agrees' if len(right) == 1 else 'agree'}."] if right else []


def _names(tensors: Sequence[TensorReport]) -> str:
    return listed([tensor.name for tensor in tensors])


def unmeasured(
    shapes: Mapping[str, tuple[int, ...]], verdict: Verdict, explanation: str, cause: str, *, cause_key: str = ""
) -> dict[str, TensorReport]:
    """`unmeasured_tensor` of several tensors, by name, given their shapes by name."""
    return {
        name: unmeasured_tensor(name, shape, verdict, explanation, cause, cause_key=cause_key)
        for name, shape in shapes.items()
    }


def unmeasured_tensor(
    name: str,
    shape: tuple[int, ...],
    verdict: Verdict,
    explanation: str,
    cause: str,
    *,
    cause_key: str = "",
    deep: bool = True,
) -> TensorReport:
    """The report of a tensor of which nothing was measured.

    Args:
        name: Its name.
        shape: Its shape.
        verdict: The verdict on it.
        explanation: What was found instead of measurements, in a sentence.
        cause: The likely cause, in a clause; "" where nothing is wrong.
        cause_key: The identifier of the cause; the verdict's name unless given.
        deep: Whether a deep check was to measure it.
    """
    return TensorReport(
        name=name,
        shape=shape,
        verdict=verdict,
        cause=cause,
        explanation=explanation,
        faulty_block="",
        discrepancy=0.0 if verdict is Verdict.ok else math.nan,
        floor=0.0 if verdict is Verdict.ok else math.inf,
        ratio=math.nan,
        ratio_error=math.inf,
        sign_agreement=1.0,
        sign_interval=(0.0, 1.0),
        resolvable=0,
        sampled=0,
        unresolved=0,
        kinks=0,
        coverage=0.0,
        step_size=math.nan,
        noise=math.nan,
        smallest_visible=math.inf,
        deep=deep,
        cause_key=cause_key or (str(verdict) if cause else ""),
    )
