"""Four-point differences of the loss: step size, rounding noise, truncation and kinks."""

from gradguard.differences.four_point import (
    MARGIN,
    NOISE_OF_NUMERICAL,
    NOISE_OF_TRUNCATION,
    FourPoint,
    measure_each,
    measuring,
)
from gradguard.differences.kinks import jumps
from gradguard.differences.noise import Noise, noise_search
from gradguard.differences.step_size import TARGET_Z3, TOO_LONG_Z3, Steps, better_step, dithered, next_step

__all__ = [
    "MARGIN",
    "NOISE_OF_NUMERICAL",
    "NOISE_OF_TRUNCATION",
    "TARGET_Z3",
    "TOO_LONG_Z3",
    "FourPoint",
    "Noise",
    "Steps",
    "better_step",
    "dithered",
    "jumps",
    "measure_each",
    "measuring",
    "next_step",
    "noise_search",
]
