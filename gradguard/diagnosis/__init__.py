"""From what was measured of a tensor to its verdict, its cause and the sentences of a report."""

from gradguard.diagnosis.across_tensors import (
    revise_across_tensors,
    summary,
    unmeasured,
    unmeasured_tensor,
    worst_verdict,
)
from gradguard.diagnosis.causes.symptoms import Surroundings
from gradguard.diagnosis.classify import diagnose_tensor
from gradguard.diagnosis.evidence import Evidence, Method
from gradguard.diagnosis.explain import SMALL_ERROR
from gradguard.diagnosis.from_arrays import diagnose, float_text, units_of_texts
from gradguard.diagnosis.known_factors import History, Observation

__all__ = [
    "SMALL_ERROR",
    "Evidence",
    "History",
    "Method",
    "Observation",
    "Surroundings",
    "diagnose",
    "diagnose_tensor",
    "float_text",
    "revise_across_tensors",
    "summary",
    "units_of_texts",
    "unmeasured",
    "unmeasured_tensor",
    "worst_verdict",
]
