import json
import math

import pytest
from user_project import Run


@pytest.mark.parametrize(
    ("factory", "status", "words"),
    [
        ("train:right", 0, "No bug: rounding and truncation account for every"),
        ("train:wrong", 1, "4 is `timesteps`"),
        ("train:unclear", 2, "This check cannot tell"),
        ("train:layers", 0, "0.4"),
        ("train:meant", 0, "Expected to differ: V (reversal)"),
        ("train:Models.right", 0, "No bug"),
        ("package.inner:right", 0, "No bug"),
    ],
)
def test_a_check_prints_its_report_and_ends_with_its_verdict(factory: str, status: int, words: str, run: Run) -> None:
    """0 is fine, 1 a bug, 2 that it cannot be told."""
    done = run("check", factory)
    assert (done.returncode, done.stderr) == (status, "")
    assert words in done.stdout


def test_a_check_takes_all_that_a_factory_may_return(run: Run) -> None:
    """Reduction, blocks and snapshot of the mapping reach the check."""
    done = run("check", "train:everything", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert set(report["tensors"]["b"]["blocks"]) == set("ifog")
    assert report["tensors"]["b"]["verdict"] == "structure"
    assert "wrong in f" in report["tensors"]["b"]["explanation"]
    assert {name for name, tensor in report["tensors"].items() if tensor["verdict"] == "ok"} == {"Wx", "Wh", "V", "c"}


def test_the_loss_of_the_training_is_compared(run: Run) -> None:
    """The value of the mapping reaches the check, which then cannot tell."""
    done = run("check", "train:other", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["verdict"] == "other_loss"


def test_options_reach_the_check(run: Run) -> None:
    """Precision, entries and reduction on the command line are those of the check."""
    done = run("check", "train:array", "--reduction", "mean", "--precision", "native", "--entries", "2", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert report["precision"] == "native"
    assert all(tensor["sampled"] <= 2 for tensor in report["tensors"].values())


def test_all_entries_are_measured_on_request(run: Run) -> None:
    """The word "all" stands for every entry of every tensor."""
    report = json.loads(run("check", "train:array", "--reduction", "mean", "--entries", "all", "--json").stdout)
    assert all(tensor["sampled"] == math.prod(tensor["shape"]) for tensor in report["tensors"].values())


def test_json_is_all_that_is_printed(run: Run) -> None:
    """What the user's own code prints goes to the standard error stream, and a constant has its name."""
    done = run("check", "train:right", "--json")
    assert (done.returncode, done.stderr) == (0, "loading\n")
    assert json.loads(done.stdout)["verdict"] == "ok"
    done = run("sweep", "train:wrong", "--json", "--steps", "1e-4,1e-3,1e-2", "--constant", "T=4", "--entries", "3")
    assert (done.returncode, done.stderr) == (0, "")
    swept = json.loads(done.stdout)
    assert swept["steps"] == [1e-4, 1e-3, 1e-2]
    assert "`timesteps` or `T`" in swept["explanation"]
