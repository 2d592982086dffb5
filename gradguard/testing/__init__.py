"""Helpers for tests of gradients: a model with correct gradients, faults to switch on, and a check as an assertion."""

from gradguard.testing.assertions import assert_gradients
from gradguard.testing.fault import Fault
from gradguard.testing.faults import FAULTS, faulty
from gradguard.testing.lstm import LSTM, Batch, random_batch

__all__ = ["FAULTS", "LSTM", "Batch", "Fault", "assert_gradients", "faulty", "random_batch"]
