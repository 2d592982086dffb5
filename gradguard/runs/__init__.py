"""Recorded runs, read back from event files and JSON lines and summarized."""

from gradguard.runs.files import Skipped
from gradguard.runs.logs import Log, read_logs
from gradguard.runs.overview import verdicts
from gradguard.runs.schema import read_check, read_sweep
from gradguard.runs.story import Finding, Story, changes_of, listed, story_of, words

__all__ = [
    "Finding",
    "Log",
    "Skipped",
    "Story",
    "changes_of",
    "listed",
    "read_check",
    "read_logs",
    "read_sweep",
    "story_of",
    "verdicts",
    "words",
]
