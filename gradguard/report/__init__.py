"""What a check returns: verdicts and results as values, and how they become text and plain data."""

from gradguard.report.history import Changes, CheckHistory, HistoryRow
from gradguard.report.plain import Plain, finite_or_name, finite_or_none, to_plain
from gradguard.report.progress import EvaluationBar
from gradguard.report.results import Alert, BlockReport, Entry, FunctionReport, Report, TensorReport, alike
from gradguard.report.text import (
    counted,
    encodable,
    listed,
    listed_briefly,
    log_message,
    one_line,
    percent,
    printable,
    told_apart,
)
from gradguard.report.thresholds import Thresholds
from gradguard.report.verdict import Verdict

__all__ = [
    "Alert",
    "BlockReport",
    "Changes",
    "CheckHistory",
    "Entry",
    "EvaluationBar",
    "FunctionReport",
    "HistoryRow",
    "Plain",
    "Report",
    "TensorReport",
    "Thresholds",
    "Verdict",
    "alike",
    "counted",
    "encodable",
    "finite_or_name",
    "finite_or_none",
    "listed",
    "listed_briefly",
    "log_message",
    "one_line",
    "percent",
    "printable",
    "to_plain",
    "told_apart",
]
