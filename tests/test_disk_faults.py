import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from gradguard import GradGuard, JSONLWriter, Report, Verdict, check, snapshot_attributes, snapshot_rng
from gradguard.writers import read_jsonl

Params = dict[str, NDArray[Any]]


def event_steps(logdir: Path) -> list[int]:
    """The steps of all events of a run, in the order TensorBoard reads them."""
    files = [EventFileLoader(str(path)).Load() for path in sorted(logdir.glob("events*"))]
    return [event.step for file in files for event in file if event.HasField("summary")]


def logged_steps(path: Path) -> list[int]:
    """The steps of all lines of a log."""
    return [report["step"] for report in read_jsonl(path)]


class Training:
    """Gradient descent on a sine, under a guard that logs to a folder and to a file."""

    def __init__(self, logdir: Path) -> None:
        self.params = {"w": np.array([0.3, 0.7, 1.1], np.float32)}
        self.logdir = logdir / "run"
        self.log = logdir / "logs" / "log.jsonl"
        self.guard = GradGuard(
            self.params,
            self.loss,
            every_n_steps=1,
            max_overhead=None,
            logdir=self.logdir,
            writers=[JSONLWriter(self.log)],
        )
        self.steps = 0

    def loss(self) -> Any:
        """Of the live parameters."""
        return np.sin(self.params["w"]).sum()

    def run(self, steps: int) -> list[str]:
        """Train on; what was warned of."""
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(steps):
                grads = {"w": np.cos(self.params["w"])}
                assert self.guard.after_backward(self.steps, grads) is not None
                self.params["w"] -= np.float32(0.01) * grads["w"]
                self.steps += 1
        assert all(Path(warning.filename) == Path(__file__) for warning in told)
        return [str(warning.message) for warning in told]


def undisturbed(steps: int) -> bytes:
    """The parameters after a training without a guard."""
    w = np.array([0.3, 0.7, 1.1], np.float32)
    for _ in range(steps):
        w -= np.float32(0.01) * np.cos(w)
    return w.tobytes()


def block(path: Path) -> None:
    """Put a file where the folder was: nothing can be written there, not even by root."""
    path.rename(path.with_name(f"{path.name} moved"))
    path.write_text("in the way")


def unblock(path: Path) -> None:
    """Put the folder back."""
    path.unlink()
    path.with_name(f"{path.name} moved").rename(path)


def test_a_logdir_that_cannot_be_written_costs_its_records_and_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It says what is lost and what goes on; the other log has everything; logging resumes, which is told once too."""
    caplog.set_level("INFO", logger="gradguard")
    training = Training(tmp_path)
    assert training.run(2) == []
    block(training.logdir)
    (warning,) = training.run(3)
    assert warning.startswith("TensorBoardWriter failed (NotADirectoryError: ")
    assert "record of step 2 is lost; the training, the checks and other records go on" in warning
    assert "tried again at each check" in warning
    unblock(training.logdir)
    assert training.run(2) == []
    assert [record.getMessage() for record in caplog.records] == [
        "step 5: TensorBoardWriter works again; its records of 3 checks are lost"
    ]
    training.guard.close()
    assert event_steps(training.logdir) == [0, 1, 5, 6]
    assert logged_steps(training.log) == list(range(7))
    assert training.params["w"].tobytes() == undisturbed(7)


def test_each_failure_is_told_once_and_again_after_a_recovery(tmp_path: Path) -> None:
    """Both logs fail, one recovers and fails anew: a warning each time, and what could be is on record."""
    training = Training(tmp_path)
    told = []
    for event in (None, (block, training.logdir), (block, training.log.parent), None):
        if event:
            event[0](event[1])
        told.append(training.run(2))
    unblock(training.logdir)
    told.append(training.run(1))
    block(training.logdir)
    told.append(training.run(2))
    assert [[warning.split()[0] for warning in step] for step in told] == [
        [],
        ["TensorBoardWriter"],
        ["JSONLWriter"],
        [],
        [],
        ["TensorBoardWriter"],
    ]
    for path in (training.logdir, training.log.parent):
        unblock(path)
    training.run(1)
    training.guard.close()
    assert event_steps(training.logdir) == [0, 1, 8, 11]
    assert logged_steps(training.log) == [0, 1, 2, 3, 11]
    assert training.params["w"].tobytes() == undisturbed(12)


def test_a_logdir_that_is_deleted_is_begun_anew(tmp_path: Path) -> None:
    """Without a word: nothing of what comes is lost."""
    training = Training(tmp_path)
    training.run(2)
    for file in (*training.logdir.iterdir(), training.log):
        file.unlink()
    training.logdir.rmdir()
    assert training.run(2) == []
    training.guard.close()
    assert event_steps(training.logdir) == logged_steps(training.log) == [2, 3]


def test_a_writer_that_cannot_be_closed_is_told(tmp_path: Path) -> None:
    """Closing the guard does not raise, and the other writers are closed."""

    class Leaky(JSONLWriter):
        def close(self) -> None:
            raise OSError(28, "No space left on device")

    guard = GradGuard({"w": np.ones(2)}, writers=[Leaky(tmp_path / "a.jsonl"), JSONLWriter(tmp_path / "b.jsonl")])
    with pytest.warns(
        RuntimeWarning, match=r"Leaky failed .*No space left on device\); what it had not written"
    ) as told:
        guard.close()
    assert [Path(warning.filename) for warning in told] == [Path(__file__)]
    guard.close()


def run(source: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """A script in a process of its own."""
    command = [sys.executable, "-c", f"{TRAINING}{source}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


TRAINING = """
import hashlib, os, resource, signal, sys
from pathlib import Path
import numpy as np
from gradguard import GradGuard, JSONLWriter

params = {"w": np.array([0.3, 0.7, 1.1], np.float32)}
logdir, log = Path(sys.argv[1]), Path(sys.argv[1]) / "log.jsonl"

def guard():
    return GradGuard(params, lambda: np.sin(params["w"]).sum(), every_n_steps=1, max_overhead=None, logdir=logdir,
                     writers=[JSONLWriter(log)])

def train(guard, steps):
    for step in steps:
        grads = {"w": np.cos(params["w"])}
        guard.after_backward(step, grads)
        params["w"] -= np.float32(0.01) * grads["w"]
        yield step
"""

FULL = """
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

guard = guard()
for step in train(guard, range(8)):
    if step == 1:
        limit(min(path.stat().st_size for path in logdir.iterdir()) + int(sys.argv[2]))
    if step == 4:
        limit(resource.RLIM_INFINITY)
guard.close()
print(params["w"].tobytes().hex())
"""


@pytest.mark.parametrize("room", [0, 100])
def test_a_full_disk_is_survived(tmp_path: Path, room: int) -> None:
    """In the middle of a line and of an event: a warning for each log, training as if nothing were, nothing torn."""
    done = run(FULL, tmp_path, room)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == undisturbed(8).hex()
    assert done.stderr.count("RuntimeWarning: ") == 2
    assert done.stderr.count("File too large") == 2
    assert done.stderr.count("record of step 2 is lost") == 2
    assert logged_steps(tmp_path / "log.jsonl") == event_steps(tmp_path) == [0, 1, 5, 6, 7]


KILLED = """
for step in train(guard(), range(1000)):
    print(step, flush=True)
"""


def test_a_kill_loses_no_finished_check(tmp_path: Path) -> None:
    """SIGKILL at any time: every check that had ended is in both logs, also after a run that goes on after it."""
    finished = []
    for _ in range(4):
        command = [sys.executable, "-c", f"{TRAINING}{KILLED}", tmp_path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(5)]
            process.kill()
            finished += [int(line) for line in [*lines, *process.stdout] if line.endswith("\n")]
    for steps in (logged_steps(tmp_path / "log.jsonl"), event_steps(tmp_path)):
        for step in set(finished):
            assert steps.count(step) >= finished.count(step)


# Arrays of all kinds.


def memory_map(folder: Path, mode: Any) -> NDArray[Any]:
    """An array that is a file."""
    path = folder / "weights.bin"
    np.linspace(0.2, 1, 6, dtype=np.float32).tofile(path)
    return np.memmap(path, np.float32, mode, shape=(2, 3))


def block_of(rows: int, columns: int) -> NDArray[Any]:
    """Some float32 numbers."""
    return np.linspace(0.2, 1, rows * columns, dtype=np.float32).reshape(rows, columns)


KINDS: dict[str, Callable[[Path], NDArray[Any]]] = {
    "zero-dimensional": lambda _: np.array(0.3, np.float32),
    "Fortran order": lambda _: np.asfortranarray(block_of(2, 3)),
    "transposed": lambda _: block_of(3, 2).T,
    "strided view": lambda _: block_of(4, 9)[::2, 1::3],
    "backwards": lambda _: block_of(2, 3)[::-1, ::-1],
    "big-endian": lambda _: block_of(2, 3).astype(">f4"),
    "long double": lambda _: block_of(2, 3).astype(np.longdouble),
    "unaligned": lambda _: np.frombuffer(bytearray(b"x" + block_of(2, 3).tobytes()), np.uint8)[1:].view(np.float32),
    "memory-mapped": lambda folder: memory_map(folder, "r+"),
    "memory-mapped, copied on write": lambda folder: memory_map(folder, "c"),
}


@pytest.mark.parametrize("precision", ["native", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_all_kinds_are_checked_and_put_back(kind: str, precision: str, tmp_path: Path) -> None:
    """A right gradient is ok, one that is twice too large is a bug, and no byte of the array or its base changes."""
    params: Any = {"w": KINDS[kind](tmp_path), "none": np.zeros((0, 3), np.float32)}
    base = params["w"] if params["w"].base is None else params["w"].base
    array, before = params["w"], bytes(base)
    none = np.zeros((0, 3), np.float32)
    for factor, is_bug in ((1, False), (2, True)):
        guard = GradGuard(
            params, lambda: np.sin(params["w"]).sum(), every_n_steps=1, max_overhead=None, precision=precision
        )
        for step in range(2):
            report = guard.after_backward(step, {"w": factor * np.cos(params["w"]), "none": none})
            assert report is not None
            assert report.tensors["w"].verdict.is_bug == is_bug
            assert report.tensors["none"].verdict is Verdict.ok
            assert params["w"] is array
            assert bytes(base) == before


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ma.masked_array([0.1, 0.2], [0, 1]), "'w' is a MaskedArray.*plain array"),
        (np.broadcast_to(np.float32(1), (3,)), "'w' is read-only.*loss\\(params\\)"),
    ],
)
def test_arrays_that_cannot_be_checked_are_refused_at_once(array: Any, words: str) -> None:
    """When the guard is made, with the reason and what would do."""
    with pytest.raises((TypeError, ValueError), match=words):
        GradGuard({"w": array}, lambda: 0.0)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_a_matrix_is_refused_at_once() -> None:
    """NumPy's `matrix` multiplies in another way, and cannot be flattened."""
    with pytest.raises(TypeError, match=r"'w' is a matrix.*plain array"):
        GradGuard({"w": np.asmatrix(np.ones((2, 2)))}, lambda: 0.0)


def test_an_array_under_two_names_is_refused_at_once() -> None:
    """Unless the loss takes its parameters: then each name is moved for itself."""
    tied = np.array([0.3, 0.7], np.float32)
    with pytest.raises(ValueError, match=r"'dec' and 'enc' share memory.*one name, with the sum"):
        GradGuard({"enc": tied, "dec": tied}, lambda: np.sin(tied).sum())
    grads = {"enc": np.cos(tied), "dec": -np.sin(tied)}
    report = check({"enc": tied, "dec": tied}, grads, lambda p: (np.sin(p["enc"]) + np.cos(p["dec"])).sum())
    assert report.verdict is Verdict.ok


def test_a_loss_that_runs_the_backward_pass_too_does_not_change_the_gradients() -> None:
    """Into the same buffers, as a C++ model does: the optimizer gets those of the step."""
    w = np.array([0.3, 0.7, 1.1], np.float32)
    grads = {"w": np.cos(w)}
    before = grads["w"].tobytes()

    def loss() -> Any:
        np.cos(w, out=grads["w"])
        return np.sin(w).sum()

    guard = GradGuard({"w": w}, loss, every_n_steps=1, max_overhead=None, precision="native")
    for step in range(4):
        report = guard.after_backward(step, grads)
        assert report is not None
        assert report.verdict is Verdict.ok
        assert grads["w"].tobytes() == before


# State is found out.


class Stateful:
    """A loss with a state, of which the gradients know nothing."""

    def __init__(self) -> None:
        self.w = np.array([0.3, 0.7, 1.1, -0.4], np.float32)
        self.hidden = np.zeros(4, np.float32)
        self.calls = 0
        self.rng = np.random.default_rng(0)

    def dropout(self) -> Any:
        """Fresh masks."""
        return (np.sin(self.w) * (self.rng.random(4) < 0.7)).sum()

    def global_dropout(self) -> Any:
        """Fresh masks from the stream that everybody uses."""
        return (np.sin(self.w) * (np.random.random(4) < 0.7)).sum()  # noqa: NPY002 - users have it

    def carried(self) -> Any:
        """A hidden state that goes on."""
        self.hidden = np.tanh(self.w + np.float32(0.5) * self.hidden)
        return self.hidden.sum()

    def counted(self) -> Any:
        """It depends on how often it was called."""
        self.calls += 1
        return np.sin(self.w).sum() * np.float32(1 + 1e-3 * self.calls)


@pytest.mark.parametrize("precision", ["native", "auto"])
@pytest.mark.parametrize("loss", ["dropout", "global_dropout", "carried", "counted"])
def test_a_loss_with_a_state_is_found_out(loss: str, precision: str) -> None:
    """It is nondeterministic at every check and never a bug, and the report says what to pass; passed, it works."""
    model = Stateful()
    state = snapshot_attributes(model, "hidden", "calls", "rng")
    options: Any = {"every_n_steps": 1, "max_overhead": None, "precision": precision}
    guard = GradGuard({"w": model.w}, getattr(model, loss), **options)
    stream = np.random.get_state()[1:]  # noqa: NPY002
    for step in range(3):
        report = guard.after_backward(step, {"w": np.cos(model.w)})
        assert report is not None
        assert report.verdict is Verdict.nondeterministic
        assert "snapshot=snapshot_rng(generator)" in report.tensors["w"].cause
        assert "snapshot_attributes(model, 'hidden')" in report.tensors["w"].cause
    assert repr(np.random.get_state()[1:]) == repr(stream)  # noqa: NPY002
    restore = [state(), snapshot_rng(np.random)()]
    guard = GradGuard({"w": model.w}, getattr(model, loss), snapshot=[state, snapshot_rng(np.random)], **options)
    step_size = np.float64(1e-6)
    numeric = np.empty(4)
    for i in range(4):
        ends = []
        for sign in (1, -1):
            for put_back in restore:
                put_back()
            kept, model.w = model.w, model.w.astype(np.float64)
            model.w[i] += sign * step_size
            ends.append(float(getattr(model, loss)()))
            model.w = kept
        numeric[i] = (ends[0] - ends[1]) / (2 * step_size)
    for put_back in restore:
        put_back()
    for step in range(3):
        report = guard.after_backward(step, {"w": numeric.astype(np.float32)})
        assert report is not None
        assert report.verdict is Verdict.ok


class Periodic:
    """A loss with a state that changes at every so many calls only, and the gradient of the state it starts from."""

    def __init__(self, change: str, period: int) -> None:
        rng = np.random.default_rng(period)
        self.params: Params = {"w": rng.standard_normal(6).astype(np.float32)}
        self.masks = (rng.random((1000, 6)) < 0.7).astype(np.float32)
        self.change, self.period, self.calls, self.is_on = change, period, 0, True

    def state(self) -> Any:
        """What the loss is multiplied by: fresh masks, two in turn, a strange one for one call, or a schedule."""
        periods, place = divmod(self.calls, self.period)
        self.calls += self.is_on
        return {
            "fresh masks": self.masks[periods % 1000],
            "masks in turn": self.masks[periods % 2],
            "a strange mask": self.masks[int(place == self.period - 1)],
            "a schedule": self.masks[0] * np.float32(1 + 1e-5 * periods),
        }[self.change]

    def loss(self) -> Any:
        """In that state."""
        return (np.sin(self.params["w"]) * self.state()).sum()

    def grads(self) -> Params:
        """Where it starts."""
        return {"w": np.cos(self.params["w"]) * self.masks[0]}


CHANGES = ("fresh masks", "masks in turn", "a strange mask", "a schedule")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("period", [2, 5, 11, 23])
def test_a_state_that_seldom_changes_is_found_out(change: str, period: int) -> None:
    """By a deep check, however far the changes are apart."""
    model = Periodic(change, period)
    report = check(model.params, model.grads(), model.loss, precision="native")
    assert report.verdict is Verdict.nondeterministic
    assert "snapshot=snapshot_attributes(model, 'hidden')" in report.tensors["w"].cause


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("period", [2, 5, 11, 23])
def test_a_state_that_comes_up_later_is_found_out_too(change: str, period: int) -> None:
    """By the routine checks, of a loss that repeated at first; it is told as nothing else that is bad."""
    model = Periodic(change, period)
    model.is_on = False
    guard = GradGuard(model.params, model.loss, every_n_steps=1, max_overhead=None, precision="native")
    guard.after_backward(0, model.grads())
    model.is_on = True
    for step in range(1, 60):
        report = guard.after_backward(step, model.grads())
        assert report is not None
        assert not report.verdict.is_bug
        if report.verdict is Verdict.nondeterministic:
            break
    else:
        pytest.fail("it was not found out")


@pytest.mark.parametrize("change", ["fresh masks", "a schedule"])
def test_a_state_that_moves_on_within_a_routine_check_is_found_out_at_once(change: str) -> None:
    """By one more evaluation at its end: no deep check is made of a loss that does not repeat."""
    model = Periodic(change, period=11)
    model.is_on = False
    guard = GradGuard(model.params, model.loss, every_n_steps=1, max_overhead=None, precision="native")
    guard.after_backward(0, model.grads())
    model.is_on = True
    report = guard.after_backward(1, model.grads())
    assert report is not None
    assert report.verdict is Verdict.nondeterministic
    assert report.evaluations == 1 + 4 * (1 + 3) + 1


# Names and logs from elsewhere.


@pytest.mark.parametrize(
    "name", ["W\nstep 9  V  ok", "\x1b[2J", "../../W", "<script>", "a\\b|*c*", "\u202eW", "W\ud800"]
)
def test_a_tensor_of_any_name_is_shown_on_its_line_and_stays_in_the_logdir(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the report, in alerts and in the log no name begins a line or moves a cursor, and none is a path."""
    params = {name: np.array([0.3, 0.7], np.float32)}
    log = tmp_path / "runs" / "log.jsonl"
    with GradGuard(params, lambda: np.sin(params[name]).sum(), logdir=log.parent, writers=[JSONLWriter(log)]) as guard:
        report = guard.after_backward(0, {name: 3 * np.cos(params[name])})
    assert report is not None
    assert report.verdict is Verdict.scale
    lines = str(report).split("\n")
    assert [line[:9] for line in lines] == ["step 0  " + lines[0][8], " " * 9, "Float pre"]
    assert all(line.isprintable() for line in [*lines, *(record.getMessage() for record in caplog.records)])
    assert list(read_jsonl(log)[0]["tensors"]) == [name]
    assert {path.parent for path in tmp_path.rglob("*") if path.is_file()} == {log.parent}


HOSTILE = [
    "[" * 100_000,
    '{"a":' * 100_000,
    "NaN",
    '{"step": NaN}',
    '{"step": 1' + "0" * 5000 + "}",
    "\x00",
    "{}" * 9,
    '"',
    "1",
]


@pytest.mark.parametrize("line", HOSTILE)
def test_a_hostile_line_of_a_log_is_told_and_at_the_end_it_is_left_out(line: str, tmp_path: Path) -> None:
    """Deep nesting, numbers that are none, or far too long: with the number of the line; a writer mends the end."""
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"step": 0}}\n{line}')
    assert read_jsonl(path) == [{"step": 0}]
    JSONLWriter(path)
    assert path.read_text() == '{"step": 0}\n'
    path.write_text(f'{{"step": 0}}\n{line}\n{{"step": 1}}\n')
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2: expected the JSON of a report"):
        read_jsonl(path)


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=200), cut=st.integers(0, 60))
def test_a_log_of_anything_is_read_or_refused(
    content: bytes, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No bytes, before or after a whole line, make the reader or the writer fail in another way."""
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    whole = b'{"step": 0, "tensors": {"W": [1.5, null]}}\n'
    path.write_bytes(whole[:cut] + content)
    for read in (read_jsonl, JSONLWriter):
        try:
            read(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017 - reading it is as good


# Threads.


def test_a_guard_in_use_refuses_a_second_thread() -> None:
    """With both names and what to do; afterwards either may use it."""
    params, started, go_on = {"w": np.array([0.3])}, threading.Event(), threading.Event()

    def loss() -> float:
        started.set()
        assert go_on.wait(60)
        return float(np.sin(params["w"]).sum())

    guard = GradGuard(params, loss, every_n_steps=1, max_overhead=None)
    reports: list[Report | None] = []
    grads = {"w": np.cos(params["w"])}
    first = threading.Thread(target=lambda: reports.append(guard.after_backward(0, grads)), name="first")
    first.start()
    assert started.wait(60)
    with pytest.raises(RuntimeError, match=r"MainThread calls a guard that the thread first is using.*a guard and"):
        guard.after_backward(0, grads)
    go_on.set()
    first.join()
    reports.append(guard.after_backward(1, grads))
    assert [report.verdict for report in reports if report is not None] == [Verdict.ok] * 2


def test_each_thread_may_have_a_guard() -> None:
    """Eight at once find what each would find alone."""

    def train(seed: int, found: dict[int, list[float]]) -> None:
        params = {"w": np.random.default_rng(seed).standard_normal(3).astype(np.float32)}
        guard = GradGuard(params, lambda: np.sin(params["w"]).sum(), every_n_steps=1, max_overhead=None, seed=seed)
        for step in range(4):
            guard.after_backward(step, {"w": np.cos(params["w"])})
        found[seed] = [row.ratios["w"] for row in guard.history]

    alone: dict[int, list[float]] = {}
    for seed in range(8):
        train(seed, alone)
    together: dict[int, list[float]] = {}
    threads = [threading.Thread(target=train, args=(seed, together)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


# The command line imports only what was named.


def test_a_factory_is_all_that_is_imported_from_the_working_directory(tmp_path: Path) -> None:
    """Files beside it that are called like what gradguard or Python need are not run."""
    (tmp_path / "train.py").write_text(
        "import numpy as np\nw = {'w': np.ones(2)}\n"
        "def make():\n    return w, {'w': np.cos(w['w'])}, lambda: np.sin(w['w']).sum()\n"
    )
    for name in (
        "tensorboard",
        "matplotlib",
        "tqdm",
        "json",
        "random",
        "gradguard",
        "numpy",
        "csv",
        "torch",
        "encodings",
    ):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')\n")
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        [Path(sys.executable).with_name("gradguard"), "check", "train:make"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "was imported" not in done.stdout + done.stderr
