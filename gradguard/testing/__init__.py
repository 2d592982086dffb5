"""For tests of gradients: models whose gradients are known, right and wrong, and a check as an assertion."""

from gradguard.testing.assertions import assert_gradients
from gradguard.testing.faults import FAULTS, Fault, faulty
from gradguard.testing.lstm import LSTM, Batch, random_batch

__all__ = ["FAULTS", "LSTM", "Batch", "Fault", "assert_gradients", "faulty", "random_batch"]
