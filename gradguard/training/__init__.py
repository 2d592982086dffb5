"""The guard of a training: when it checks, what it alerts, and what a checkpoint keeps of it."""
