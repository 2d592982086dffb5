"""What a check returns: verdicts and results as values, and how they become text and plain data."""

from gradguard.report.plain import Plain, finite_or_name, finite_or_none, to_plain
from gradguard.report.progress import EvaluationBar
from gradguard.report.results import Alert, BlockReport, Entry, Report, TensorReport
from gradguard.report.text import counted, listed, one_line, percent, printable
from gradguard.report.thresholds import Thresholds
from gradguard.report.verdict import Verdict

__all__ = [
    "Alert",
    "BlockReport",
    "Entry",
    "EvaluationBar",
    "Plain",
    "Report",
    "TensorReport",
    "Thresholds",
    "Verdict",
    "counted",
    "finite_or_name",
    "finite_or_none",
    "listed",
    "one_line",
    "percent",
    "printable",
    "to_plain",
]
