import html
import json
import logging
import math
import os
import re
import select
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from gradguard import Alert, Report, TensorReport, Verdict
from gradguard.writers import TensorBoardWriter

MakeReport: TypeAlias = Callable[..., Report]
MakeTensor: TypeAlias = Callable[..., TensorReport]

SECONDS_TO_START = 60


@contextmanager
def tensorboard_server(logdir: Path, load_fast: str) -> Iterator[str]:
    """A real TensorBoard over a log directory; yields the address it answers at."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--host", "127.0.0.1", "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*command, "--load_fast", load_fast], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment
    ) as process:
        try:
            yield read_address(process)
        finally:
            process.terminate()


def read_address(process: "subprocess.Popen[bytes]") -> str:
    """The address a server announces on its standard error."""
    assert process.stderr is not None
    output, deadline = b"", time.monotonic() + SECONDS_TO_START
    while not (address := re.search(rb"at (http://127\.0\.0\.1:\d+)/ ", output)):
        ready, _, _ = select.select([process.stderr], [], [], max(0.0, deadline - time.monotonic()))
        chunk = os.read(process.stderr.fileno(), 4096) if ready else b""
        assert chunk, f"TensorBoard did not start: {output.decode()}"
        output += chunk
    return address[1].decode()


def fetch(address: str, route: str, **parameters: str) -> Any:
    """What a route of a plugin answers, from JSON."""
    query = urllib.parse.urlencode(parameters)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{address}/data/plugin/{route}?{query}", timeout=SECONDS_TO_START) as response:
        return json.load(response)


def fetch_loaded(address: str, route: str, **parameters: str) -> Any:
    """What a route answers once the server has loaded the run."""
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        if answer := fetch(address, route, **parameters):
            return answer
    pytest.fail(f"TensorBoard never had anything to say at {route}")


@pytest.mark.parametrize("load_fast", ["true", "false"])
def test_a_tensorboard_server_shows_it_all(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor, load_fast: str
) -> None:
    """Both of TensorBoard's loaders serve the curves, the band charts, the histograms and the alerts."""
    name = "lstm/W.x+(i)"
    alert = Alert(1, logging.ERROR, name, Verdict.scale, "n = 39 x g <b>on all gates</b>")
    tensors = make_tensor(name, floor=math.inf), make_tensor("V")
    writer = TensorBoardWriter(tmp_path / "run")
    writer.write(make_report(0, *tensors))
    writer.write(make_report(1, *tensors, alerts=(alert,)))
    writer.close()
    with tensorboard_server(tmp_path, load_fast) as address:
        tags = fetch_loaded(address, "scalars/tags")["run"]
        [category] = fetch_loaded(address, "custom_scalars/layout")["category"]
        [series] = category["chart"][0]["margin"]["series"]
        asked = "|".join(f"({re.escape(tag)})" for tag in series.values())
        curves = fetch(address, "custom_scalars/scalars", run="run", tag=asked)
        histograms = fetch(address, "histograms/tags")["run"]
        texts = fetch(address, "text/text", run="run", tag="gradguard.alerts/alerts")
    assert "gradguard.ratio/V" in tags
    assert "float precision" in tags["gradguard.floor/V"]["description"]
    assert {tag: [point[1] for point in points] for tag, points in curves["tag_to_events"].items()} == {
        f"gradguard.discrepancy/{name}": [0, 1],
        f"gradguard.band/{name}/lower": [0, 1],
        f"gradguard.band/{name}/upper": [0, 1],
    }
    assert [chart["title"] for chart in category["chart"]] == [name, "V"]
    assert f"gradguard.ratios/{name}" in histograms
    assert [text["step"] for text in texts] == [1]
    assert "<b>" not in texts[0]["text"]
    assert "<td>n = 39 x g <b>on all gates</b></td>" in html.unescape(texts[0]["text"])
