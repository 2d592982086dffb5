import logging
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import blas_threads  # noqa: F401 - first of all
import pytest
from hypothesis import settings
from reports import MakeReport, MakeTensor, RunScript

import gradguard
from gradguard import Entry, Report, TensorReport, Verdict
from gradguard.training import monitor

# What is tried is the same each time, so that a change that passed does not fail elsewhere; new examples are looked for
# by --hypothesis-profile=search. How long one takes says how busy the machine is.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None)
settings.load_profile("same")

_AT_ITS_CHECK = -1  # a step that `make_report` replaces by its own

_TENSOR = TensorReport(
    name="W",
    shape=(2, 2),
    verdict=Verdict.ok,
    cause="",
    explanation="d = 2.8e-05; rounding and truncation account for up to 3.4e-05 at this step size",
    faulty_block="",
    discrepancy=2.8e-5,
    floor=3.4e-5,
    ratio=1.0001,
    ratio_error=1e-4,
    sign_agreement=1.0,
    sign_interval=(0.9, 1.0),
    resolvable=3,
    sampled=4,
    unresolved=1,
    kinks=0,
    coverage=0.8,
    step_size=5e-3,
    noise=1e-8,
    smallest_visible=1e-4,
    ratio_drift=1e-5,
    evidence=-0.5,
    worst=(Entry((0, 1), 0.25, 0.2501, 1e-4),),
    ratios=(0.9999, 1.0, 1.0003),
    measured_at=_AT_ITS_CHECK,
)


def _make_tensor(name: str = "W", **changes: Any) -> TensorReport:
    return replace(_TENSOR, name=name, **changes)


def _make_report(step: int = 0, *tensors: TensorReport, **changes: Any) -> Report:
    found = [
        replace(tensor, measured_at=step) if tensor.measured_at == _AT_ITS_CHECK else tensor
        for tensor in tensors or (_make_tensor("W"), _make_tensor("V"))
    ]
    report = Report(
        step=step,
        verdict=Verdict.ok,
        tensors={tensor.name: tensor for tensor in found},
        precision="native",
        evaluations=64,
        seconds=0.5,
        explanation="all agree",
        loss=1.6,
        overhead=0.008,
    )
    return replace(report, **changes)


@pytest.fixture(scope="session", autouse=True)
def _however_slow() -> Iterator[None]:
    """A check takes the time it needs: on a busy machine the bound on it would decide what is found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitor, "EXAMINATION_SECONDS", 1e6)
        yield


@pytest.fixture(scope="session")
def make_tensor() -> MakeTensor:
    """Builds a tensor's report: a name, and whatever differs from a healthy one that the check measured."""
    return _make_tensor


@pytest.fixture(scope="session")
def make_report() -> MakeReport:
    """Builds a report: a step, its tensors (W and V unless said), and whatever differs from a healthy one."""
    return _make_report


@pytest.fixture
def run_script(tmp_path: Path) -> RunScript:
    """Runs a script in a process of its own; it finds `reports` unpickled, and its arguments in `sys.argv`."""

    def run(source: str, reports: list[Report], *arguments: object) -> subprocess.CompletedProcess[str]:
        pickled = tmp_path / "reports.pickle"
        pickled.write_bytes(pickle.dumps(reports))
        script = tmp_path / "script.py"
        script.write_text(f"import pickle, sys\nreports = pickle.load(open({str(pickled)!r}, 'rb'))\n{source}")
        return subprocess.run(
            [sys.executable, script, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(Path(gradguard.__file__).parents[1])},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
def quiet() -> Iterator[None]:
    """Small tensors gain nothing from several threads; frameworks and PyTorch warn of each other."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(before)
