"""Four-point differences of the loss: step size, rounding noise, truncation and kinks."""

from gradguard.differences.four_point import (
    MARGIN,
    NOISE_OF_FIVE,
    NOISE_OF_NUMERICAL,
    NOISE_OF_TRUNCATION,
    FourPoint,
    measure_along,
    measuring,
)
from gradguard.differences.kinks import jumps
from gradguard.differences.noise import Noise, estimate_noise
from gradguard.differences.rounding import FLOAT64_UNIT, Comparison, RoundedValue, require_one_number
from gradguard.differences.step_size import TARGET_Z3, TOO_LONG_Z3, TOO_LONG_Z4, Steps, better_step, dithered, next_step

__all__ = [
    "FLOAT64_UNIT",
    "MARGIN",
    "NOISE_OF_FIVE",
    "NOISE_OF_NUMERICAL",
    "NOISE_OF_TRUNCATION",
    "TARGET_Z3",
    "TOO_LONG_Z3",
    "TOO_LONG_Z4",
    "Comparison",
    "FourPoint",
    "Noise",
    "RoundedValue",
    "Steps",
    "better_step",
    "dithered",
    "estimate_noise",
    "jumps",
    "measure_along",
    "measuring",
    "next_step",
    "require_one_number",
]
