"""The command line: checks, sweeps, reports and the demo without writing code."""

from gradguard.cli.application import main

__all__ = ["main"]
