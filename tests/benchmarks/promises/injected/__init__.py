"""The training that faults are injected into, and the faults."""
