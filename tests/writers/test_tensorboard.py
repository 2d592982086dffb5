import html
import logging
import math
import pickle
import re
import signal
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reports import MakeReport, MakeTensor, RunScript
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util.tensor_util import make_ndarray

from gradguard import Alert, Report, Verdict
from gradguard.writers import TensorBoardWriter, Writer
from gradguard.writers.summaries import alert_table

Series: TypeAlias = dict[str, list[tuple[int, np.ndarray[Any, Any]]]]

LAYOUT = "custom_scalars__config__"
ALERTS = "gradguard.alerts/alerts"


def read_run(logdir: Path) -> Series:
    """Each tag's steps and values, as TensorBoard reads them from all event files of a run."""
    accumulator = EventAccumulator(str(logdir), size_guidance={"tensors": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, make_ndarray(event.tensor_proto)) for event in accumulator.Tensors(tag)]
        for tag in accumulator.Tags()["tensors"]
    }


def steps(run: Series, tag: str) -> list[int]:
    """The steps of a tag, in order."""
    return [step for step, _ in run[tag]]


def values(run: Series, tag: str) -> list[float]:
    """The scalars of a tag, in order."""
    return [value.item() for _, value in run[tag]]


def layouts(run: Series) -> list[layout_pb2.Layout]:
    """Every layout of custom charts that was written, oldest first."""
    return [layout_pb2.Layout.FromString(value.item()) for _, value in run[LAYOUT]]


def charts(layout: layout_pb2.Layout) -> list[str]:
    """The titles of a layout's charts."""
    return [chart.title for category in layout.category for chart in category.chart]


def event_files(logdir: Path) -> list[Path]:
    """A run's event files, in the order TensorBoard reads them."""
    return sorted(logdir.glob("events.out.tfevents.*"))


def events_in(path: Path) -> list[Any]:
    """Every event of one file, the version first."""
    return list(EventFileLoader(str(path)).Load())


def write_all(logdir: Path, *reports: Report) -> None:
    """Write reports as one run does."""
    writer = TensorBoardWriter(logdir)
    for report in reports:
        writer.write(report)
    writer.close()


def test_each_metric_is_a_section_with_a_curve_for_each_tensor(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor
) -> None:
    """Every number of a tensor's report has its own tag, and comes back as it was written."""
    tensor = make_tensor("W", verdict=Verdict.scale, ratio=39.0)
    write_all(tmp_path, make_report(5, tensor))
    run = read_run(tmp_path)
    read = {tag: value.item() for tag in run if tag.endswith("/W") for _, value in run[tag] if value.shape == ()}
    assert read == {
        f"gradguard.{metric}/W": pytest.approx(value, rel=1e-6)
        for metric, value in {
            "discrepancy": tensor.discrepancy,
            "floor": tensor.floor,
            "ratio": 39.0,
            "ratio_drift": tensor.ratio_drift,
            "evidence": tensor.evidence,
            "sign_agreement": 1.0,
            "step_size": tensor.step_size,
            "noise": tensor.noise,
            "verdict": 3.0,
        }.items()
    }


def test_settings_are_hyperparameters_of_the_run(tmp_path: Path, make_report: MakeReport) -> None:
    """Runs can be compared by what they were guarded with; it is written once, with the precision that was found."""
    writer = TensorBoardWriter(tmp_path, settings={"seed": 7, "thresholds.discrepancy": 0.01})
    for step in range(2):
        writer.write(make_report(step))
    writer.close()
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    content = accumulator.SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content
    told = HParamsPluginData.FromString(content).session_start_info.hparams
    assert told["seed"].number_value == 7
    assert told["thresholds.discrepancy"].number_value == 0.01
    assert told["precision"].string_value == "native"


def test_the_check_itself_has_a_section(tmp_path: Path, make_report: MakeReport) -> None:
    """Cost, loss and the gravest verdict are curves of the run; overhead is left out where it is unknown."""
    write_all(tmp_path, make_report(0, overhead=None, verdict=Verdict.inconclusive), make_report(10, seconds=2.0))
    run = read_run(tmp_path)
    assert values(run, "gradguard.check/evaluations") == [64, 64]
    assert values(run, "gradguard.check/seconds") == [0.5, 2.0]
    assert values(run, "gradguard.check/verdict") == [2, 0]
    assert values(run, "gradguard.check/loss") == pytest.approx([1.6, 1.6])
    assert steps(run, "gradguard.check/overhead") == [10]


def test_one_check_is_one_event(tmp_path: Path, make_report: MakeReport) -> None:
    """A reader sees a check whole or not at all."""
    write_all(tmp_path, make_report(3), make_report(4))
    [path] = event_files(tmp_path)
    version, *checks = events_in(path)
    assert version.file_version == "brain.Event:2"
    assert [event.step for event in checks] == [3, 4]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_what_float32_cannot_hold_is_skipped(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor, value: float
) -> None:
    """A curve has a gap where its number is not finite, and the other curves go on."""
    write_all(tmp_path, make_report(0), make_report(1, make_tensor("W", ratio=value), loss=value))
    run = read_run(tmp_path)
    assert steps(run, "gradguard.ratio/W") == [0]
    assert steps(run, "gradguard.check/loss") == [0]
    assert steps(run, "gradguard.noise/W") == [0, 1]


def test_ratios_are_a_histogram_over_the_finite_ones(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor
) -> None:
    """Entries without a ratio are not counted, and a tensor with none of them has no histogram."""
    mixed = make_tensor("W", ratios=(1.0, math.nan, 2.0, math.inf, 2.0))
    write_all(tmp_path, make_report(0, mixed, make_tensor("V", ratios=(math.nan,)), make_tensor("b", ratios=())))
    run = read_run(tmp_path)
    [(_, buckets)] = run["gradguard.ratios/W"]
    assert (buckets[0, 0], buckets[-1, 1]) == (1.0, 2.0)
    assert [count for count in buckets[:, 2] if count] == [1, 2]
    assert {"gradguard.ratios/V", "gradguard.ratios/b"}.isdisjoint(run)


def test_the_layout_is_written_once_and_again_for_a_new_tensor(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor
) -> None:
    """TensorBoard shows the last layout of a run, so each holds all tensors that were ever seen."""
    w, v, b = (make_tensor(name) for name in "WVb")
    write_all(tmp_path, make_report(0, w, v), make_report(1, w), make_report(2, b), make_report(3, w, v, b))
    run = read_run(tmp_path)
    assert steps(run, LAYOUT) == [0, 2]
    assert [charts(layout) for layout in layouts(run)] == [["W", "V"], ["W", "V", "b"]]


@pytest.mark.parametrize(("floor", "top"), [(3.4e-5, 3.4e-5), (0.0, 0.0), (7.0, 1.0), (math.inf, 1.0), (math.nan, 1.0)])
def test_the_band_reaches_to_the_floor(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor, floor: float, top: float
) -> None:
    """Without a finite floor the band covers every discrepancy there can be, and that is 1."""
    write_all(tmp_path, make_report(0, make_tensor("W", floor=floor)))
    run = read_run(tmp_path)
    [series] = layouts(run)[0].category[0].chart[0].margin.series
    assert values(run, series.upper) == pytest.approx([top])
    assert values(run, series.lower) == pytest.approx([top / 1000])


def test_the_curves_of_a_band_chart_share_their_steps(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor
) -> None:
    """TensorBoard draws an error instead of the chart when value, lower and upper differ in a single step."""
    gaps = [{}, {"floor": math.nan}, {"discrepancy": math.nan}, {"discrepancy": math.nan, "floor": math.inf}, {}]
    write_all(tmp_path, *(make_report(step, make_tensor("W", **gap)) for step, gap in enumerate(gaps)))
    run = read_run(tmp_path)
    [series] = layouts(run)[0].category[0].chart[0].margin.series
    assert series.value == "gradguard.discrepancy/W"
    assert steps(run, series.value) == steps(run, series.lower) == steps(run, series.upper) == [0, 1, 4]


def test_the_alerts_of_a_step_are_one_table(tmp_path: Path, make_report: MakeReport) -> None:
    """All that was told at a check stands together, since TensorBoard keeps one text a step."""
    alerts = (
        Alert(4, logging.ERROR, "W", Verdict.scale, "n = 39.01(2) x g on all gates"),
        Alert(4, logging.INFO, "", Verdict.ok, "recovered"),
    )
    write_all(tmp_path, make_report(3), make_report(4, alerts=alerts))
    [(step, text)] = read_run(tmp_path)[ALERTS]
    assert step == 4
    assert text.item().decode().splitlines() == [
        "| level | tensor | verdict | message |",
        "| --- | --- | --- | --- |",
        "| ERROR | W | scale | n = 39.01(2) x g on all gates |",
        "| INFO |  | ok | recovered |",
    ]


HOSTILE = [
    "<script>alert(1)</script>",
    "a | b",
    r"a \| b",
    "*W* _W_ **W** `timesteps` ~~W~~",
    "[here](http://example.com) ![x](y)",
    "&lt;b&gt; &#42;",
    "# 1. > - ```",
    "\x02klzzwxh:0000\x03",
    "one\ntwo\r\n\n| x | y |",
    "lone \ud800 surrogate",
]


def rendered_cells(table: str) -> list[str]:
    """The text of a Markdown table's cells, as TensorBoard's own renderer shows it."""
    from tensorboard.plugin_util import markdown_to_safe_html

    document = markdown_to_safe_html(table)
    cells = re.findall("<td>(.*?)</td>", document, re.DOTALL)
    assert not any("<" in cell for cell in cells)
    return [html.unescape(cell) for cell in cells]


def shown(text: str) -> str:
    """A text on one line, with a mark for each character that cannot be shown."""
    return "".join(char if char.isprintable() else "\ufffd" for char in " ".join(text.split()))


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer is deprecated:DeprecationWarning")
@pytest.mark.parametrize("text", HOSTILE)
def test_names_and_messages_show_as_text(tmp_path: Path, make_report: MakeReport, text: str) -> None:
    """HTML, pipes and Markdown in a tensor's name or in a message are read, not rendered."""
    write_all(tmp_path, make_report(0, alerts=(Alert(0, logging.WARNING, text, Verdict.sign, text),)))
    [(_, table)] = read_run(tmp_path)[ALERTS]
    assert rendered_cells(table.item().decode()) == ["WARNING", shown(text), "sign", shown(text)]


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer is deprecated:DeprecationWarning")
@settings(deadline=None)
@given(text=st.text(alphabet=st.one_of(st.sampled_from("<>&|\\`*_[]()!#~^:;\"'x1 \t\n"), st.characters())))
def test_any_message_shows_as_text(text: str) -> None:
    """No text at all gets markup into the table, or loses a letter there."""
    cells = rendered_cells(alert_table([Alert(0, logging.WARNING, "W", Verdict.sign, f"x{text}x")]))
    assert cells == ["WARNING", "W", "sign", shown(f"x{text}x")]


def test_a_step_that_goes_back_is_refused(tmp_path: Path, make_report: MakeReport) -> None:
    """TensorBoard would erase the history, so the error names both steps and nothing is written."""
    writer = TensorBoardWriter(tmp_path)
    writer.write(make_report(20))
    writer.write(make_report(20))
    with pytest.raises(ValueError, match=r"at least 20, .* got 19"):
        writer.write(make_report(19))
    writer.write(make_report(21))
    writer.close()
    assert set(steps(read_run(tmp_path), "gradguard.ratio/W")) == {20, 21}


def test_a_logdir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """The mistake is told when the writer is made, with what was given and what was expected."""
    (tmp_path / "log").write_text("mine")
    for logdir in (tmp_path / "log", str(tmp_path / "log" / "run")):
        with pytest.raises(NotADirectoryError, match=r"expected a directory .* but .*log is a file"):
            TensorBoardWriter(logdir)
    assert (tmp_path / "log").read_text() == "mine"


def test_a_scheme_that_nothing_can_write_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown `scheme://` is an error when the writer is made, and never a local folder of that name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="nosuchscheme"):
        TensorBoardWriter("nosuchscheme://bucket/run")
    assert list(tmp_path.iterdir()) == []


def test_a_relative_logdir_stays_where_it_was_meant(
    tmp_path: Path, make_report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training script that changes its directory does not move its run."""
    monkeypatch.chdir(tmp_path)
    writer = TensorBoardWriter("run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    writer.write(make_report(0))
    writer.close()
    assert len(event_files(tmp_path / "run")) == 1


@pytest.mark.parametrize("name", ["../../../etc/W", "/W", "layers/0/W", "", "C:\\W", "W\x00", "é\ud800", "W.*+(["])
def test_a_tensor_may_have_any_name(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor, name: str
) -> None:
    """A name only ever becomes part of a tag: all that is written lies in the log directory."""
    logdir = tmp_path / "runs" / "lstm"
    write_all(logdir, make_report(0, make_tensor(name)))
    shown_name = name.encode("utf-8", "backslashreplace").decode()
    assert f"gradguard.discrepancy/{shown_name}" in read_run(logdir)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == event_files(logdir)


def test_the_multiplexer_finds_every_run(tmp_path: Path, make_report: MakeReport) -> None:
    """Runs side by side in one log directory are told apart by their folders."""
    write_all(tmp_path / "right", make_report(0))
    write_all(tmp_path / "wrong", make_report(0, verdict=Verdict.scale))
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    verdicts = {
        run: make_ndarray(multiplexer.Tensors(run, "gradguard.check/verdict")[0].tensor_proto).item()
        for run in multiplexer.Runs()
    }
    assert verdicts == {"right": 0, "wrong": 3}


def test_a_writer_may_be_closed_twice_and_written_to_again(tmp_path: Path, make_report: MakeReport) -> None:
    """Closing ends a file, not the writer: the next report begins another."""
    writer = TensorBoardWriter(tmp_path)
    assert isinstance(writer, Writer)
    writer.close()
    for step in range(2):
        writer.write(make_report(step))
        writer.close()
        writer.close()
    assert steps(read_run(tmp_path), "gradguard.ratio/W") == [0, 1]


def test_the_files_of_a_run_are_read_in_order(tmp_path: Path, make_report: MakeReport, run_script: RunScript) -> None:
    """TensorBoard sorts names as text and never goes back, so the tenth file must not sort before the ninth."""
    script = """
from gradguard.writers import TensorBoardWriter
writer = TensorBoardWriter(sys.argv[1])
for report in reports:
    writer.write(report)
    writer.close()
"""
    finished = run_script(script, [make_report(step) for step in range(12)], tmp_path / "run")
    assert finished.returncode == 0, finished.stderr
    assert len(event_files(tmp_path / "run")) == 12
    assert steps(read_run(tmp_path / "run"), "gradguard.ratio/W") == list(range(12))


def test_a_logdir_that_is_removed_is_begun_again(tmp_path: Path, make_report: MakeReport) -> None:
    """Clearing the runs while a training writes to them costs no report that comes later, nor the layout."""
    writer = TensorBoardWriter(tmp_path / "run")
    writer.write(make_report(0))
    (tmp_path / "run").rename(tmp_path / "old")
    writer.write(make_report(1))
    writer.close()
    run = read_run(tmp_path / "run")
    assert steps(run, "gradguard.ratio/W") == [1]
    assert [charts(layout) for layout in layouts(run)] == [["W", "V"]]


def test_a_pickled_writer_continues_in_a_file_of_its_own(tmp_path: Path, make_report: MakeReport) -> None:
    """A copy keeps the log directory, the last step and the tensors of the layout, and never shares a file."""
    writer = TensorBoardWriter(tmp_path)
    writer.write(make_report(5))
    copy = pickle.loads(pickle.dumps(writer))  # noqa: S301 - our own bytes
    writer.close()
    with pytest.raises(ValueError, match=r"at least 5, .* got 4"):
        copy.write(make_report(4))
    copy.write(make_report(6))
    copy.close()
    assert [[event.step for event in events_in(path)[1:]] for path in event_files(tmp_path)] == [[5], [6]]
    assert charts(layouts(read_run(tmp_path))[-1]) == ["W", "V"]


def test_reports_survive_a_kill(tmp_path: Path, make_report: MakeReport, run_script: RunScript) -> None:
    """A process killed right after `write` loses nothing."""
    script = """
import os, signal
from gradguard.writers import TensorBoardWriter
writer = TensorBoardWriter(sys.argv[1])
for report in reports:
    writer.write(report)
os.kill(os.getpid(), signal.SIGKILL)
"""
    finished = run_script(script, [make_report(step) for step in range(50)], tmp_path / "run")
    assert finished.returncode == -signal.SIGKILL, finished.stderr
    assert steps(read_run(tmp_path / "run"), "gradguard.ratio/W") == list(range(50))


def test_a_forked_child_writes_its_own_file(tmp_path: Path, make_report: MakeReport, run_script: RunScript) -> None:
    """Parent and child both go on writing, and neither tears the other's file."""
    script = """
import os
from gradguard.writers import TensorBoardWriter
writer = TensorBoardWriter(sys.argv[1])
writer.write(reports[0])
child = os.fork()
for report in reports[1:] if child else reports[-1:]:
    writer.write(report)
writer.close()
if child == 0:
    os._exit(0)
sys.exit(os.waitpid(child, 0)[1])
"""
    finished = run_script(script, [make_report(step) for step in range(30)], tmp_path / "run")
    assert finished.returncode == 0, finished.stderr
    written = [[event.step for event in events_in(path)[1:]] for path in event_files(tmp_path / "run")]
    assert sorted(written) == [list(range(30)), [29]]


FULL_DISK = """
import resource, signal
from pathlib import Path
from gradguard.writers import TensorBoardWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
unlimited = resource.RLIM_INFINITY
logdir, room = Path(sys.argv[1]), int(sys.argv[2])
writer = TensorBoardWriter(logdir)
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, unlimited))
"""


def test_a_full_disk_costs_only_the_reports_that_did_not_fit(
    tmp_path: Path, make_report: MakeReport, run_script: RunScript
) -> None:
    """After an OSError in the middle of an event the next report begins a file, and no torn event is left."""
    script = f"""{FULL_DISK}
writer.write(reports[0])
writer.write(reports[1])
[first] = logdir.iterdir()
whole = first.stat().st_size
limit(whole + room)
try:
    writer.write(reports[2])
except OSError as error:
    print(error.errno, first.stat().st_size - whole)
limit(unlimited)
writer.write(reports[3])
writer.close()
"""
    finished = run_script(script, [make_report(step) for step in range(4)], tmp_path / "run", 100)
    assert finished.returncode == 0, finished.stderr
    assert (finished.stdout, finished.stderr) == ("27 0\n", "")
    run = read_run(tmp_path / "run")
    assert steps(run, "gradguard.ratio/W") == [0, 1, 3]
    assert steps(run, LAYOUT) == [0, 3]


@pytest.mark.parametrize("room", [0, 10, 200])
def test_a_disk_that_stays_full_is_not_littered(
    tmp_path: Path, make_report: MakeReport, run_script: RunScript, room: int
) -> None:
    """A file that never held a whole check is removed, however often the writer tries."""
    script = f"""{FULL_DISK}
limit(room)
for report in reports:
    try:
        writer.write(report)
    except OSError:
        print(len(list(logdir.iterdir())))
limit(unlimited)
writer.write(reports[0])
writer.close()
"""
    finished = run_script(script, [make_report(step) for step in range(3)], tmp_path / "run", room)
    assert (finished.stdout, finished.stderr) == ("0\n0\n0\n", "")
    assert steps(read_run(tmp_path / "run"), "gradguard.ratio/W") == [0]


def test_a_remote_logdir_is_written_through_fsspec(tmp_path: Path, make_report: MakeReport) -> None:
    """A `scheme://` path holds each report when `write` returns, also from a pickled copy."""
    pytest.importorskip("fsspec")
    writer = TensorBoardWriter(f"file://{tmp_path}/run")
    for step in range(3):
        writer.write(make_report(step))
        assert steps(read_run(tmp_path / "run"), "gradguard.ratio/W") == list(range(step + 1))
    copy = pickle.loads(pickle.dumps(writer))  # noqa: S301 - our own bytes
    writer.close()
    copy.write(make_report(3))
    copy.close()
    run = read_run(tmp_path / "run")
    assert steps(run, "gradguard.ratio/W") == [0, 1, 2, 3]
    assert charts(layouts(run)[-1]) == ["W", "V"]
