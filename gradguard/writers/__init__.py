"""Writers: where the report of each check goes, such as TensorBoard or a file of JSON lines."""

from typing import TYPE_CHECKING

from gradguard.writers.jsonl import read_jsonl
from gradguard.writers.protocol import Writer
from gradguard.writers.registry import WRITER_MODULES, load_writer

if TYPE_CHECKING:
    from gradguard.writers.jsonl import JSONLWriter
    from gradguard.writers.loggers.mlflow import MLflowWriter
    from gradguard.writers.loggers.wandb import WandbWriter
    from gradguard.writers.tensorboard.writer import TensorBoardWriter

__all__ = ["JSONLWriter", "MLflowWriter", "TensorBoardWriter", "WandbWriter", "Writer", "read_jsonl"]


def __getattr__(name: str) -> object:
    if name in WRITER_MODULES:
        return load_writer(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
