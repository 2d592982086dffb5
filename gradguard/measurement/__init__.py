"""The measurement of one tensor: precision, steps, confirmation and error bars."""

from gradguard.measurement.amplification import amplified
from gradguard.measurement.confirmation import confirm_measurement, is_confirmed_at_short_steps
from gradguard.measurement.context import MOST_REPEATS, Derivative, MeasurementContext, ProvenSetup
from gradguard.measurement.measured import PILOTS, Measured, ProbePlan, TensorMeasurement
from gradguard.measurement.precision import CheckTarget, Precision, require_precision
from gradguard.measurement.step_search import measured_at_best_steps
from gradguard.measurement.tensor import SHORTEST_STEP, Rounding, TensorUnderTest

__all__ = [
    "MOST_REPEATS",
    "PILOTS",
    "SHORTEST_STEP",
    "CheckTarget",
    "Derivative",
    "Measured",
    "MeasurementContext",
    "Precision",
    "ProbePlan",
    "ProvenSetup",
    "Rounding",
    "TensorMeasurement",
    "TensorUnderTest",
    "amplified",
    "confirm_measurement",
    "is_confirmed_at_short_steps",
    "measured_at_best_steps",
    "require_precision",
]
