"""Damaged and invented input for the readers of files."""

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

from benchmarks.promises.injected.training import Training
from benchmarks.support.tables import Row
from gradguard import JSONLWriter, diagnose
from gradguard.cli.output import Failure
from gradguard.cli.source import read_pasted
from gradguard.runs.logs import read_logs
from gradguard.writers import read_jsonl

WORDS = (
    "numeric",
    "analytic",
    "tensor",
    "error",
    "nan",
    "inf",
    "1e999",
    "-0",
    "0x1",
    "<script>",
    "'",
    '"',
    "\0",
    "\ufeff",
)
PIECES = (*WORDS, ",", ";", "\t", "\n", "\r\n", "{", "}", "[" * 50, '{"step":', "null", "true", "1.5", "-3", "9" * 400)


def inputs_rows(count: int) -> Iterator[Row]:
    """A row for each kind of input."""
    readers: dict[str, tuple[bytes, Callable[[Path], object]]] = {
        "CSV": (
            b"tensor,numeric,analytic\nW,1.5,1.25\nV,-2e-3,3\n",
            diagnosed,
        ),
        "JSON lines": (logged("log/log.jsonl"), read_jsonl),
        "JSON lines, appended to": (logged("log/log.jsonl"), JSONLWriter),
        "a folder of JSON lines": (logged("log/log.jsonl"), lambda path: read_logs(str(path.parent))),
        "event files": (logged("run/events*"), lambda path: read_logs(str(renamed(path)))),
        "pairs": (b"1 2 nan 0 -3 inf 1e-300 1e300", lambda path: diagnosed_pairs(path.read_bytes())),
    }
    for name, (whole, read) in tqdm(readers.items(), desc="inputs", leave=False):
        counts = Counter(attempted(read, content) for content in damaged(whole, count))
        yield name, str(count), *(str(counts[what]) for what in ("read", "refused", "crash"))


def logged(pattern: str) -> bytes:
    """The content of a file that a training has written."""
    with tempfile.TemporaryDirectory() as folder:
        training = Training(Path(folder))
        training.train(2)
        assert training.guard is not None
        training.guard.close()
        return next(Path(folder).glob(pattern)).read_bytes()


def damaged(whole: bytes, count: int) -> Iterator[bytes]:
    """Variants of the content: cut off, with random bytes, with text inserted, repeated, or replaced by random text."""
    rng = np.random.default_rng(0)
    for number in range(count):
        content, place = bytearray(whole), int(rng.integers(len(whole) + 1))
        piece = "".join(PIECES[i] for i in rng.integers(len(PIECES), size=int(rng.integers(1, 8)))).encode()
        kind = number % 5
        if kind == 0:
            del content[place:]
        elif kind == 1:
            for at in rng.integers(len(whole), size=int(rng.integers(1, 6))):
                content[at] = int(rng.integers(256))
        elif kind == 2:
            content[place:place] = piece
        elif kind == 3:
            content[place:] = content[: int(rng.integers(len(whole) + 1))]
        else:
            content[:] = piece
        yield bytes(content)


def attempted(read: Callable[[Path], object], content: bytes) -> str:
    """What a reader does with a file: "read", "refused" with a message below 1,000 characters, or "crash"."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                read(path)
            except (Failure, ValueError, TypeError) as error:
                return "refused" if len(str(error)) < 1000 else "crash"
            except Exception:  # any other exception is a crash, and is counted
                return "crash"
    return "read"


def renamed(path: Path) -> Path:
    """The folder of the file, which gets the name of an event file."""
    path.rename(path.with_name("events.out.tfevents.0000000000.here.1.000000"))
    return path.parent


def diagnosed(path: Path) -> str:
    """The verdict on the columns of a file."""
    columns = read_pasted(str(path)).tensors
    return str(diagnose({name: (one.analytic, one.numeric) for name, one in columns.items()}))


def diagnosed_pairs(content: bytes) -> str:
    """The verdict on arrays of arbitrary bytes, which may differ in length."""
    half = len(content) // 2
    g, n = (
        np.frombuffer(part.ljust(8 * (len(part) // 8 + 1), b"\1"), np.float64)
        for part in (content[:half], content[half:])
    )
    return str(diagnose({content[:4].decode("latin1"): (g, n)}))
