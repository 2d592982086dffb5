"""Runs as TensorBoard reads them: tags, steps, values, layouts and files."""

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.util.tensor_util import make_ndarray

from gradguard import Report
from gradguard.writers import TensorBoardWriter

Series: TypeAlias = dict[str, list[tuple[int, np.ndarray[Any, Any]]]]

LAYOUT = "custom_scalars__config__"
ALERTS = "gradguard.alerts/alerts"


def read_run(logdir: Path) -> Series:
    """Each tag's steps and values, as TensorBoard reads them from all event files of a run."""
    accumulator = EventAccumulator(str(logdir), size_guidance={"tensors": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, make_ndarray(event.tensor_proto)) for event in accumulator.Tensors(tag)]
        for tag in accumulator.Tags()["tensors"]
    }


def steps(run: Series, tag: str) -> list[int]:
    """The steps of a tag, in order."""
    return [step for step, _ in run[tag]]


def values(run: Series, tag: str) -> list[float]:
    """The scalars of a tag, in order."""
    return [value.item() for _, value in run[tag]]


def layouts(run: Series) -> list[layout_pb2.Layout]:
    """Every layout of custom charts that was written, oldest first."""
    return [layout_pb2.Layout.FromString(value.item()) for _, value in run[LAYOUT]]


def charts(layout: layout_pb2.Layout) -> list[str]:
    """The titles of a layout's charts in the order of the Custom Scalars tab, which shows the last one first."""
    return [chart.title for category in layout.category for chart in reversed(category.chart)]


def event_files(logdir: Path) -> list[Path]:
    """A run's event files, in the order TensorBoard reads them."""
    return sorted(logdir.glob("events.out.tfevents.*"))


def events_in(path: Path) -> list[Any]:
    """Every event of one file, the version first."""
    return list(EventFileLoader(str(path)).Load())


def write_all(logdir: Path, *reports: Report) -> None:
    """Write reports as one run does."""
    writer = TensorBoardWriter(logdir)
    for report in reports:
        writer.write(report)
    writer.close()
