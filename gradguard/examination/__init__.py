"""Single tensors: examined with many entries and directions, or followed with a few from check to check."""

from gradguard.examination.effort import ENTRIES, EXPLAIN, EXPLAIN_DRIFT, Deadline, Effort
from gradguard.examination.examine import KnownSteps
from gradguard.examination.own_numbers import probe_tensor
from gradguard.examination.preflight import (
    IN_STEPS,
    REBOUND,
    REPEATS_BEFORE,
    detached,
    independent,
    nondeterministic,
    other_loss,
    rebound,
    repeats_needed,
    unmeasurable,
    with_exception_of_loss,
)
from gradguard.examination.tensor_state import TensorState
from gradguard.examination.tensors import SIDE_BY_SIDE, CheckPlan, Known, check_tensors

__all__ = [
    "ENTRIES",
    "EXPLAIN",
    "EXPLAIN_DRIFT",
    "IN_STEPS",
    "REBOUND",
    "REPEATS_BEFORE",
    "SIDE_BY_SIDE",
    "CheckPlan",
    "Deadline",
    "Effort",
    "Known",
    "KnownSteps",
    "TensorState",
    "check_tensors",
    "detached",
    "independent",
    "nondeterministic",
    "other_loss",
    "probe_tensor",
    "rebound",
    "repeats_needed",
    "unmeasurable",
    "with_exception_of_loss",
]
