"""Trainings that are killed by SIGKILL, again and again."""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.promises.injected.training import Cost, Training, event_steps
from gradguard.writers import read_jsonl

KILLED = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from benchmarks.promises.injected.training import Training

folder, resumes = Path(sys.argv[1]), sys.argv[3] == "True"
training, saved = Training(folder), folder / "checkpoint.json"
if resumes and saved.exists():
    state = json.loads(saved.read_text())
    training.guard.load_state_dict(state["guard"])
    training.step = state["step"]
    for name, values in state["params"].items():
        training.model.params[name][...] = values
while True:
    training.train(1)
    if resumes:
        params = {name: param.tolist() for name, param in training.model.params.items()}
        state = {"guard": training.guard.state_dict(), "step": training.step, "params": params}
        saved.with_suffix(".new").write_text(json.dumps(state))
        os.replace(saved.with_suffix(".new"), saved)
    print(training.step - 1, training.bugs, flush=True)
"""


def killed(times: int, folder: Path, *, resumes: bool) -> Cost:
    """Kill a training again and again at random moments; with `resumes`, continue from a checkpoint each time."""
    finished, rng, bugs, stopped = Counter[int](), np.random.default_rng(0), 0, 0
    for _ in range(times):
        command = [sys.executable, "-c", KILLED, folder, Path(__file__).parents[3], str(resumes)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(int(rng.integers(1, 20)))]
            time.sleep(rng.uniform(0, 0.05))
            stopped += process.poll() is not None
            process.kill()
            lines += process.stdout
        whole = [line.split() for line in lines if line.endswith("\n")]
        finished.update(int(step) for step, _ in whole)
        bugs += int(whole[-1][1]) if whole else 0
    logged = Counter(report["step"] for report in read_jsonl(folder / "log" / "log.jsonl"))
    missing = sum((finished - logged).values()) + len(set(finished) - event_steps(folder / "run"))
    changed = resumes and not same_as_unguarded(folder)
    return Cost(times, int(changed), stopped, sum(finished.values()), 0, missing, bugs)


def same_as_unguarded(folder: Path) -> bool:
    """Whether a training that was killed and resumed ends where one without a guard does."""
    state = json.loads((folder / "checkpoint.json").read_text())
    alone = Training(None)
    alone.train(state["step"])
    return all(alone.model.params[name].tolist() == values for name, values in state["params"].items())
