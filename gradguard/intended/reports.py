"""What a report says of a gradient that is declared to differ."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from gradguard.diagnosis import SMALL_ERROR, Evidence, unmeasured_tensor
from gradguard.intended.changes import CHANGED
from gradguard.intended.declared import Declared
from gradguard.report import BlockReport, TensorReport, Verdict, listed

# A gradient with nan is no other gradient. A check that measured nothing has found no difference.
NEVER_EXPECTED = (Verdict.nonfinite, Verdict.nondeterministic, Verdict.other_loss)


def diagnose_declared(
    evidence: Evidence, diagnose: Callable[[Evidence], TensorReport], declared: Declared | None
) -> TensorReport:
    """The report of a tensor of which something may be declared.

    Args:
        evidence: What was measured. Where blocks are declared, its directions move only the other entries.
        diagnose: Makes the report of a tensor of which nothing is declared.
        declared: What is declared of the tensor; None for nothing.
    """
    report = diagnose(evidence)
    if declared is None or not declared.blocks:
        return as_declared(report, declared)
    rest = diagnose(_without(evidence, declared))
    blocks = {name: _block(block) if name in declared.blocks else block for name, block in report.blocks.items()}
    if not rest.verdict.agrees:
        return dataclasses.replace(
            rest, blocks=blocks, entries=report.entries, ratios=report.ratios, expected=declared.reason
        )
    part = as_declared(report, Declared(declared.reason))
    if part.verdict is not Verdict.expected:
        return part
    says = f"{part.explanation}; the other blocks agree: {rest.explanation}"
    return dataclasses.replace(part, blocks=blocks, explanation=says)


def as_declared(report: TensorReport, declared: Declared | None) -> TensorReport:
    """The report of a tensor, seen as one that is declared to differ as a whole, if it is."""
    if declared is None or not declared.whole or report.verdict in NEVER_EXPECTED:
        return report
    why = f"expected to differ ({declared.whole})"
    if report.verdict.agrees and report.cause_key != SMALL_ERROR:
        return dataclasses.replace(
            report, explanation=f"{report.explanation}; {why}, but agrees", expected=declared.whole
        )
    return dataclasses.replace(
        report,
        verdict=Verdict.expected,
        explanation=f"{why}: {report.explanation}",
        cause="",
        cause_key=f"{Verdict.expected}:{report.verdict}",
        blocks={name: _block(block) for name, block in report.blocks.items()},
        expected=declared.whole,
    )


def not_measured(name: str, shape: tuple[int, ...], declared: Declared) -> TensorReport:
    """The report of a declared tensor that there was no time to measure."""
    says = "not measured yet, for lack of time"
    if declared.whole:
        report = unmeasured_tensor(name, shape, Verdict.expected, f"expected to differ ({declared.whole}), {says}", "")
    else:
        cause = f"its other blocks are measured separately, since {listed(list(declared.blocks))} may differ"
        report = unmeasured_tensor(name, shape, Verdict.inconclusive, says, cause)
    return dataclasses.replace(report, expected=declared.reason, deep=False)


def remeasured(examined: TensorReport, own: TensorReport) -> TensorReport:
    """The report of a declared tensor of which a few probes show nothing new since it was examined.

    Args:
        examined: Its last report.
        own: What the probes tell, if nothing were declared.
    """
    date = f", as examined at step {examined.measured_at}" if examined.deep else ""
    return dataclasses.replace(
        own,
        verdict=examined.verdict,
        explanation=f"{examined.explanation}{date}",
        cause=examined.cause,
        cause_key=examined.cause_key,
        faulty_block=examined.faulty_block,
        blocks=examined.blocks,
        factors=examined.factors,
        expected=examined.expected,
    )


def expected_sentence(tensors: Mapping[str, TensorReport]) -> str:
    """Which tensors differ as declared, and which do not although they may; "" where nothing is declared."""
    declared = [tensor for tensor in tensors.values() if tensor.expected]
    differing = [tensor for tensor in declared if tensor.verdict is Verdict.expected]
    kinds = {
        "Expected to differ": [tensor for tensor in differing if tensor.cause_key != CHANGED],
        "Expected to differ, but the difference has changed": [one for one in differing if one.cause_key == CHANGED],
        "Expected to differ, but right": [tensor for tensor in declared if tensor.verdict.agrees],
    }
    return " ".join(f"{lead}: {_with_reasons(which)}." for lead, which in kinds.items() if which)


def _with_reasons(tensors: Iterable[TensorReport]) -> str:
    return listed([f"{tensor.name} ({tensor.expected})" for tensor in tensors])


def _without(evidence: Evidence, declared: Declared) -> Evidence:
    """The evidence on the entries outside the declared blocks."""
    inside = [evidence.blocks[name] for name in declared.blocks]
    kept = ~np.logical_or.reduce(inside)
    return dataclasses.replace(
        evidence,
        entries=evidence.entries.where(kept),
        index=tuple(index for index, keeps in zip(evidence.index, kept, strict=True) if keeps),
        blocks={name: mask[kept] for name, mask in evidence.blocks.items() if name not in declared.blocks},
    )


def _block(block: BlockReport) -> BlockReport:
    """A declared block: expected where it is wrong."""
    return dataclasses.replace(block, verdict=Verdict.expected) if block.verdict.is_bug else block
