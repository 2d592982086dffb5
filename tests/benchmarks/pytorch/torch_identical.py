"""Does a TorchGuard leave a training unchanged, bit for bit, in each way of training with PyTorch?

What is measured: each training once without a guard and once with one that checks every fifth step. All parameters
are hashed after every step, into one running hash; gradients, optimizer, buffers and random streams are hashed at the
end. `DistributedDataParallel` and `fully_shard` train in two processes on gloo, and each process must be the same.

How to read it: "same" is "yes" if the "running hash" and everything at the end are, bit for bit, those of the
training without a guard. Anything else is a bug of gradguard.

    python tests/benchmarks torch_identical
"""

import hashlib
import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

from benchmarks.support.options import parser_of
from benchmarks.support.tables import Row, table
from gradguard.integrations.torch import TorchGuard

USUAL_TIME = "about 3 min"

INPUTS, HIDDEN, CLASSES, BATCH = 4, 16, 3, 16
EVERY_N_STEPS = 5
PROCESSES = 2


def perceptron() -> nn.Module:
    """Two layers."""
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES))


def stateful() -> nn.Module:
    """With batch statistics and dropout."""
    first = nn.Linear(INPUTS, HIDDEN, bias=False)
    return nn.Sequential(first, nn.BatchNorm1d(HIDDEN), nn.Tanh(), nn.Dropout(0.2), nn.Linear(HIDDEN, CLASSES))


@dataclass(frozen=True, slots=True)
class Way:
    """A way to train.

    Attributes:
        name: For the table.
        module: Makes what is trained.
        wrapped: Wraps the module for the training.
        autocast: Whether the forward pass is in bfloat16.
        parts: Micro-batches of a step.
        processes: The number of processes that train together.
    """

    name: str
    module: Callable[[], nn.Module] = perceptron
    wrapped: Callable[[nn.Module], Any] = nn.Sequential
    autocast: bool = False
    parts: int = 1
    processes: int = 1


WAYS = (
    Way("eager"),
    Way("compiled", wrapped=torch.compile),
    Way("autocast, bfloat16", autocast=True),
    Way("accumulation", parts=3),
    Way("BatchNorm and dropout", module=stateful),
    Way("DistributedDataParallel", module=stateful, wrapped=DistributedDataParallel, processes=PROCESSES),
    Way("fully_shard", wrapped=fully_shard, processes=PROCESSES),
)


@dataclass(frozen=True, slots=True)
class Course:
    """The course of one training.

    Attributes:
        hash: The running hash of all parameters after each step.
        end: The hash of everything at the end.
        checks: By the guard.
        evaluations: Of the loss, by the guard.
    """

    hash: str
    end: str
    checks: int
    evaluations: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each way to train."""
    steps = 6 if parser_of(__name__, "6 steps").parse_args(arguments).quick else 500
    torch.set_num_threads(1)
    print(table(("training", "processes", "steps", "checks", "evaluations", "running hash", "same"), rows(steps)))


def rows(steps: int) -> Iterator[Row]:
    """A row for each way to train."""
    for way in tqdm(WAYS, desc="ways", leave=False):
        pairs = together(way, steps) if way.processes > 1 else [both(way, steps)]
        same = all((alone.hash, alone.end) == (guarded.hash, guarded.end) for alone, guarded in pairs)
        first = pairs[0][1]
        counts = (str(way.processes), str(steps), str(first.checks), str(first.evaluations))
        yield way.name, *counts, first.hash[:12], "yes" if same else "NO"


def both(way: Way, steps: int) -> tuple[Course, Course]:
    """The training without a guard and with one."""
    return course(way, steps, guarded=False), course(way, steps, guarded=True)


def course(way: Way, steps: int, *, guarded: bool) -> Course:
    """Train in this process, which may be one of several."""
    torch.manual_seed(0)
    module = way.wrapped(way.module())
    rank = distributed.get_rank() if way.processes > 1 else 0
    torch.manual_seed(1 + rank)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    guard = TorchGuard(module, optimizer, every_n_steps=EVERY_N_STEPS, max_overhead=None) if guarded else None
    running = hashlib.sha256()
    for step in range(steps):
        parts = [batch() for _ in range(way.parts)]
        optimizer.zero_grad()
        for part in parts:
            (loss_of(way, module, *part) / way.parts).backward()
        if guard is not None:
            guard.after_backward(
                step, lambda parts=parts: sum(loss_of(way, module, *part) for part in parts) / way.parts
            )
        optimizer.step()
        running.update(contents(list(module.parameters())))
    moments = [value for state in optimizer.state_dict()["state"].values() for value in state.values()]
    gradients = [parameter.grad for parameter in module.parameters()]
    end = hashlib.sha256(contents([*gradients, *moments, *module.buffers(), torch.get_rng_state()]))
    history = [] if guard is None else list(guard.history)
    return Course(running.hexdigest(), end.hexdigest(), len(history), sum(row.evaluations for row in history))


def batch() -> tuple[Tensor, Tensor]:
    """A random batch."""
    return torch.randn(BATCH, INPUTS), torch.randint(CLASSES, (BATCH,))


def loss_of(way: Way, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The loss of a batch, in float32."""
    with torch.autocast("cpu", dtype=torch.bfloat16) if way.autocast else nullcontext():
        return nn.functional.cross_entropy(module(x).float(), y)


def contents(tensors: Sequence[Any]) -> bytes:
    """Every bit of the parts of the tensors that this process holds."""
    local = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    return b"".join(tensor.detach().contiguous().numpy().tobytes() for tensor in local)


def together(way: Way, steps: int) -> list[tuple[Course, Course]]:
    """Both trainings in several processes; one pair for each process."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ranks = [context.Process(target=worker, args=(way, steps, rank, folder)) for rank in range(way.processes)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        files = [Path(folder) / str(rank) for rank in range(way.processes)]
        return [pickle.loads(file.read_bytes()) for file in files]  # noqa: S301 - the files are our own


def worker(way: Way, steps: int, rank: int, folder: str) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=way.processes)
    (Path(folder) / str(rank)).write_bytes(pickle.dumps(both(way, steps)))
    distributed.barrier()
    os._exit(0)  # skips the teardown of the process group, which is not measured
