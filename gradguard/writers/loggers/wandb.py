"""The writer for Weights & Biases."""

import os
from typing import Any

from gradguard.report import Report
from gradguard.writers.loggers.packages import tracker_package

STEP = "gradguard/step"
"""The training step of each row: the horizontal axis of all charts of gradguard."""


class WandbWriter:
    """Logs `Report.scalars()` to a run of Weights & Biases, over the training step.

    A run of yours stays open, and its rows stay those of your own `run.log`: the numbers of a check go into the row
    that is not complete yet. Of several checks in one row, each number is the latest. A run that the writer opens has a
    row for each check, is not the active run, and is finished by `close`. A forked process logs to the same run, and
    does not finish it.

    Args:
        run: What `wandb.init` returned; by default the active run, and a new one where there is none.
        **settings: Arguments of `wandb.init` for a new run, such as `project="lstm"` or `mode="offline"`.

    Raises:
        ImportError: wandb is not installed.
        TypeError: `run` is no run.
        ValueError: There are settings for a new run, but there is a run already.
    """

    def __init__(self, run: Any = None, **settings: Any) -> None:
        wandb = tracker_package("wandb", "wandb")
        if run is not None and not hasattr(run, "define_metric"):
            raise TypeError(f"run is a {type(run).__name__}; expected what wandb.init returned")
        given = wandb.run if run is None else run
        if given is not None and settings:
            raise ValueError(
                f"{', '.join(settings)}: arguments of a new run, but the run {given.name!r} is open already"
            )
        # The active run of the program stays as it is, and a later wandb.init does not get this one.
        self._run = wandb.init(**({"reinit": "create_new"} | settings)) if given is None else given
        self._process = os.getpid() if given is None else None  # which finishes the run; None for the user's
        self._makes_rows = given is None
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("gradguard/*", step_metric=STEP)

    def write(self, report: Report) -> None:
        """Log the numbers of one check.

        Raises:
            Exception: What wandb raises, for instance where the run is finished already.
        """
        self._run.log({**report.scalars(), STEP: report.step}, commit=self._makes_rows)

    def close(self) -> None:
        """Finish the run if this writer opened it; a second call does nothing."""
        process, self._process = self._process, None
        if process == os.getpid():
            self._run.finish()
