"""The file of an offline run of Weights & Biases, read back."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START_OF_FILE = 7  # bytes before the first record
BLOCK = 32768
HEADER = struct.Struct("<IHB")  # checksum, length, and whether it is whole, or the first, a middle or the last part
WHOLE, LAST = 1, 4


def records(run: Any) -> Iterator[Any]:
    """The records of a finished run, in order."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # waits for the process that writes the file, which `finish` does not
    (path,) = Path(run.dir).parent.glob("*.wandb")
    data, place, parts = path.read_bytes(), START_OF_FILE, b""
    while place < len(data):
        if BLOCK - place % BLOCK < HEADER.size:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = HEADER.unpack_from(data, place)
        parts += data[place + HEADER.size : place + HEADER.size + length]
        place += HEADER.size + length
        if kind in (WHOLE, LAST):
            yield Record.FromString(parts)
            parts = b""


def rows(run: Any) -> list[dict[str, Any]]:
    """The rows of the history of a finished run, without the times that wandb adds."""
    found = [record.history.item for record in records(run) if record.WhichOneof("record_type") == "history"]
    values = [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in found]
    return [{key: value for key, value in row.items() if key not in ("_runtime", "_timestamp")} for row in values]


def axes(run: Any) -> dict[str, str]:
    """The horizontal axis of each metric or pattern of a finished run that has one."""
    metrics = [record.metric for record in records(run) if record.WhichOneof("record_type") == "metric"]
    return {metric.name or metric.glob_name: metric.step_metric for metric in metrics if metric.step_metric}
