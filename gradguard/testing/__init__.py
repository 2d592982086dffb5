"""Models with known gradients, right and wrong, to test gradient checks with."""

from gradguard.testing.faults import FAULTS, Fault, faulty
from gradguard.testing.lstm import LSTM, Batch, random_batch

__all__ = ["FAULTS", "LSTM", "Batch", "Fault", "faulty", "random_batch"]
