"""Real signals, one at a time, in storms and from a parent process."""

import functools
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from disturbed_model import FORMS, Model
from signal_storm import StopError, Storm

from gradguard import GradGuard, JSONLWriter, Report, Verdict
from gradguard.writers import read_jsonl


@pytest.mark.parametrize("form", FORMS)
def test_real_signals_at_any_time_leave_no_trace(form: str) -> None:
    """Timers whose handler raises, at random times of the first check and of later ones; and the guard can go on."""
    model, rng, storm = Model(form), np.random.default_rng(0), Storm()
    guard = model.guard()
    everything = model.everything()
    began = time.perf_counter()
    guard.after_backward(0, model.grads)
    seconds = time.perf_counter() - began
    with storm.handled():
        for step in range(1, 60):
            if step % 20 == 0:
                guard = model.guard()
            after = rng.uniform(1e-4, seconds if not guard.history else seconds / 30)
            storm.run(lambda guard=guard, step=step: guard.after_backward(step, model.grads), 1, after)  # type: ignore[misc]
            assert model.everything() == everything
    assert storm.raised >= 10
    report = model.guard().after_backward(0, model.grads)
    assert report is not None
    assert report.verdict is Verdict.ok


@pytest.mark.parametrize("form", FORMS)
def test_a_storm_of_signals_leaves_no_trace(form: str) -> None:
    """Up to six, 50 to 500 microseconds apart: the later ones come while it is put back what the first interrupted."""
    model, rng, storm = Model(form), np.random.default_rng(1), Storm()
    guard = model.guard()
    guard.after_backward(0, model.grads)
    everything = model.everything()
    with storm.handled():
        for step in range(1, 300):
            count, after, every = int(rng.integers(2, 7)), rng.uniform(1e-4, 5e-3), rng.uniform(5e-5, 5e-4)
            storm.run(lambda step=step: guard.after_backward(step, model.grads), count, after, every)  # type: ignore[misc]
            assert model.everything() == everything
    assert storm.raised > 250


@pytest.mark.parametrize("kind", ["function", "method", "partial", "object", "once"])
def test_what_a_signals_handler_raises_in_a_writer_is_no_failure_of_the_writer(kind: str, tmp_path: Path) -> None:
    """It goes on to the user, however the handler is made; the next check is on record again."""

    def handler(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signals call it
        raise StopError

    class Handler:
        def __call__(self, number: int, frame: FrameType | None) -> None:
            handler(number, frame)

    def once(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        handler(number, frame)

    class Slow(JSONLWriter):
        def write(self, report: Report) -> None:
            signal.raise_signal(signal.SIGALRM)
            super().write(report)

    kinds: dict[str, Any] = {"function": handler, "method": Handler().__call__, "once": once, "object": Handler()}
    model, log = Model("native"), tmp_path / "log.jsonl"
    options: Any = {"every_n_steps": 1, "max_overhead": None, "snapshot": model.snapshots()}
    guard = GradGuard(model.params, model.loss, writers=[Slow(log)], **options)
    everything = model.everything()
    before = signal.signal(signal.SIGALRM, kinds.get(kind, functools.partial(handler)))
    try:
        with pytest.raises(StopError):
            guard.after_backward(0, model.grads)
        assert model.everything() == everything
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        guard.after_backward(1, model.grads)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert [report["step"] for report in read_jsonl(log)] == [1]


def test_ctrl_c_and_sigterm_arrive_with_the_parameters_in_place(tmp_path: Path) -> None:
    """A process that saves its parameters when it is stopped in the middle of a check saves the right ones."""
    script = tmp_path / "train.py"
    script.write_text(STOPPED)
    for number in (signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, cwd=tmp_path) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"checking\n"
            process.send_signal(number)
            assert process.stdout.read() == {signal.SIGINT: b"KeyboardInterrupt", signal.SIGTERM: b"SystemExit"}[number]
        assert np.load(tmp_path / "saved.npy").tolist() == np.float32([0.3, 0.7, 1.1]).tolist()


STOPPED = """
import signal, sys, time
import numpy as np
from gradguard import GradGuard

params = {"w": np.array([0.3, 0.7, 1.1], np.float32)}
calls = 0

def loss():
    global calls
    calls += 1
    if params["w"].tolist() != np.float32([0.3, 0.7, 1.1]).tolist():
        if calls > 20:
            print("checking", flush=True)
            time.sleep(60)
    return np.sin(params["w"]).sum()

signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a parent in the background may have ignored
guard = GradGuard(params, loss, every_n_steps=1, precision="native")
try:
    guard.after_backward(0, {"w": np.cos(params["w"])})
except BaseException as error:
    np.save("saved.npy", params["w"])
    print(type(error).__name__, end="", flush=True)
"""
