"""The guard of a training: when it checks, what it alerts, and what a checkpoint keeps of it."""

from gradguard.training.alerts import GradientError
from gradguard.training.callback import CloseOnExit, GradGuard, require_options
from gradguard.training.ranks import SINGLE_PROCESS, Ranks
from gradguard.training.schedule import make_schedule

__all__ = ["SINGLE_PROCESS", "CloseOnExit", "GradGuard", "GradientError", "Ranks", "make_schedule", "require_options"]
