"""A gradient check as an assertion, for users' own tests."""

from collections.abc import Iterable, Mapping

from gradguard.arrays import Blocks
from gradguard.checks.check import check
from gradguard.containers import ArrayContainer
from gradguard.loss import Loss
from gradguard.perturbation import Snapshot
from gradguard.report import Report, Verdict


def assert_gradients(
    params: ArrayContainer,
    grads: ArrayContainer,
    loss: Loss,
    *,
    value: object = None,
    constants: Mapping[str, float] | None = None,
    blocks: Blocks | None = None,
    reduction: str | None = None,
    precision: str = "auto",
    snapshot: Snapshot | Iterable[Snapshot] | None = None,
    entries: int | str | None = None,
    expected: Mapping[str, str] | None = None,
    seed: int = 0,
    allow_inconclusive: bool = False,
) -> Report:
    """Assert that the gradients are those of the loss; only the last argument is not one of `gradguard.check`.

    Args:
        params: The parameters by name, or in another container of arrays.
        grads: Their gradients, in a container of the same form.
        loss: `loss()` or `loss(params)`.
        value: The loss that was computed together with the gradients.
        constants: Numbers of the training by name, to identify a ratio with.
        blocks: Named parts of tensors.
        reduction: "sum" or "mean", when the loss returns an array.
        precision: "native", "float64" or "auto".
        snapshot: Captures state that an evaluation of the loss changes, and returns a function that restores it.
        entries: How many entries of each tensor to measure, or "all"; a few by default.
        expected: The tensors whose gradient differs on purpose, each with the reason; they pass.
        seed: The seed that draws the probes.
        allow_inconclusive: Whether to pass if the check cannot tell, because the loss is too noisy or has too many
            kinks. The default is to fail, since a test that cannot fail is no test. A nondeterministic loss always
            fails, and so does one that is not the loss of `value`.

    Returns:
        The report.

    Raises:
        AssertionError: A gradient is wrong, or the check cannot tell; the message holds the report.
        TypeError: An argument has a type that `gradguard.check` refuses.
        ValueError: An argument has a value that `gradguard.check` refuses.
    """
    __tracebackhide__ = True  # so that pytest shows the line of the test
    report = check(
        params,
        grads,
        loss,
        value=value,
        constants=constants,
        blocks=blocks,
        reduction=reduction,
        precision=precision,
        snapshot=snapshot,
        entries=entries,
        expected=expected,
        seed=seed,
    )
    failure = _failure(report, allow_inconclusive)
    if failure:
        raise AssertionError(f"{failure}\n{report}")
    return report


def _failure(report: Report, allow_inconclusive: bool) -> str:
    """Why the test fails, in a line; "" if it passes."""
    wrong = [name for name, tensor in report.tensors.items() if tensor.verdict.is_bug]
    if wrong:
        return f"the gradient of {', '.join(wrong)} is wrong"
    unclear = {name: tensor for name, tensor in report.tensors.items() if tensor.verdict.is_bug is None}
    if any(tensor.verdict is Verdict.nondeterministic for tensor in unclear.values()):
        return "the loss is not deterministic, so its gradient cannot be checked"
    if any(tensor.verdict is Verdict.other_loss for tensor in unclear.values()):
        return "the gradient belongs to another loss than the one it was checked against"
    if unclear and not allow_inconclusive:
        names = ", ".join(unclear)
        return f"the check cannot tell whether the gradient of {names} is right (allow_inconclusive=True accepts this)"
    return ""
