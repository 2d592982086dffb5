"""Curves, histograms and the layout of the charts."""

import math
from pathlib import Path

import pytest
from reports import MakeReport, MakeTensor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard_runs import LAYOUT, charts, event_files, events_in, layouts, read_run, steps, values, write_all

from gradguard import Verdict


def test_each_metric_is_a_section_with_a_curve_for_each_tensor(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor
) -> None:
    """What a person follows over the steps has a tag of its own, and comes back as it was written; the band is last."""
    tensor = make_tensor("W", verdict=Verdict.scale, ratio=39.0)
    write_all(tmp_path, make_report(5, tensor))
    run = read_run(tmp_path)
    read = {tag: value.item() for tag in run if tag.endswith("/W") for _, value in run[tag] if value.shape == ()}
    assert read == {
        f"gradguard.{metric}/W": pytest.approx(value, rel=1e-6)
        for metric, value in {
            "discrepancy": tensor.discrepancy,
            "ratio": 39.0,
            "ratio_drift": tensor.ratio_drift,
            "sign_agreement": 1.0,
        }.items()
    }
    sections = {tag.partition("/")[0] for tag in run if tag.startswith("gradguard")}
    assert sorted(sections)[0] == "gradguard"
    assert sorted(sections)[-1] == BAND


def test_the_overview_has_the_worst_tensor_and_counts_verdicts(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor
) -> None:
    """What the check measured at its step is in it, and what is meant to differ is not the worst of it."""
    old = make_tensor("W", discrepancy=0.95, floor=1e-5, verdict=Verdict.scale, measured_at=0, evidence=20.0)
    meant = make_tensor("E", discrepancy=0.9, floor=1e-3, verdict=Verdict.expected, evidence=0.3)
    fresh = make_tensor("V", discrepancy=4e-4, floor=2e-4, verdict=Verdict.float_precision, evidence=0.5)
    write_all(tmp_path, make_report(10, old, meant, fresh, overhead=0.01))
    run = read_run(tmp_path)
    overview = {tag: value.item() for tag in run if tag.startswith("gradguard/") for _, value in run[tag]}
    assert overview == {
        f"gradguard/{name}": pytest.approx(value)
        for name, value in {
            "discrepancy_over_floor": 2.0,
            "evidence": 0.5,
            "tensors_bug": 1,
            "tensors_cannot_tell": 0,
            "tensors_explained": 2,
            "tensors_ok": 0,
            "overhead": 0.01,
        }.items()
    }


OWN = ("discrepancy", "sign_agreement")
SCREENED = ("ratio", "ratio_drift")
BAND = "gradguard.z_custom_scalars"


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
    assert steps(run, f"{BAND}/W/upper") == [0, 30]
    assert steps(run, "gradguard/discrepancy_over_floor") == [0, 30]
    assert steps(run, "gradguard/evidence") == [0, 10, 30]


def test_a_verdict_without_a_measurement_is_counted(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor
) -> None:
    """A gradient that is not finite, or that is suspected, has no numbers, and its verdict is of the check."""
    write_all(tmp_path, make_report(10, make_tensor("W", verdict=Verdict.nonfinite, measured_at=None, sampled=0)))
    run = read_run(tmp_path)
    assert values(run, "gradguard/tensors_bug") == [1]
    assert "gradguard/discrepancy_over_floor" not in run
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


def test_the_hparams_tab_stays_the_users(tmp_path: Path, make_report: MakeReport) -> None:
    """With hyperparameters of a guard, each of its curves would be a metric there, and the user's columns drown."""
    write_all(tmp_path, make_report(0), make_report(1))
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    assert accumulator.PluginTagToContent("scalars")
    with pytest.raises(KeyError):
        accumulator.PluginTagToContent("hparams")


def test_the_check_itself_has_a_section(tmp_path: Path, make_report: MakeReport) -> None:
    """Cost, loss and the gravest verdict are curves of the run; overhead is left out where it is unknown."""
    write_all(tmp_path, make_report(0, overhead=None, verdict=Verdict.inconclusive), make_report(10, seconds=2.0))
    run = read_run(tmp_path)
    assert values(run, "gradguard.check/evaluations") == [64, 64]
    assert values(run, "gradguard.check/seconds") == [0.5, 2.0]
    assert values(run, "gradguard.check/verdict") == [2, 0]
    assert values(run, "gradguard.check/loss") == pytest.approx([1.6, 1.6])
    assert steps(run, "gradguard/overhead") == [10]


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
    assert steps(run, "gradguard.discrepancy/W") == [0, 1]


def test_ratios_are_a_histogram_over_the_finite_ones(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor
) -> None:
    """Entries without a ratio are not counted, and a tensor that is right or has none of them has no histogram."""
    wrong = {"verdict": Verdict.structure}
    mixed = make_tensor("W", ratios=(1.0, math.nan, 2.0, math.inf, 2.0), **wrong)
    empty = make_tensor("V", ratios=(math.nan,), **wrong), make_tensor("b", ratios=(), **wrong)
    write_all(tmp_path, make_report(0, mixed, *empty, make_tensor("c")))
    run = read_run(tmp_path)
    [(_, buckets)] = run["gradguard.ratios/W"]
    assert (buckets[0, 0], buckets[-1, 1]) == (1.0, 2.0)
    assert [count for count in buckets[:, 2] if count] == [1, 2]
    assert {"gradguard.ratios/V", "gradguard.ratios/b", "gradguard.ratios/c"}.isdisjoint(run)


def test_the_layout_is_written_once_and_again_for_a_new_tensor(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor
) -> None:
    """TensorBoard shows the last layout of a run, so each holds all tensors so far, as the model has them."""
    w, v, b = (make_tensor(name) for name in "WVb")
    later = make_tensor("W", measured_at=None, screened_at=0)
    write_all(tmp_path, make_report(0, later, v), make_report(1, w), make_report(2, b), make_report(3, w, v, b))
    run = read_run(tmp_path)
    assert steps(run, LAYOUT) == [0, 1, 2]
    assert [charts(layout) for layout in layouts(run)] == [["V"], ["W", "V"], ["W", "V", "b"]]


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
    assert {"gradguard.discrepancy/V", "gradguard.ratio_drift/V", "gradguard.check/screened"} <= set(described)
    assert [tag for tag in curves if tag not in described and not tag.startswith("gradguard.record")] == []


@pytest.mark.parametrize(
    ("floor", "top"), [(3.4e-5, 3.4e-5 * 4.309), (0.0, 1e-18), (7.0, 1.0), (math.inf, 1.0), (math.nan, 1.0)]
)
def test_the_band_reaches_to_the_largest_d_of_rounding(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor, floor: float, top: float
) -> None:
    """Two floors, and more of few entries, as logarithms. Without a finite floor it reaches to 1, the largest d."""
    write_all(tmp_path, make_report(0, make_tensor("W", floor=floor)))
    run = read_run(tmp_path)
    [series] = layouts(run)[0].category[0].chart[0].margin.series
    assert values(run, series.upper) == pytest.approx([math.log10(top)], abs=1e-4)
    assert values(run, series.lower) == pytest.approx([math.log10(top) - 3], abs=1e-4)


def test_a_discrepancy_of_zero_stands_at_the_edge_of_its_band(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor
) -> None:
    """It has no logarithm, and without a point its chart would be an error."""
    write_all(tmp_path, make_report(0, make_tensor(discrepancy=0.95)), make_report(1, make_tensor(discrepancy=0.0)))
    run = read_run(tmp_path)
    [series] = layouts(run)[0].category[0].chart[0].margin.series
    assert values(run, series.value) == pytest.approx([math.log10(0.95), values(run, series.lower)[1]])
    assert values(run, "gradguard.discrepancy/W") == pytest.approx([0.95, 0.0])


def test_the_curves_of_a_band_chart_share_their_steps(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor
) -> None:
    """TensorBoard draws an error instead of the chart when value, lower and upper differ in a single step."""
    gaps = [{}, {"floor": math.nan}, {"discrepancy": math.nan}, {"discrepancy": math.nan, "floor": math.inf}, {}]
    write_all(tmp_path, *(make_report(step, make_tensor("W", **gap)) for step, gap in enumerate(gaps)))
    run = read_run(tmp_path)
    [series] = layouts(run)[0].category[0].chart[0].margin.series
    assert steps(run, "gradguard.discrepancy/W") == steps(run, series.value)
    assert steps(run, series.value) == steps(run, series.lower) == steps(run, series.upper) == [0, 1, 4]
