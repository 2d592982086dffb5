"""Trainings in several processes, under `DistributedDataParallel`, `fully_shard`, or with an exchange of their own."""
