"""gradguard checks hand-written gradients while a model trains, and separates rounding error from gradient bugs."""

from typing import TYPE_CHECKING

from gradguard.arrays import gates
from gradguard.checks.check import check
from gradguard.containers import attributes
from gradguard.diagnosis import diagnose
from gradguard.functions import check_backward, trace_backward
from gradguard.loss import batched
from gradguard.perturbation import snapshot_attributes, snapshot_rng
from gradguard.report import Alert, BlockReport, Entry, Report, TensorReport, Thresholds, Verdict
from gradguard.sweeps import Sweep
from gradguard.sweeps.sweep import sweep
from gradguard.training import GradGuard, GradientError
from gradguard.writers.protocol import Writer
from gradguard.writers.registry import WRITER_MODULES, load_writer

if TYPE_CHECKING:
    from gradguard.writers import JSONLWriter, MLflowWriter, TensorBoardWriter, WandbWriter

__all__ = [
    "Alert",
    "BlockReport",
    "Entry",
    "GradGuard",
    "GradientError",
    "JSONLWriter",
    "MLflowWriter",
    "Report",
    "Sweep",
    "TensorBoardWriter",
    "TensorReport",
    "Thresholds",
    "Verdict",
    "WandbWriter",
    "Writer",
    "attributes",
    "batched",
    "check",
    "check_backward",
    "diagnose",
    "gates",
    "snapshot_attributes",
    "snapshot_rng",
    "sweep",
    "trace_backward",
]


def __getattr__(name: str) -> object:
    if name in WRITER_MODULES:
        return load_writer(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
