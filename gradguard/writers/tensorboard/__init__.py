"""Reports and sweeps as TensorBoard events."""

from gradguard.writers.tensorboard.writer import TensorBoardWriter

__all__ = ["TensorBoardWriter"]
