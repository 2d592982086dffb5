"""Exact derivatives of the loss, which have neither noise nor truncation, and the proof that they are of this loss."""

from gradguard.references.proof import PROOF_STEP, is_proven
from gradguard.references.reference import GradientReference, Reference, Slopes
from gradguard.references.references import References

__all__ = ["PROOF_STEP", "GradientReference", "Reference", "References", "Slopes", "is_proven"]
