"""A training step whose functions with a derivative rule can be checked one by one."""

from collections.abc import Sequence

from gradguard.functions import unchecked
from gradguard.integrations.jax.functions.checks import check_rules
from gradguard.integrations.jax.steps import Step
from gradguard.loss import try_twice
from gradguard.report import FunctionReport


class TrainingStep(Step):
    """One training step as a check sees it; it knows the functions with a derivative rule: `CallsFunctions`."""

    def check_functions(self) -> Sequence[FunctionReport]:  # noqa: D102 - as in CallsFunctions
        loss, others = self.call
        reports = try_twice(lambda: check_rules(loss, list(self.leaves.values()), others))
        if isinstance(reports, Exception):
            return [
                FunctionReport("the functions of the loss", 0, unchecked(f"recording their calls raises {reports!r}"))
            ]
        return reports
