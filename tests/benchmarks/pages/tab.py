"""How long does the GradGuard tab of TensorBoard take to open for a long run of a large model?

What is measured: a log directory with 400 tensors and 10,000 checks, in which one tensor is wrong from the middle on.
Its events are those that TensorBoardWriter writes: a check screens all tensors and measures five, and of the checks one
in eight is in the file, about as many as its bound leaves. TensorBoard loads it; then headless Chromium, with an empty
cache, opens the tab after TensorBoard itself has started.

How to read it: "sentence and strip" is the time from the click until the verdict and the strip of checks are visible,
and "charts" the time until the last chart is drawn, in seconds; these two are what a person waits for. "tensor" is
the time from the choice of another tensor until its charts are drawn. TensorBoard keeps a sample of the checks, so
that the times depend on the number of tensors and not on the number of checks; they also depend on the machine. The
loading time is TensorBoard's own: it reads all curves and continues in the background.

    python tests/benchmarks tab
"""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from servers import Browser, browser, fetch, tensorboard_server
from tensorboard.compat.proto import event_pb2

from benchmarks.support.options import parser_of
from benchmarks.support.tables import table
from gradguard import Entry, Report, TensorReport, Verdict, diagnose
from gradguard.writers.record import History, Record
from gradguard.writers.tensorboard.curves import summarize
from gradguard.writers.tensorboard.event_file import LocalEventFile
from gradguard.writers.tensorboard.records import summarize_record

USUAL_TIME = "about 4 min"

DISTINCT = 20  # reports; to write 10,000 different ones would take longer than everything else
MEASURED = 5  # tensors at a check
KEPT = 8  # one check in so many is in the file
VISITS = 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each visit."""
    quick = parser_of(__name__, "3 tensors, 50 checks and one visit").parse_args(arguments).quick
    tensors, checks, visits = (3, 50, 1) if quick else (400, 10_000, VISITS)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "run", tensors, checks)
        size = sum(path.stat().st_size for path in Path(folder).rglob("events*"))
        with tensorboard_server(Path(folder)) as address, browser() as chromium:
            loading = loaded(address, checks)
            rows = [visit(chromium, address, number) for number in range(1, visits + 1)]
    medians = (f"{statistics.median(map(float, column)):.2f}" for column in list(zip(*rows, strict=True))[1:])
    print(table(("visit", "sentence and strip", "charts", "tensor"), [*rows, ("median", *medians)]))
    print(f"\n{tensors} tensors, {checks} checks, {size / 1e6:.0f} MB; TensorBoard loaded them in {loading:.1f} s")


def write(folder: Path, tensors: int, checks: int) -> None:
    """Write the event file of a run."""
    names = [f"layer{number // 2}/{'Wb'[number % 2]}" for number in range(tensors)]
    right = [report(names, seed, "") for seed in range(DISTINCT)]
    wrong = [report(names, seed, names[-1]) for seed in range(DISTINCT)]
    kinds = [
        [(summarize(one, described=set()), History().record(one)) for one in several] for several in (right, wrong)
    ]
    start = {name: [(0, "ok")] for name in names}
    changes = (start, {**start, names[-1]: [(0, "ok"), (checks // 2, "scale")]})
    file = LocalEventFile(folder)
    for number, step in enumerate(sorted({*range(0, checks, KEPT), checks // 2, checks - 1})):
        kind = int(step >= checks // 2)
        summary, record = kinds[kind][number % DISTINCT]
        tensors_now = {name: tensor | dates(tensor, step) for name, tensor in record["tensors"].items()}
        of_run = {"step": step, "began": 0, "checks": step + 1, "changes": changes[kind]}
        complete: Record = (
            record | of_run | {"tensors": tensors_now, "last": [step], "right": dict.fromkeys(names, step)}
        )
        event = event_pb2.Event(wall_time=float(step), step=step, summary=summarize_record(complete))
        event.summary.MergeFrom(summary)
        file.add(event)
    file.close()


def dates(tensor: Record, step: int) -> Record:
    """When a tensor was looked at, moved from step 0 to another."""
    return {"measured_at": step if tensor["measured_at"] == 0 else None, "screened_at": step}


def report(names: Sequence[str], seed: int, wrong: str) -> Report:
    """The report of a check, with random noise."""
    rng = np.random.default_rng(seed)
    measured = {wrong, *rng.choice(names, min(MEASURED, len(names)), replace=False)}
    found = {name: tensor(name, rng, 39.0 if name == wrong else 1.0) for name in names}
    found = {
        name: one if name in measured else dataclasses.replace(one, measured_at=None) for name, one in found.items()
    }
    verdict = Verdict.scale if wrong else Verdict.ok
    return Report(0, verdict, found, "native", 1000, 0.5, "A check.", 1.5, overhead=0.01)


def tensor(name: str, rng: np.random.Generator, factor: float) -> TensorReport:
    """The report of a tensor: from a routine check, or from a deep check if the gradient is wrong."""
    size = 100 if factor != 1 else 3
    g = rng.normal(size=size)
    n = g * factor * (1 + 1e-4 * rng.normal(size=size))
    made = diagnose({name: (g, n)}, error=3e-4 * float(np.abs(n).max())).tensors[name]
    entries = tuple(Entry((i, i), float(a), float(b), 1e-4) for i, (a, b) in enumerate(zip(g, n, strict=True)))
    return dataclasses.replace(
        made, entries=entries, worst=entries[:5], deep=factor != 1, evidence=0.1, measured_at=0, screened_at=0
    )


def loaded(address: str, checks: int) -> float:
    """The seconds until TensorBoard has read the last check."""
    started = time.monotonic()
    while not (runs := fetch(address, "gradguard/runs")["runs"]) or not _is_whole(address, runs[0]["name"], checks):
        time.sleep(0.2)
    return time.monotonic() - started


def _is_whole(address: str, run: str, checks: int) -> bool:
    return bool(fetch(address, "gradguard/run", run=run)["story"]["last"] == checks - 1)


def visit(chromium: Browser, address: str, number: int) -> tuple[str, ...]:
    """The seconds until the sentence, until the charts, and from one tensor to another."""
    chromium.forget()
    chromium.open(address)
    chromium.wait_for_tabs()
    chromium.wait_for_quiet()
    started = time.monotonic()
    chromium.show_tab()
    chromium.wait_for("#headline")
    sentence = time.monotonic() - started
    chromium.wait_for_charts()
    charts = time.monotonic() - started
    started = time.monotonic()
    chromium.press_on("[role=option][aria-selected=true]", "ArrowDown")
    chromium.wait_for_charts()
    return str(number), *(f"{seconds:.2f}" for seconds in (sentence, charts, time.monotonic() - started))
