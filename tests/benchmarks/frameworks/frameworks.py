"""In each framework: how many lines attach a guard, what does it cost with default options, and what does it tell?

What is measured: an LSTM with a backward pass by hand (39 timesteps, 64 sequences, 64 units) trains in each framework
without a guard, with one, and with one while the gradient of the LSTM is divided by the number of timesteps. The guard
has default options and `constants={"timesteps": 39}`. Each framework has a process of its own.

How to read it: "lines" are those of the training that mention the guard, its import included, as counted in
`frameworks/trainings.py`. "first check" and its "evaluations" are those of the right network. So are the checks after
it and the median of their "evaluations". "share" is the time of these checks over the wall time after the first one,
at most 1 % by default. "other steps" is the median processor time of a step over that without a guard. "told at" is
the number of the check that reports both tensors of the LSTM and no other, and "named" whether it names the number of
timesteps. "same" is "yes" if all weights end, bit for bit, as without a guard.

    python tests/benchmarks frameworks
    python tests/benchmarks frameworks --frameworks Lightning JAX --steps 10000
"""

import inspect
import io
import logging
import multiprocessing
import os
import re
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

from benchmarks.frameworks import networks, trainings
from benchmarks.frameworks.batches import TIMESTEPS, Batches
from benchmarks.support.options import parser_of
from benchmarks.support.tables import Row, table

USUAL_TIME = "about 20 min"

STEPS, QUICK_STEPS = 3000, 3
FAULTY_STEPS = 201  # three checks may be due
HEAD = ("training", "lines", "ms a step", "first check, s", "evaluations", "checks after", "evaluations")
MORE = ("share", "other steps", "told at", "named", "same")


@dataclass(frozen=True, slots=True)
class Framework:
    """How a framework trains the LSTM.

    Attributes:
        train: The training.
        network: Makes the network, with a divisor of the gradient of the LSTM.
        batch: Makes a batch of arrays.
        weights: All weights of the network.
        backend: Of Keras.
    """

    train: Callable[..., Any]
    network: Callable[[int], Any] = networks.torch_lstm
    batch: Callable[..., Any] = networks.torch_batch
    weights: Callable[[Any], list[bytes]] = networks.torch_weights
    backend: str = ""


KERAS = (networks.keras_lstm, networks.keras_batch, networks.keras_weights)
FRAMEWORKS = {
    "PyTorch": Framework(trainings.train_torch),
    "Lightning": Framework(trainings.train_lightning),
    "Transformers": Framework(trainings.train_transformers, batch=networks.transformers_batch),
    "Accelerate": Framework(trainings.train_accelerate),
    "skorch": Framework(trainings.train_skorch),
    "Keras-torch": Framework(trainings.train_keras_on_torch, *KERAS, "torch"),
    "Keras-JAX": Framework(trainings.train_keras_on_jax, *KERAS, "jax"),
    "JAX": Framework(trainings.train_jax, networks.jax_lstm, networks.jax_batch, networks.jax_weights),
}


@dataclass(frozen=True, slots=True)
class Course:
    """The course of one training.

    Attributes:
        weights: At the end.
        guard: With the history of its checks.
        step: The median processor time of a step, in seconds.
        after: The wall time after the first check, in seconds.
    """

    weights: list[bytes]
    guard: Any
    step: float
    after: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each framework."""
    options = parser_of(__name__, f"{QUICK_STEPS} steps")
    options.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=list(FRAMEWORKS), metavar="NAME")
    options.add_argument("--steps", type=int, default=STEPS, help="of each training (default: %(default)s)")
    chosen = options.parse_args(arguments)
    steps = (QUICK_STEPS, QUICK_STEPS) if chosen.quick else (chosen.steps, FAULTY_STEPS)
    # A process for each, since the backend of Keras is chosen once in a process.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        rows = pool.imap(partial(row, steps=steps), chosen.frameworks)
        print(table(HEAD + MORE, tqdm(rows, desc="frameworks", total=len(chosen.frameworks), leave=False)))
        pool.close()
        pool.join()  # a worker that is terminated at once leaves semaphores behind, with a warning


def row(name: str, steps: tuple[int, int]) -> Row:
    """The row of a framework, whose trainings of right and wrong gradients have some steps."""
    framework = FRAMEWORKS[name]
    os.environ["KERAS_BACKEND"] = framework.backend
    with quiet():
        plain, guarded = course(framework, steps[0], guarded=False), course(framework, steps[0])
        wrong = course(framework, steps[1], divisor=TIMESTEPS)
    first, *later = guarded.guard.history
    return (
        name,
        str(lines(framework)),
        f"{1e3 * plain.step:.1f}",
        f"{first.seconds:.1f}",
        str(first.evaluations),
        str(len(later)),
        f"{statistics.median(check.evaluations for check in later):g}" if later else "",
        f"{sum(check.seconds for check in later) / guarded.after:.2%}",
        f"{guarded.step / plain.step:.2f}",
        *told(wrong.guard),
        "yes" if guarded.weights == plain.weights else "NO",
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Context in which frameworks print, log and warn of nothing; what a guard reports is in the table."""
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings(action="ignore"), redirect_stdout(io.StringIO()):
        yield
    logging.disable(logging.NOTSET)


def lines(framework: Framework) -> int:
    """How many lines of its training mention the guard."""
    return len(re.findall(r"^ +(?! |return).*guard\b", inspect.getsource(framework.train), re.MULTILINE))


def course(framework: Framework, steps: int, *, divisor: int = 1, guarded: bool = True) -> Course:
    """Train in this process."""
    network, batches = framework.network(divisor), Batches(steps, framework.batch)
    guard = framework.train(network, batches, guarded=guarded)
    ended = time.perf_counter()
    first = guard.history[0].seconds if guarded else 0.0
    step = statistics.median(after - before for before, after in zip(batches.asked, batches.asked[1:], strict=False))
    return Course(framework.weights(network), guard, step, ended - batches.began - first)


def told(guard: Any) -> tuple[str, str]:
    """At which check the wrong tensors were reported, and whether the factor was named."""
    wrong = {name for name in guard.report.tensors if re.split("[./]", name)[-1] in ("w", "b")}
    bugs = [{name for name, verdict in check.verdicts.items() if verdict.is_bug} for check in guard.history]
    named = all("timesteps" in guard.report.tensors[name].cause for name in wrong)
    return str(bugs.index(wrong) + 1) if wrong in bugs else "never", "yes" if named else "NO"
