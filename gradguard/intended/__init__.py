"""Gradients that differ on purpose: which ones the user declares, what is said of them, and whether they change."""

from gradguard.intended.changes import CHANGED, Difference, is_another_entry, is_another_ratio, with_change
from gradguard.intended.declared import Declared, declaration, how_to_declare, require_expected, undeclared_entries
from gradguard.intended.reports import as_declared, diagnose_declared, expected_sentence, not_measured, remeasured

__all__ = [
    "CHANGED",
    "Declared",
    "Difference",
    "as_declared",
    "declaration",
    "diagnose_declared",
    "expected_sentence",
    "how_to_declare",
    "is_another_entry",
    "is_another_ratio",
    "not_measured",
    "remeasured",
    "require_expected",
    "undeclared_entries",
    "with_change",
]
