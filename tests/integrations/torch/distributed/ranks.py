"""Real processes on gloo, which run a scenario each; what it returns comes back, or how it ended."""

import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

SECONDS = 240  # for all processes of one scenario


def in_ranks(scenario: Callable[..., Any], *args: Any, ranks: int = 2) -> list[Any]:
    """What each rank returned or raised; None where it ended in another way."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_run, args=(scenario, args, rank, ranks, folder), daemon=True)
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(SECONDS)
        hanging = [process for process in processes if process.is_alive()]
        for process in hanging:
            process.kill()
        assert not hanging, f"{len(hanging)} of {ranks} processes hang"
        return [_left(Path(folder) / f"{rank}.pickle") for rank in range(ranks)]


def _run(scenario: Callable[..., Any], args: tuple[Any, ...], rank: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    try:
        result = scenario(*args)
    except Exception as error:  # it is what the test asks for
        result = error.with_traceback(None)
        result.__cause__ = result.__context__ = None
    unfinished = Path(folder) / f"{rank}.unfinished"
    unfinished.write_bytes(pickle.dumps(result))
    unfinished.rename(Path(folder) / f"{rank}.pickle")
    os._exit(0)  # no rank waits for another one that has failed


def _left(file: Path) -> Any:
    return pickle.loads(file.read_bytes()) if file.exists() else None  # noqa: S301 - the file is our own
