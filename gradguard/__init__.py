"""gradguard checks hand-written gradients while a model trains, and tells float precision from a bug."""

from typing import TYPE_CHECKING

from gradguard.arrays.named_blocks import gates
from gradguard.checks.check import check
from gradguard.diagnosis.from_arrays import diagnose
from gradguard.loss.batching import batched
from gradguard.perturbation.snapshots import snapshot_attributes, snapshot_rng
from gradguard.report.results import Alert, BlockReport, Entry, Report, TensorReport
from gradguard.report.thresholds import Thresholds
from gradguard.report.verdict import Verdict
from gradguard.sweeps.sweep import Sweep, sweep
from gradguard.training.alerts import GradientError
from gradguard.training.callback import GradGuard
from gradguard.writers import JSONLWriter, Writer

if TYPE_CHECKING:
    from gradguard.writers.tensorboard import TensorBoardWriter

__all__ = [
    "Alert",
    "BlockReport",
    "Entry",
    "GradGuard",
    "GradientError",
    "JSONLWriter",
    "Report",
    "Sweep",
    "TensorBoardWriter",
    "TensorReport",
    "Thresholds",
    "Verdict",
    "Writer",
    "batched",
    "check",
    "diagnose",
    "gates",
    "snapshot_attributes",
    "snapshot_rng",
    "sweep",
]


def __getattr__(name: str) -> object:
    if name == "TensorBoardWriter":
        from gradguard.writers.tensorboard.writer import (
            TensorBoardWriter,  # tensorboard is not light: only when asked for
        )

        return TensorBoardWriter
    raise AttributeError(f"module 'gradguard' has no attribute {name!r}")
