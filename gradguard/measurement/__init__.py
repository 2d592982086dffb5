"""The measurement of one tensor: precision, steps, confirmation and error bars."""

from gradguard.measurement.confirmation import confirm_measurement, is_confirmed_at_short_steps
from gradguard.measurement.context import Derivative, MeasurementContext, ProvenSetup
from gradguard.measurement.measured import PILOTS, Measured, ProbePlan, TensorMeasurement
from gradguard.measurement.precision import CheckTarget, Precision, require_precision
from gradguard.measurement.step_search import measured_at_best_steps
from gradguard.measurement.tensor import TensorUnderTest

__all__ = [
    "PILOTS",
    "CheckTarget",
    "Derivative",
    "Measured",
    "MeasurementContext",
    "Precision",
    "ProbePlan",
    "ProvenSetup",
    "TensorMeasurement",
    "TensorUnderTest",
    "confirm_measurement",
    "is_confirmed_at_short_steps",
    "measured_at_best_steps",
    "require_precision",
]
