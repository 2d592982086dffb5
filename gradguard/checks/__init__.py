"""One check of some tensors: preflight, measure, diagnose; and the routine check during a training."""

from gradguard.checks.check import CheckPlan, check_tensors, report_of
from gradguard.checks.effort import ENTRIES, IN_DOUBT, LEAST, Deadline, Effort
from gradguard.checks.preflight import nondeterministic
from gradguard.checks.screen import probe_tensors
from gradguard.checks.streams import TensorState

__all__ = [
    "ENTRIES",
    "IN_DOUBT",
    "LEAST",
    "CheckPlan",
    "Deadline",
    "Effort",
    "TensorState",
    "check_tensors",
    "nondeterministic",
    "probe_tensors",
    "report_of",
]
