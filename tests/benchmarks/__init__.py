"""Benchmarks of gradguard, in one folder for each question; `python tests/benchmarks list` names them."""
