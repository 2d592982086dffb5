"""The command line: what can be done without writing code."""

from gradguard.cli.application import main

__all__ = ["main"]
