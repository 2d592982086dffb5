from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradguard import GradGuard, JSONLWriter, Verdict
from gradguard.writers import read_jsonl


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
    assert [line[:9] for line in lines] == ["step 0  " + lines[0][8], " " * 9, "Gradient ", "1 of 1 te"]
    logged = [line for record in caplog.records for line in record.getMessage().split("\n")]
    assert all(line.startswith("gradguard: ") for line in logged)
    assert all(line.isprintable() for line in [*lines, *logged])
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


@settings(max_examples=300)
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
