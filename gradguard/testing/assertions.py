"""A gradient check as an assertion, for users' own tests."""

from collections.abc import Iterable, Mapping

from gradguard.arrays.named_blocks import Blocks
from gradguard.checks.check import check
from gradguard.loss.signature import Loss
from gradguard.perturbation.snapshots import Snapshot
from gradguard.report.results import Report
from gradguard.report.verdict import Verdict


def assert_gradients(
    params: Mapping[str, object],
    grads: Mapping[str, object],
    loss: Loss,
    *,
    constants: Mapping[str, float] | None = None,
    blocks: Blocks | None = None,
    reduction: str | None = None,
    precision: str = "auto",
    snapshot: Snapshot | Iterable[Snapshot] | None = None,
    entries: int | None = None,
    seed: int = 0,
    allow_inconclusive: bool = False,
) -> Report:
    """Assert that the gradients are those of the loss; all but the last argument are those of `gradguard.check`.

    Args:
        params: The parameters by name.
        grads: Their gradients, by the same names.
        loss: `loss()` or `loss(params)`.
        constants: Numbers of the training by name, to name a ratio after.
        blocks: Named parts of tensors.
        reduction: "sum" or "mean", when the loss returns an array.
        precision: "native", "float64" or "auto".
        snapshot: Captures state that an evaluation of the loss disturbs, and returns what puts it back.
        entries: How many entries of a tensor to measure at most.
        seed: Of the probes.
        allow_inconclusive: Whether the assertion holds where a check cannot tell, because the loss is too noisy or has
            too many kinks: a test that cannot fail is no test. A loss that does not repeat never holds.

    Returns:
        The report.

    Raises:
        AssertionError: A gradient is wrong, or it cannot be told; the message holds the report.
        TypeError: As of `gradguard.check`.
        ValueError: As of `gradguard.check`.
    """
    __tracebackhide__ = True  # pytest then shows the line of the test
    report = check(
        params,
        grads,
        loss,
        constants=constants,
        blocks=blocks,
        reduction=reduction,
        precision=precision,
        snapshot=snapshot,
        entries=entries,
        seed=seed,
    )
    complaint = _complaint(report, allow_inconclusive)
    if complaint:
        raise AssertionError(f"{complaint}\n{report}")
    return report


def _complaint(report: Report, allow_inconclusive: bool) -> str:
    """What a test should fail for, in a line; "" where it should pass."""
    wrong = [name for name, tensor in report.tensors.items() if tensor.verdict.is_bug]
    if wrong:
        return f"the gradient of {', '.join(wrong)} is wrong"
    unclear = {name: tensor for name, tensor in report.tensors.items() if tensor.verdict.is_bug is None}
    if any(tensor.verdict is Verdict.nondeterministic for tensor in unclear.values()):
        return "the loss does not repeat, so that no gradient of it can be checked"
    if unclear and not allow_inconclusive:
        return (
            f"it cannot be told whether the gradient of {', '.join(unclear)} is right (allow_inconclusive=True passes)"
        )
    return ""
