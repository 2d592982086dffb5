"""gradguard checks hand-written gradients while a model trains, and separates rounding error from gradient bugs."""

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
from gradguard.writers.protocol import Writer
from gradguard.writers.registry import WRITER_MODULES, load_writer

if TYPE_CHECKING:
    from gradguard.writers import JSONLWriter, TensorBoardWriter

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
    if name in WRITER_MODULES:
        return load_writer(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
