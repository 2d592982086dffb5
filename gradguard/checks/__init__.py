"""One check of a whole model: screen, locate, explain."""

from gradguard.checks.check import report_of
from gradguard.checks.model import ModelCheck, NotSameLossError, check_model, explain, explain_declared, locate_twice

__all__ = ["ModelCheck", "NotSameLossError", "check_model", "explain", "explain_declared", "locate_twice", "report_of"]
