"""The tensors read together: the gravest verdict, and the check in a sentence."""

import math
from collections.abc import Iterable, Mapping

from gradguard.report import TensorReport
from gradguard.verdict import Verdict


def worst_verdict(tensors: Mapping[str, TensorReport]) -> Verdict:
    """The gravest verdict, the first of its kind; ok where there are no tensors."""
    return max((tensor.verdict for tensor in tensors.values()), key=lambda verdict: verdict.level, default=Verdict.ok)


def summary(tensors: Mapping[str, TensorReport]) -> str:
    """What the check says, in a sentence or two: which tensors are wrong and how, or what float precision explains."""
    wrong = [tensor for tensor in tensors.values() if tensor.verdict.is_bug]
    unclear = [tensor for tensor in tensors.values() if tensor.verdict.is_bug is None]
    right = [tensor.name for tensor in tensors.values() if tensor.verdict.is_bug is False]
    if wrong:
        told = "; ".join(_group(names, alike) for names, alike in _alike(wrong))
        rest = f" {_list(right)} {'agrees' if len(right) == 1 else 'agree'}." if right else ""
        return f"Float precision does not explain it: {told}.{rest}"
    if unclear:
        told = "; ".join(f"{_list(names)}: {alike.explanation}" for names, alike in _alike(unclear))
        return f"This check cannot tell. {told[:1].upper()}{told[1:]}."
    furthest = max(tensors.values(), key=lambda tensor: tensor.discrepancy, default=None)
    if furthest is None or furthest.discrepancy == 0:
        return "No bug: the gradients agree with the differences of the loss."
    return (
        f"No bug: float precision explains every difference (the largest, on {furthest.name}: {furthest.explanation})."
    )


def _alike(tensors: Iterable[TensorReport]) -> list[tuple[list[str], TensorReport]]:
    groups: dict[tuple[str, str], list[TensorReport]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.verdict, tensor.cause), []).append(tensor)
    return [([tensor.name for tensor in group], group[0]) for group in groups.values()]


def _group(names: list[str], alike: TensorReport) -> str:
    return f"{_list(names)}: {alike.verdict}, {alike.explanation}; {alike.cause}"


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def unmeasured(names: Iterable[str], verdict: Verdict, explanation: str, cause: str) -> dict[str, TensorReport]:
    """Reports of tensors of which nothing was measured."""
    return {
        name: TensorReport(
            name=name,
            verdict=verdict,
            cause=cause,
            explanation=explanation,
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
        )
        for name in names
    }
