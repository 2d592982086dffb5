"""Numerical and backprop gradients in text as people paste it: CSV, aligned columns, sentences, printed arrays."""

from gradguard.cli.pasted.reader import parse

__all__ = ["parse"]
