"""Logs beside which, or in which, something is wrong: the rest is read, and a sentence says what is left out."""

import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from reports import MakeReport

from gradguard.cli import main
from gradguard.runs import event_file, logs, read_logs
from gradguard.runs.files import Skipped
from gradguard.writers import JSONLWriter, TensorBoardWriter
from gradguard.writers.tensorboard.checksum import masked_crc32c
from gradguard.writers.tensorboard.event_file import as_record

EVENTS = "events.out.tfevents.1.x"


@pytest.fixture
def good(tmp_path: Path, make_report: MakeReport) -> bytes:
    """A run in a folder of its own; the content of its event file."""
    writer = TensorBoardWriter(tmp_path / "good")
    for step in range(3):
        writer.write(make_report(step))
    writer.close()
    return next((tmp_path / "good").iterdir()).read_bytes()


def read(folder: Path) -> tuple[dict[str, list[int]], list[Skipped]]:
    """The steps of each run, and what was skipped."""
    skipped: list[Skipped] = []
    return {
        log.run: [check["step"] for check in log.checks] for log in read_logs(str(folder), skip=skipped.append)
    }, skipped


def header(size: int) -> bytes:
    """The beginning of a record that says that it has this many bytes."""
    length = struct.pack("<Q", size)
    return length + struct.pack("<I", masked_crc32c(length))


def with_wrong_checksum(good: bytes) -> bytes:
    """The file with a byte of its second event changed."""
    content, place = bytearray(good), 0
    for _ in ("version", "first event"):
        place += len(header(0)) + struct.unpack_from("<Q", good, place)[0] + len(struct.pack("<I", 0))
    content[place + len(header(0))] ^= 1
    return bytes(content)


@pytest.mark.parametrize(
    ("damage", "steps", "reason", "is_loss"),
    [
        (lambda good: as_record(b"\xff garbage") + good, [0, 1, 2], "1 damaged event in it left out", True),
        (lambda good: good + as_record(b"\xff" * 5000), [0, 1, 2], "1 damaged event in it", True),
        (with_wrong_checksum, [0, 2], "1 damaged event in it", True),
        (lambda good: good + header(2**35) + b"x" * 100, [0, 1, 2], "a record of 34359738368 bytes", True),
        (lambda good: good + header(2**63) + b"x" * 100, [0, 1, 2], "a record of 9223372036854775808 bytes", True),
        (lambda good: good + b"\0" * 4096, [0, 1, 2], "is damaged at byte", True),
        (lambda good: b"<html>not found</html>" + good, None, "is damaged at byte 0", True),
        (lambda good: good[:-1], [0, 1], "ends in the middle of an event", False),
        (lambda good: good + header(100)[:7], [0, 1, 2], "ends in the middle of an event", False),
    ],
)
def test_a_damaged_event_file_is_read_around_its_damage(
    tmp_path: Path, good: bytes, damage: Callable[[bytes], bytes], steps: list[int] | None, reason: str, is_loss: bool
) -> None:
    """And the good run beside it as if nothing were wrong."""
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / EVENTS).write_bytes(damage(good))
    runs, (skipped,) = read(tmp_path)
    assert runs == {"good": [0, 1, 2]} | ({} if steps is None else {"bad": steps})
    assert reason in skipped.reason
    assert skipped.is_loss is is_loss
    assert skipped.path.endswith(EVENTS)


@pytest.mark.parametrize("name", [EVENTS, "log.jsonl"])
def test_a_pipe_with_the_name_of_a_log_is_not_waited_for(tmp_path: Path, good: bytes, name: str) -> None:
    """Nor a folder, nor a link into nothing, nor a file that the system does not let anybody read."""
    assert good
    os.mkfifo(tmp_path / name)
    (tmp_path / f"a.{name}").mkdir()
    (tmp_path / f"b.{name}").symlink_to("nowhere")
    (tmp_path / f"c.{name}").symlink_to("/proc/self/mem")
    (tmp_path / f"d.{name}").symlink_to("/dev/zero")
    runs, skipped = read(tmp_path)
    assert runs == {"good": [0, 1, 2]}
    told = {Path(one.path).name: (one.reason, one.is_loss) for one in skipped}
    assert told == {
        name: ("a named pipe", False),
        f"b.{name}": ("it cannot be read (No such file or directory)", True),
        f"c.{name}": ("it cannot be read (Input/output error)", True),
        f"d.{name}": ("a device", False),
    }


def test_a_line_without_end_is_not_read_into_memory(
    tmp_path: Path, make_report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as one check that cannot be read, and the lines after it are read."""
    path = tmp_path / "log.jsonl"
    JSONLWriter(path).write(make_report(0))
    size = len(path.read_bytes())
    monkeypatch.setattr(logs, "MAX_LINE_BYTES", 2 * size)
    with path.open("ab") as file:
        file.write(b'{"step": 1, ' + b"x" * (9 * size) + b"\n")
    JSONLWriter(path).write(make_report(2))
    (log,) = read_logs(str(path))
    assert ([check["step"] for check in log.checks], log.unreadable) == ([0, 2], 1)


def test_a_file_that_vanishes_before_it_is_read_is_named(
    tmp_path: Path, good: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between listing and opening, a training may be cleaned away; the other runs are there."""
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / EVENTS).write_bytes(good)
    opened = event_file.open_regular

    def vanish(path: str) -> object:
        (tmp_path / "bad" / EVENTS).unlink(missing_ok=True)
        return opened(path)

    monkeypatch.setattr(event_file, "open_regular", vanish)
    runs, (skipped,) = read(tmp_path)
    assert runs == {"good": [0, 1, 2]}
    assert skipped.reason == "it cannot be read (No such file or directory)"


def test_a_log_that_is_written_meanwhile_is_read_as_far_as_it_is_whole(tmp_path: Path, make_report: MakeReport) -> None:
    """Each reading finds the checks from the first one on, without a gap, and nothing to complain of but an end."""
    writer = TensorBoardWriter(tmp_path)
    writer.write(make_report(0))
    thread = threading.Thread(target=lambda: [writer.write(make_report(step)) for step in range(1, 40)])
    thread.start()
    while thread.is_alive():
        runs, skipped = read(tmp_path)
        assert runs["."] == list(range(len(runs["."])))
        assert not any(one.is_loss for one in skipped)
    thread.join()
    writer.close()
    assert read(tmp_path) == ({".": list(range(40))}, [])


def test_the_report_names_what_it_skipped(tmp_path: Path, good: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """After the runs, a line for each; where checks may be missing, the exit status is not 0."""
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / EVENTS).write_bytes(good[:-1])
    assert main(["report", str(tmp_path)]) == 0
    (tmp_path / "bad" / EVENTS).write_bytes(good + as_record(b"\xff"))
    assert main(["report", str(tmp_path)]) == 2
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == f"Skipped {tmp_path / 'bad' / EVENTS}: 1 damaged event in it left out."
    assert sum("No bug" in line for line in told) == 4


def test_a_folder_with_a_bad_file_only_is_an_error_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not a traceback, and not silence."""
    (tmp_path / EVENTS).write_bytes(b"\0" * 500)
    assert main(["report", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert f"Skipped {tmp_path / EVENTS}: it is damaged at byte 0" in told
    assert "holds no log of gradguard" in told


def test_a_pipe_is_no_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither to read nor to write."""
    os.mkfifo(tmp_path / "log.jsonl")
    assert main(["report", str(tmp_path / "log.jsonl")]) == 2
    assert "log.jsonl is a named pipe" in capsys.readouterr().err
    with pytest.raises(ValueError, match="which is a pipe or a device"):
        JSONLWriter(tmp_path / "log.jsonl")
