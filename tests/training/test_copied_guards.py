"""Guards that are pickled, copied or handed to other processes."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from resumed_training import Params, Training, by_pickle, event_files
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from gradguard import Alert, GradGuard, JSONLWriter, Report, Verdict, snapshot_attributes, snapshot_rng
from gradguard.testing import LSTM, random_batch
from gradguard.writers import read_jsonl


def tell(alert: Alert) -> None:
    """What a guard may be told to call."""
    raise AssertionError(alert.message)


def is_even(step: int) -> bool:
    """A schedule."""
    return step % 2 == 0


@pytest.mark.parametrize("carry", [copy.deepcopy, by_pickle])
def test_a_copy_of_a_guard_goes_on_as_the_guard_does(carry: Callable[[Any], Any], tmp_path: Path) -> None:
    """With its training, by pickle or deepcopy: the same checks, of its own parameters, and all on record."""
    training = Training()
    with training.guard(logdir=tmp_path, writers=[JSONLWriter(tmp_path / "log.jsonl")]) as guard:
        training.run(guard, range(2))
        copied, copied_guard = carry((training, guard))
        expected = training.run(guard, range(2, 4))
        before = {name: param.tobytes() for name, param in training.model.params.items()}
        with copied_guard:
            assert copied.run(copied_guard, range(2, 4)) == expected
    assert {name: param.tobytes() for name, param in training.model.params.items()} == before
    assert copied_guard.report is not guard.report
    assert len(read_jsonl(tmp_path / "log.jsonl")) == 2 + 2 + 2
    assert len(event_files(tmp_path)) == 2


def test_a_guard_with_everything_can_be_pickled() -> None:
    """Snapshots of all kinds, a schedule that is a rule, and whom to tell."""
    model, generator, layer = LSTM(3, 2, 3), np.random.default_rng(0), SimpleNamespace(calls=0)
    generator.random()
    guard = GradGuard(
        model.params,
        every_n_steps=is_even,
        on_alert=tell,
        snapshot=[snapshot_attributes(layer, "calls"), *map(snapshot_rng, (generator, np.random))],
    )
    batch = random_batch(3, 2, inputs=3, outputs=3)
    copied, params, stream = by_pickle((guard, model, generator))
    for one, of in ((guard, model), (copied, params)):
        _, grads = of.loss_and_grads(batch)
        assert one.after_backward(1, grads, lambda of=of: of.loss(batch)) is None
        report = one.after_backward(2, grads, lambda of=of: of.loss(batch))
        assert report is not None
        assert report.verdict is Verdict.ok
    assert stream.random() == generator.random()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"loss": lambda: 0.0},
            r"its loss is .*<lambda>.*test_copied_guards\.py, line \d+(.|\n)*give loss= with each after_backward",
        ),
        ({"on_alert": lambda _: None}, r"its on_alert is .*<lambda>(.|\n)*top level of a module"),
        ({"on_alert": ["log", lambda _: None]}, r"its on_alert is .*<lambda>(.|\n)*top level of a module"),
        ({"every_n_steps": lambda _: True}, r"its every_n_steps is .*<lambda>"),
        ({"snapshot": lambda: tell}, r"its snapshot is .*<lambda>"),
    ],
)
def test_what_cannot_be_pickled_is_named(options: Any, words: str) -> None:
    """The option, the function and its line, and what to do; a deep copy is possible all the same."""
    guard = GradGuard({"w": np.ones(2)}, **options)
    with pytest.raises(TypeError, match=words) as raised:
        pickle.dumps(guard)
    assert "state_dict()" in str(raised.value)
    assert copy.deepcopy(guard).state_dict()["shapes"] == {"w": [2]}


SPAWNED = """
import multiprocessing, sys
import numpy as np
from gradguard import GradGuard, JSONLWriter

class Model:
    def __init__(self):
        self.params = {"w": np.array([0.3, 0.7], np.float32)}
    def loss(self):
        return np.sin(self.params["w"]).sum()
    def step(self, guard, step):
        guard.after_backward(step, {"w": np.cos(self.params["w"])})

def work(model, guard, first):
    for step in range(first, first + 5):
        model.step(guard, step)
    guard.close()

if __name__ == "__main__":
    model = Model()
    guard = GradGuard(model.params, model.loss, every_n_steps=1, max_overhead=None, logdir=sys.argv[2],
                      writers=[JSONLWriter(sys.argv[2] + "/log.jsonl")])
    work_here = range(3)
    for step in work_here:
        model.step(guard, step)
    context = multiprocessing.get_context(sys.argv[1])
    workers = [context.Process(target=work, args=(model, guard, first)) for first in (10, 20)]
    for worker in workers:
        worker.start()
    for step in range(3, 8):
        model.step(guard, step)
    for worker in workers:
        worker.join()
    guard.close()
    sys.exit(max(worker.exitcode for worker in workers))
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_may_go_on_with_a_guard(method: str, tmp_path: Path) -> None:
    """Forked or spawned, with the parent going on too: every line and event of all three can be read back."""
    (tmp_path / "train.py").write_text(SPAWNED)
    logs = tmp_path / "runs"
    done = subprocess.run(
        [sys.executable, "train.py", method, str(logs)], cwd=tmp_path, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    steps = [*range(8), *range(10, 15), *range(20, 25)]
    assert sorted(report["step"] for report in read_jsonl(logs / "log.jsonl")) == steps
    files = [[event.step for event in EventFileLoader(str(path)).Load()][1:] for path in event_files(logs)]
    assert sorted(step for file in files for step in file) == steps
    assert sorted(map(len, files)) == [5, 5, 8]


def test_two_guards_in_one_process_do_not_disturb_each_other(tmp_path: Path) -> None:
    """On one model, in one log directory: each checks as if it were alone, and everything is on record."""
    alone = Training()
    expected = alone.run(alone.guard(), range(3))
    together = Training()
    path = tmp_path / "log.jsonl"
    guards = [together.guard(logdir=tmp_path, writers=[JSONLWriter(path)]) for _ in range(2)]

    class Both:
        def after_backward(self, step: int, grads: Params) -> Report | None:
            return [guard.after_backward(step, grads) for guard in guards][-1]

    both: Any = Both()
    assert together.run(both, range(3)) == expected
    for guard in guards:
        guard.close()
    assert [report["step"] for report in read_jsonl(path)] == [0, 0, 1, 1, 2, 2]
    assert len(event_files(tmp_path)) == 2
