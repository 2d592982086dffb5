"""Curves, histograms, hyperparameters and the layout of the charts."""

import math
from pathlib import Path

import pytest
from reports import MakeReport, MakeTensor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard_runs import LAYOUT, charts, event_files, events_in, layouts, read_run, steps, values, write_all

from gradguard import Verdict
from gradguard.writers import TensorBoardWriter


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
            "smallest_visible": tensor.smallest_visible,
            "sign_agreement": 1.0,
            "step_size": tensor.step_size,
            "noise": tensor.noise,
            "verdict": 3.0,
        }.items()
    }


OWN = ("discrepancy", "floor", "sign_agreement", "step_size", "noise")
SCREENED = ("ratio", "ratio_drift", "evidence", "smallest_visible")


def test_a_number_of_an_earlier_step_is_no_point(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor
) -> None:
    """Own numbers are points where they were measured, those of a screen where it covered the tensor too."""
    dates = [(0, 0), (0, 10), (0, 10), (30, 30)]
    write_all(
        tmp_path,
        *(
            make_report(10 * i, make_tensor("W", measured_at=own, screened_at=seen))
            for i, (own, seen) in enumerate(dates)
        ),
    )
    run = read_run(tmp_path)
    assert all(steps(run, f"gradguard.{metric}/W") == [0, 30] for metric in OWN)
    assert all(steps(run, f"gradguard.{metric}/W") == [0, 10, 30] for metric in SCREENED)
    assert steps(run, "gradguard.verdict/W") == [0, 10, 30]
    assert steps(run, "gradguard.ratios/W") == steps(run, "gradguard.band/W/upper") == [0, 30]


def test_a_verdict_without_a_measurement_is_a_point(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor
) -> None:
    """A gradient that is not finite, or that is suspected, has no numbers, and its verdict is of the check."""
    write_all(tmp_path, make_report(10, make_tensor("W", verdict=Verdict.nonfinite, measured_at=None, sampled=0)))
    run = read_run(tmp_path)
    assert values(run, "gradguard.verdict/W") == [3]
    assert not [metric for metric in (*OWN, *SCREENED) if f"gradguard.{metric}/W" in run]


def test_a_ratio_that_is_not_known_has_not_stayed_the_same(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor
) -> None:
    """Its drift has a gap where it has one."""
    write_all(tmp_path, make_report(0, make_tensor("W", ratio=math.nan, ratio_drift=0.0)), make_report(1))
    assert steps(read_run(tmp_path), "gradguard.ratio_drift/W") == [1]


def test_the_check_counts_what_it_looked_at(tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """How many tensors were screened and measured are curves of the run."""
    later = make_tensor("W", measured_at=0, screened_at=10), make_tensor("V", screened_at=10)
    write_all(tmp_path, make_report(0), make_report(10, *later, screened=2))
    run = read_run(tmp_path)
    assert values(run, "gradguard.check/screened") == [0, 2]
    assert values(run, "gradguard.check/measured") == [2, 1]


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


def test_a_band_chart_waits_for_the_first_measurement(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor
) -> None:
    """TensorBoard draws an error for a chart without data; the first event of each curve has its description."""
    screened = make_tensor("V", measured_at=None, screened_at=0)
    write_all(tmp_path, make_report(0, make_tensor("W"), screened), make_report(1, make_tensor("W"), make_tensor("V")))
    run = read_run(tmp_path)
    assert [charts(layout) for layout in layouts(run)] == [["W"], ["W", "V"]]
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    curves = [tag for tag in run if tag.startswith("gradguard.") and run[tag][0][1].shape == ()]
    described = [tag for tag in curves if accumulator.SummaryMetadata(tag).summary_description]
    assert {"gradguard.discrepancy/V", "gradguard.smallest_visible/V", "gradguard.check/screened"} <= set(described)
    assert [tag for tag in curves if tag not in described and not tag.startswith("gradguard.record")] == []


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
