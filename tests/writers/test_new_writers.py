"""Adding a writer: one class, and one row of the table for a writer that ships with gradguard."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

import gradguard
import gradguard.writers
from gradguard import GradGuard, Report
from gradguard.writers.registry import WRITER_MODULES

WEIGHTS = {"w": np.array([0.3, 0.7])}


class ListWriter:
    """A writer as a user writes one: it derives from nothing and keeps the reports in a list."""

    def __init__(self) -> None:
        self.reports = list[Report]()
        self.closed = False

    def write(self, report: Report) -> None:
        """Keep a report."""
        self.reports.append(report)

    def close(self) -> None:
        """Remember that it is closed."""
        self.closed = True


def loss() -> np.floating:
    """A loss with the gradient cos(w)."""
    total: np.floating = np.sin(WEIGHTS["w"]).sum()
    return total


def gradient() -> dict[str, NDArray[np.float64]]:
    """The gradient of `loss`."""
    return {"w": np.cos(WEIGHTS["w"])}


def test_a_writer_of_the_user_gets_every_report_and_is_closed() -> None:
    """`writers=` takes any object with write and close; it needs no registration."""
    writer = ListWriter()
    with GradGuard(WEIGHTS, loss, every_n_steps=2, max_overhead=None, writers=[writer]) as guard:
        made = [guard.after_backward(step, gradient()) for step in range(5)]
        assert not writer.closed
    assert writer.reports == [report for report in made if report is not None]
    assert [report.step for report in writer.reports] == [0, 2, 4]
    assert writer.closed


@pytest.mark.parametrize("name", WRITER_MODULES)
def test_a_row_of_the_table_is_all_that_offers_a_writer(name: str) -> None:
    """`gradguard.NAME` and `gradguard.writers.NAME` are the class of the module in the row."""
    offered = getattr(gradguard, name)
    assert offered is getattr(gradguard.writers, name)
    assert (offered.__module__, offered.__name__) == (WRITER_MODULES[name], name)
    assert callable(offered.write)
    assert callable(offered.close)


@pytest.mark.parametrize(("writer", "package"), [("WandbWriter", "wandb"), ("MLflowWriter", "mlflow")])
def test_a_writer_without_its_package_says_how_to_install_it(writer: str, package: str) -> None:
    """When it is made: the class is there, so that a program can be written before the package is installed."""
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"from gradguard import {writer}\n"
        f"try: {writer}()\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == f"the package {package} is not installed; pip install 'gradguard[{package}]'\n"


def test_a_writer_of_the_table_is_imported_when_it_is_first_used() -> None:
    """A run without TensorBoard does not wait for its import, and a name that is in no row is no attribute."""
    code = (
        "import sys, gradguard\n"
        "modules = gradguard.writers.registry.WRITER_MODULES\n"
        "assert modules['TensorBoardWriter'] not in sys.modules\n"
        "gradguard.TensorBoardWriter\n"
        "assert modules['TensorBoardWriter'] in sys.modules\n"
        "assert not hasattr(gradguard, 'TensorboardWriter')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
