"""Logs that somebody else has written, or damaged, read by all that reads logs."""

import contextlib
import copy
import dataclasses
import io
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.util.tensor_util import make_tensor_proto

from gradguard import JSONLWriter, Verdict, diagnose
from gradguard.cli import main
from gradguard.runs.logs import read_logs
from gradguard.writers import TensorBoardWriter
from gradguard.writers.record import CHECK_TAG, SWEEP_TAG, History
from gradguard.writers.tensorboard.event_file import LocalEventFile

WORDS = ["<script>alert(1)</script>", "</title>", "../../etc/passwd", "\x1b[2J", "a|b*c*", "\u202eW", "nan", "", "\0"]
NUMBERS: list[Any] = [0, -1, 1e308, 10**400, float("nan"), float("-inf"), True, 10**18]
HOSTILE = st.one_of(
    st.sampled_from([*WORDS, *NUMBERS, None, [], {}, [[]] * 3, {"": {}}, "x" * 10_000]),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=9)),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ),
)


G = [-0.000385, -0.001509, -9.238e-06, 2.473e-06, 6.266e-06, -0.000385]
N = [-0.015223, -0.058794, -0.000381, 9.537e-05, 0.000215, -0.015223]
WRONG = diagnose({"W": (G, N), "V": (N, N)})
WHOLE = History().record(WRONG)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every entry of a record."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(leaf for key, item in items for leaf in leaves(item, (*path, key)))]


PATHS = [path for path in leaves(WHOLE) if path]


def changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """The record with one entry replaced."""
    result = copy.deepcopy(WHOLE)
    place: Any = result
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return result


def write_events(folder: Path, *contents: bytes, tag: str = CHECK_TAG) -> Path:
    """An event file, whole as such, of records of any content."""
    file = LocalEventFile(folder)
    for step, content in enumerate(contents):
        value = summary_pb2.Summary.Value(tag=tag, tensor=make_tensor_proto(content))
        file.add(event_pb2.Event(step=step, wall_time=step, summary=summary_pb2.Summary(value=[value])))
    file.close()
    return next(folder.glob("events*"))


def require_told(folder: Path) -> None:
    """The report ends with a status that means something, or one line; its page has no element that a log made up."""
    page = folder / "page.html"
    for options in ([], ["--json"], ["--html", str(page)]):
        out, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            assert main(["report", str(folder), *options]) in (0, 1, 2)
        if options == ["--json"] and out.getvalue():
            json.loads(out.getvalue(), parse_constant=lambda _: 1 / 0)
        else:
            assert all(line.isprintable() for line in out.getvalue().split("\n"))
        assert all(line.isprintable() for line in errors.getvalue().split("\n"))
    assert b"<script>alert" not in (page.read_bytes() if page.exists() else b"")


@settings(max_examples=200)
@given(path=st.sampled_from(PATHS), value=HOSTILE, as_events=st.booleans())
@example(path=("tensors", "W", "cause"), value="\x00", as_events=False)
def test_a_record_with_anything_in_it_is_told_or_counted(path: tuple[Any, ...], value: Any, as_events: bool) -> None:
    """Of the wrong type, far too large, nested or markup, in any place of a check; in event files and in JSON lines."""
    with tempfile.TemporaryDirectory() as name:
        folder, content = Path(name), json.dumps(changed(path, value)).encode()
        if as_events:
            write_events(folder, content, json.dumps(WHOLE | {"step": 5}).encode())
        else:
            (folder / "log.jsonl").write_bytes(content + b"\n")
        require_told(folder)


@settings(max_examples=200)
@given(
    content=st.one_of(HOSTILE.map(lambda value: json.dumps(value).encode()), st.binary(max_size=60)),
    tag=st.sampled_from([CHECK_TAG, SWEEP_TAG]),
)
def test_an_event_that_is_no_record_is_told_or_counted(content: bytes, tag: str) -> None:
    """Under the tag of one; a sweep, too."""
    with tempfile.TemporaryDirectory() as name:
        write_events(Path(name), content, tag=tag)
        require_told(Path(name))


@settings(max_examples=600)
@given(data=st.data())
def test_an_event_file_that_is_damaged_anywhere_is_read_as_far_as_it_goes(data: st.DataObject) -> None:
    """Cut off, with bytes changed, or with others put in: what is whole before that is there."""
    with tempfile.TemporaryDirectory() as name:
        path = write_events(Path(name), *(json.dumps(WHOLE | {"step": step}).encode() for step in range(3)))
        content = bytearray(path.read_bytes())
        size = len(content) // 3
        place = data.draw(st.integers(2 * size + 60, len(content)))
        kind = data.draw(st.sampled_from(["cut", "flip", "insert"]))
        if kind == "cut":
            del content[place:]
        elif kind == "flip" and place < len(content):
            content[place] ^= data.draw(st.integers(1, 255))
        else:
            content[place:place] = data.draw(st.binary(min_size=1, max_size=40))
        path.write_bytes(content)
        (log,) = read_logs(name)
        assert [check["step"] for check in log.checks][:1] == [0]


@settings(max_examples=100)
@given(name=st.one_of(st.sampled_from(WORDS), st.text(max_size=20)))
def test_no_name_leads_out_of_the_log_or_into_the_page(name: str) -> None:
    """Whatever a tensor is called, all that is written of it lies in the folder, and it is shown as text."""
    tensor = dataclasses.replace(WRONG.tensors["W"], name=name)
    assert tensor.verdict is Verdict.scale
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer) / "runs"
        for writer in (JSONLWriter(folder / "lines" / "log.jsonl"), TensorBoardWriter(folder / "events")):
            writer.write(dataclasses.replace(WRONG, tensors={name: tensor}))
            writer.close()
        require_told(folder)
        files = [path.relative_to(folder).parts[0] for path in Path(outer).rglob("*") if path.is_file()]
        assert sorted(files) == ["events", "lines", "page.html"]
