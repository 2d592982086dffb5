"""Does any fault change or stop a training, or lose a record without a warning?

What is measured: gradient descent on a small network under a guard that checks at every step and writes TensorBoard
events and JSON lines. At a random moment something goes wrong: in the loss, by a signal during a check, in the places
where reports are written, or by SIGKILL; or the user's code has a habit that a check could trip over. A second training
without a guard runs beside it. Every gradient is correct.

How to read it: "times" is how often the fault is injected. "changed" counts the times after which parameters,
gradients or random streams differ, in any bit, from the training without a guard. "stopped" counts the times that a
training does not continue; an exception that the user's own code raises is caught by the training, as users would.
"checks" counts the checks that finish, and "read back" those of them that are in both logs when these are read.
"reported lost" are checks that could not be written and for which a warning says so; "lost" are all others that are
missing. "bugs" counts tensors that are reported as wrong. The goals are 0 changed, 0 stopped, 0 lost and 0 bugs.

The second table counts what the readers and writers of files do with damaged or invented input. "crashes" are
exceptions other than a refusal with a message; the goal is 0.

    python tests/benchmarks faults
    python tests/benchmarks faults --times 20 --inputs 1000
"""

import argparse
import logging
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

from benchmarks.promises.injected.habits import HABITS
from benchmarks.promises.injected.inputs import inputs_rows
from benchmarks.promises.injected.logs import (
    alert_raises,
    deleted,
    disk_full,
    in_the_way,
    unserialisable,
    writer_raises,
)
from benchmarks.promises.injected.loss import ctrl_c, loss_is_nan, loss_raises
from benchmarks.promises.injected.sigkill import killed
from benchmarks.promises.injected.signals import signals
from benchmarks.promises.injected.training import Cost, Fault, StoppedError, Training, lost
from benchmarks.support.options import parser_of
from benchmarks.support.tables import Row, table

USUAL_TIME = "about 10 to 15 min"

KILLS = 10  # a SIGKILL needs a process of its own, so that it is injected that many times less often

FAULTS: dict[str, Fault] = {
    "the loss raises": loss_raises,
    "the loss returns nan": loss_is_nan,
    "KeyboardInterrupt in the loss": ctrl_c,
    "SIGINT": signals(signal.SIGINT, KeyboardInterrupt, 1),
    "SIGTERM, its handler exits": signals(signal.SIGTERM, SystemExit, 1),
    "an exception from a signal": signals(signal.SIGUSR1, StoppedError, 1),
    "up to six signals at once": signals(signal.SIGUSR1, StoppedError, 6),
    "disk full": disk_full,
    "logs deleted": deleted,
    "a file where a folder was": in_the_way,
    "a writer raises": writer_raises,
    "a report that is not JSON": unserialisable,
    "on_alert raises": alert_raises,
    **HABITS,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the two tables."""
    options = parser().parse_args(arguments)
    times, inputs = (2, 20) if options.quick else (options.times, options.inputs)
    logging.getLogger("gradguard").addHandler(logging.NullHandler())
    print(
        table(
            ("fault", "times", "changed", "stopped", "checks", "read back", "reported lost", "lost", "bugs"),
            rows(times),
        )
    )
    print()
    print(table(("input", "tried", "read", "refused", "crashes"), inputs_rows(inputs)))


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__name__, "twice each")
    options.add_argument("--times", type=int, default=300, help="each fault is injected (default: %(default)s)")
    options.add_argument("--inputs", type=int, default=3000, help="of each kind (default: %(default)s)")
    return options


def rows(times: int) -> Iterator[Row]:
    """A row for each fault."""
    for name, fault in tqdm(FAULTS.items(), desc="faults", leave=False):
        with tempfile.TemporaryDirectory() as folder:
            yield name, *injected(fault, times, Path(folder) / "logs").row
    for name, resumes in (("SIGKILL", False), ("SIGKILL, and a resume", True)):
        with tempfile.TemporaryDirectory() as folder:
            yield name, *killed(max(2, times // KILLS), Path(folder), resumes=resumes).row


def injected(fault: Fault, times: int, folder: Path) -> Cost:
    """Inject a fault into one training, again and again."""
    rng = np.random.default_rng(0)
    twin, training = Training(None), Training(folder)
    changed = missing = checks = reported = 0
    for _ in range(times):
        for one in (twin, training):
            one.train(1)
            one.backward()
        before = training.bits()
        with fault(training, rng):
            training.check(is_faulty=True)
        changed += (
            training.bits() != before or training.model.params["Wh"].tobytes() != twin.model.params["Wh"].tobytes()
        )
        for one in (twin, training):
            one.update()
        if fault is deleted:
            checks, missing = checks + len(training.finished), missing + len(lost(training))
    if fault is not deleted:
        checks, missing = len(training.finished), len(lost(training))
        reported = len(set(training.reported) & lost(training))
    assert training.guard is not None
    training.guard.close()
    return Cost(times, changed, training.stopped, checks, reported, missing - reported, training.bugs)
