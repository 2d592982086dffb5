"""A training step whose functions with a derivative rule can be checked one by one."""

from collections.abc import Sequence

from gradguard.integrations.jax.functions.checks import check_rules
from gradguard.integrations.jax.steps import Step
from gradguard.report import FunctionReport


class TrainingStep(Step):
    """One training step as a check sees it; it knows the functions with a derivative rule: `CallsFunctions`."""

    def check_functions(self) -> Sequence[FunctionReport]:  # noqa: D102 - as in CallsFunctions
        loss, others = self.call
        return check_rules(loss, list(self.leaves.values()), others)
