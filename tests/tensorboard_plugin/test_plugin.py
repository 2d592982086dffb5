import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from reports import MakeReport, MakeTensor
from servers import fetch, fetch_loaded, tensorboard_server
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.util.tensor_util import make_tensor_proto

from gradguard import Verdict
from gradguard.report.verdict import Level
from gradguard.tensorboard_plugin.page import STATIC
from gradguard.writers import TensorBoardWriter
from gradguard.writers.record import CHECK_TAG, PLUGIN
from gradguard.writers.tensorboard.event_file import LocalEventFile

IMPORTS = """
import builtins, sys

real = builtins.__import__
allowed = {"gradguard", "tensorboard", "werkzeug", "numpy", "google", *sys.stdlib_module_names}


def only_some(name, globals=None, locals=None, fromlist=(), level=0):
    asker = (globals or {}).get("__name__", "")
    if level == 0 and asker.startswith("gradguard") and name.partition(".")[0] not in allowed:
        raise ImportError(f"{asker} imports {name}")
    return real(name, globals, locals, fromlist, level)


builtins.__import__ = only_some
from gradguard.tensorboard_plugin.plugin import GradGuardPlugin
from tensorboard.plugins.base_plugin import TBContext

plugin = GradGuardPlugin(TBContext())
assert not plugin.is_active()
assert "/static/index.js" in plugin.get_plugin_apps()
assert not {"matplotlib", "plotly", "torch", "tqdm"} & set(sys.modules)
"""


@pytest.fixture(scope="module", params=["true", "false"])
def address(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    make_report: MakeReport,
    make_tensor: MakeTensor,
) -> Iterator[str]:
    """Each of TensorBoard's loaders, over a run of 700 checks and one whose records are broken."""
    folder = tmp_path_factory.mktemp("runs")
    writer = TensorBoardWriter(folder / "long")
    for step in range(700):
        verdict = Verdict.scale if 300 <= step < 303 else Verdict.ok
        writer.write(make_report(step, make_tensor("a/b \N{TEST TUBE}", verdict=verdict), verdict=verdict))
    writer.close()
    write_raw(folder / "broken", b"{", json.dumps({"step": 1, "tensors": {"W": {"verdict": 7}}}).encode(), b"\xff")
    with tensorboard_server(folder, "--load_fast", request.param) as address:
        fetch_loaded(address, "gradguard/run", run="long")
        yield address


def write_raw(folder: Path, *contents: bytes) -> None:
    """Write an event file with records of any content."""
    file = LocalEventFile(folder)
    metadata = summary_pb2.SummaryMetadata(
        plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name=PLUGIN), data_class=summary_pb2.DATA_CLASS_TENSOR
    )
    for step, content in enumerate(contents):
        value = summary_pb2.Summary.Value(tag=CHECK_TAG, metadata=metadata, tensor=make_tensor_proto(content))
        file.add(event_pb2.Event(step=step, wall_time=step, summary=summary_pb2.Summary(value=[value])))
    file.close()


def loaded(address: str, run: str, last: int) -> Any:
    """The overview of a run, once TensorBoard has read it to its end."""
    while True:
        overview = fetch(address, "gradguard/run", run=run)
        if overview["story"]["last"] == last:
            return overview


def test_the_sample_that_tensorboard_keeps_tells_the_whole_story(address: str) -> None:
    """Three wrong checks among 700 are not lost, whichever were kept, and the number of all is known."""
    overview = loaded(address, "long", 699)
    assert overview["shown"] < 700
    assert overview["story"]["checks"] == 700
    assert "from step 300, right again at step 303" in overview["story"]["headline"]
    assert overview["tensors"][0]["name"] == "a/b \N{TEST TUBE}"
    assert overview["tensors"][0]["changes"] == [[0, "ok"], [300, "scale"], [303, "ok"]]


def test_the_page_learns_every_verdict_from_the_server(address: str) -> None:
    """How grave each is and what it is called comes with the runs."""
    verdicts = fetch(address, "gradguard/runs")["verdicts"]
    assert list(verdicts) == [str(verdict) for verdict in Verdict]
    scale = {"level": "bug", "words": "scale", "label": "BUG: scale", "is_factor": True, "agrees": False}
    assert verdicts["scale"] == scale
    assert verdicts["float_precision"]["words"] == "float precision"


def test_no_script_lists_verdicts() -> None:
    """A verdict is written in Python alone; the tab's own names are those of the levels."""
    scripts = "\n".join(path.read_text(encoding="utf-8") for path in STATIC.glob("*.js"))
    levels = {level.name for level in Level}
    assert [verdict for verdict in Verdict if verdict not in levels and f"'{verdict}'" in scripts] == []


def test_the_menu_of_runs_knows_how_each_ended(address: str) -> None:
    """The worst is first, and the last record of a run tells it all."""
    loaded(address, "long", 699)
    long, broken = fetch(address, "gradguard/runs")["runs"]
    assert (long["name"], long["state"], long["checks"], long["last"]) == ("long", "recovered", 700, 699)
    assert "scale in a/b \N{TEST TUBE}, from step 300, right again at step 303" in long["headline"]
    assert (broken["name"], broken["state"]) == ("broken", "empty")


def test_a_tensor_is_had_by_its_name_and_step(address: str) -> None:
    """Its numbers over all checks, and its details at one; and what TensorBoard no longer keeps is said."""
    steps, name = loaded(address, "long", 699)["steps"], "a/b \N{TEST TUBE}"
    tensor = fetch(address, "gradguard/tensor", run="long", tensor=name, step=str(steps[-1]))
    assert [len(series) for series in tensor["series"].values()] == [len(steps)] * len(tensor["series"])
    assert tensor["report"]["verdict"] == "ok"
    assert "entries" in tensor["report"]
    with pytest.raises(HTTPError) as refused:
        fetch(address, "gradguard/tensor", run="long", tensor=name, step="9999")
    with refused.value as answer:
        assert answer.code == 404
        assert "no longer keeps the check at step 9999" in json.load(answer)["error"]


def test_broken_records_are_counted_and_the_others_shown(address: str) -> None:
    """What is there is shown, and how much is missing is told."""
    overview = loaded(address, "broken", 1)
    assert overview["unreadable"] == 2
    assert overview["steps"] == [1]
    assert overview["story"]["state"] == "unclear"


def test_a_request_without_a_run_is_refused_in_words(address: str) -> None:
    """TensorBoard and its other tabs go on."""
    with pytest.raises(HTTPError) as refused:
        fetch(address, "gradguard/run")
    with refused.value as answer:
        assert answer.code == 400
        assert "the request has no run" in json.load(answer)["error"]
    assert fetch(address, "scalars/tags")


def test_importing_the_plugin_needs_no_extra() -> None:
    """An exception while it is imported would stop the whole `tensorboard` command: what pip brings along must do."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.filterwarnings("ignore:html5lib")  # raised by what TensorBoard brings along
def test_tensorboard_finds_the_plugin() -> None:
    """By the entry point, once gradguard is installed."""
    (found,) = metadata.entry_points(group="tensorboard_plugins", name="gradguard")
    assert found.load().plugin_name == PLUGIN
