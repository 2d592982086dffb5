"""Statistics of numerical and backprop derivatives: pure functions over arrays."""

from gradguard.statistics.discrepancy import discrepancy_of, norm
from gradguard.statistics.pairs import EXPLAINED_FLOORS, NEGLIGIBLE_N, DerivativePairs, explained_by
from gradguard.statistics.ratio import Ratio, fit_ratio
from gradguard.statistics.rules import ALARM_Z, DEFAULT_RULES, Rules
from gradguard.statistics.sequential import Detector, ShiftDetectors, alarm_level
from gradguard.statistics.weighing import WeighedRatios

__all__ = [
    "ALARM_Z",
    "DEFAULT_RULES",
    "EXPLAINED_FLOORS",
    "NEGLIGIBLE_N",
    "DerivativePairs",
    "Detector",
    "Ratio",
    "Rules",
    "ShiftDetectors",
    "WeighedRatios",
    "alarm_level",
    "discrepancy_of",
    "explained_by",
    "fit_ratio",
    "norm",
]
