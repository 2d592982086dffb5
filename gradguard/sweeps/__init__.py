"""Sweeps over step sizes: how well gradients agree with two-point differences of the loss at each step."""

from gradguard.sweeps.sweep import ENTRIES, Sweep
from gradguard.sweeps.text import rows_of_steps, rows_of_tensors

__all__ = ["ENTRIES", "Sweep", "rows_of_steps", "rows_of_tensors"]
