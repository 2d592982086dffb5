"""The faults of the benchmark `faults`, and the training into which they are injected."""
