"""Diagnosis of numbers measured elsewhere: arrays, tensors of any framework, and numbers written as text."""

from gradguard.diagnosis.from_arrays.diagnose_arrays import diagnose
from gradguard.diagnosis.from_arrays.written_numbers import float_text, units_of_texts

__all__ = ["diagnose", "float_text", "units_of_texts"]
