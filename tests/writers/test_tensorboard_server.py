import html
import logging
import math
import re
from pathlib import Path

import pytest
from reports import MakeReport, MakeTensor
from servers import fetch, fetch_loaded, tensorboard_server

from gradguard import Alert, Verdict
from gradguard.writers import TensorBoardWriter


@pytest.mark.parametrize("load_fast", ["true", "false"])
def test_a_tensorboard_server_shows_it_all(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor, load_fast: str
) -> None:
    """Both of TensorBoard's loaders serve the curves, the band charts, the histograms and the alerts."""
    name = "lstm/W.x+(i)"
    alert = Alert(1, logging.ERROR, name, Verdict.scale, "numerical = 39 x backprop <b>on all gates</b>")
    tensors = make_tensor(name, floor=math.inf, verdict=Verdict.scale), make_tensor("V")
    writer = TensorBoardWriter(tmp_path / "run")
    writer.write(make_report(0, *tensors))
    writer.write(make_report(1, *tensors, alerts=(alert,)))
    writer.close()
    with tensorboard_server(tmp_path, "--load_fast", load_fast) as address:
        tags = fetch_loaded(address, "scalars/tags")["run"]
        [category] = fetch_loaded(address, "custom_scalars/layout")["category"]
        [series] = category["chart"][-1]["margin"]["series"]
        asked = "|".join(f"({re.escape(tag)})" for tag in series.values())
        curves = fetch(address, "custom_scalars/scalars", run="run", tag=asked)
        histograms = fetch(address, "histograms/tags")["run"]
        texts = fetch(address, "text/text", run="run", tag="gradguard.alerts/alerts")
    assert "gradguard.ratio/V" in tags
    assert "g backprop, n numerical" in tags["gradguard.discrepancy/V"]["description"]
    assert {tag: [point[1] for point in points] for tag, points in curves["tag_to_events"].items()} == {
        f"gradguard.z_custom_scalars/{name}/log10_d": [0, 1],
        f"gradguard.z_custom_scalars/{name}/lower": [0, 1],
        f"gradguard.z_custom_scalars/{name}/upper": [0, 1],
    }
    assert [chart["title"] for chart in category["chart"]] == ["V", name]
    assert f"gradguard.ratios/{name}" in histograms
    assert [text["step"] for text in texts] == [1]
    assert "<b>" not in texts[0]["text"]
    assert f"{name}: numerical = 39 x backprop <b>on all gates</b></li>" in html.unescape(texts[0]["text"])


def test_a_run_that_was_set_back_has_one_history(tmp_path: Path, make_report: MakeReport) -> None:
    """After restarts at an earlier step, in another process or the same, curves show what came last, once a step."""
    first = TensorBoardWriter(tmp_path / "run")
    for step in range(10):
        first.write(make_report(step, loss=1.0))
    first.close()
    restarted = TensorBoardWriter(tmp_path / "run")
    for step in range(6, 9):
        restarted.write(make_report(step, loss=2.0))
    restarted.resume()
    for step in range(8, 12):
        restarted.write(make_report(step, loss=3.0))
    restarted.close()
    with tensorboard_server(tmp_path) as address:
        fetch_loaded(address, "scalars/tags")
        points = fetch(address, "scalars/scalars", run="run", tag="gradguard.check/loss")
    assert [(step, value) for _, step, value in points] == [
        *((step, 1.0) for step in range(6)),
        *((step, 2.0) for step in range(6, 8)),
        *((step, 3.0) for step in range(8, 12)),
    ]
