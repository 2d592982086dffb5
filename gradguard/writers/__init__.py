"""Where reports go: TensorBoard, or a file of JSON lines."""

from typing import TYPE_CHECKING

from gradguard.writers.jsonl import JSONLWriter, read_jsonl
from gradguard.writers.protocol import Writer

if TYPE_CHECKING:
    from gradguard.writers.tensorboard import TensorBoardWriter

__all__ = ["JSONLWriter", "TensorBoardWriter", "Writer", "read_jsonl"]


def __getattr__(name: str) -> object:
    # TensorBoard takes longer to import than all of gradguard, and a run may not want it.
    if name == "TensorBoardWriter":
        from gradguard.writers.tensorboard import TensorBoardWriter

        return TensorBoardWriter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
