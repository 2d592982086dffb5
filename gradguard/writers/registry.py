"""The writers that come with gradguard, by class name.

To add a writer, write its module and add a row to the table: `gradguard` and `gradguard.writers` then offer the class
under its name, and import the module when the class is first used.
"""

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

from gradguard.writers.protocol import Writer

WRITER_MODULES: Mapping[str, str] = MappingProxyType(
    {
        "JSONLWriter": "gradguard.writers.jsonl",
        "MLflowWriter": "gradguard.writers.loggers.mlflow",
        "TensorBoardWriter": "gradguard.writers.tensorboard.writer",  # slower to import than all of gradguard
        "WandbWriter": "gradguard.writers.loggers.wandb",
    }
)
"""The module of each writer, by the name of its class."""

LOGDIR_WRITER = "TensorBoardWriter"
"""The writer that `GradGuard(logdir=...)` adds; it is called with the folder and `max_megabytes`."""


def load_writer(name: str) -> Callable[..., Writer]:
    """The class of a writer; its module is imported.

    Raises:
        KeyError: The table has no such writer.
        ImportError: The writer needs a package that is not installed.
    """
    writer: Callable[..., Writer] = getattr(importlib.import_module(WRITER_MODULES[name]), name)
    return writer
