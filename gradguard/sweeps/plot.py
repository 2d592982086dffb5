"""The curves of a sweep as a log-log picture that is readable without colour."""

import importlib.util
import io
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradguard.arrays import Float64
from gradguard.report import printable
from gradguard.sweeps.curves import Curve, SweepCurves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")
DPI = 120  # 9 inches are 1080 pixels, as wide as a README shows a picture
WIDTH, MAIN_HEIGHT, ROW_HEIGHT = 9.0, 4.4, 1.6  # inches
COLUMNS = 5  # panels of single tensors in a row
MAX_PANELS = 15  # tensors, three rows; the others are counted
MAX_TITLE_LENGTH = 18  # characters of a name that fit over a panel

# From dark to light, so that the lines differ in grey too; each has its own dashes. Colours: Okabe and Ito 2008.
DISCREPANCY: dict[str, Any] = {"color": "#000000", "linestyle": "-", "marker": "o", "markersize": 4, "zorder": 4}
FLOOR: dict[str, Any] = {"color": "#d55e00", "linestyle": "-", "linewidth": 4, "alpha": 0.55, "zorder": 3}
NOISE: dict[str, Any] = {"color": "#0072b2", "linestyle": ":", "linewidth": 2, "zorder": 2}
TRUNCATION: dict[str, Any] = {"color": "#009e73", "linestyle": "--", "linewidth": 1.5, "zorder": 2}
BEST: dict[str, Any] = {"color": "0.35", "linestyle": "-.", "linewidth": 1, "zorder": 1}
NOTE: dict[str, Any] = {"fontsize": "small", "color": "0.25", "verticalalignment": "bottom", "zorder": 5}


def require_plottable(path: str | os.PathLike[str]) -> Path:
    """The path, if a picture can be drawn into it.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The name does not end in one of `FORMATS`.
    """
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise ValueError(f"cannot draw into {target.name!r}; expected a name that ends in {' or '.join(FORMATS)}")
    require_matplotlib()
    return target


def require_matplotlib() -> None:
    """Raise an error that says how to install matplotlib if it is missing.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if not is_drawable():
        raise ImportError("a sweep is drawn by matplotlib, which is not installed: pip install 'gradguard[plot]'")


def is_drawable() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def save(sweep: SweepCurves, path: str | os.PathLike[str]) -> None:
    """Draw a sweep into a PNG or SVG file.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The name does not end in one of `FORMATS`.
        OSError: The file cannot be written.
    """
    target = require_plottable(path)
    with _fixed_style():
        _figure(sweep).savefig(target, metadata={"Date": None} if target.suffix.lower() == ".svg" else None)


def png(sweep: SweepCurves) -> tuple[int, int, bytes]:
    """The width and height in pixels and the bytes of a PNG picture of a sweep.

    Raises:
        ImportError: matplotlib is not installed.
    """
    require_matplotlib()
    buffer = io.BytesIO()
    with _fixed_style():
        figure = _figure(sweep)
        figure.savefig(buffer, format="png")
        width, height = figure.canvas.get_width_height()
    return width, height, buffer.getvalue()


@contextmanager
def _fixed_style() -> Iterator[None]:
    """A style that ignores the user's matplotlibrc, so that the same sweep gives the same picture."""
    import matplotlib.style

    settings = {"savefig.dpi": "figure", "svg.hashsalt": "gradguard", "hatch.linewidth": 0.6}
    with matplotlib.style.context(["default", settings]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script that the font lacks
        yield


def _figure(sweep: SweepCurves) -> "Figure":
    from matplotlib.figure import Figure  # not pyplot: that keeps figures, and may open windows

    panels = _panels(sweep)
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(WIDTH, MAIN_HEIGHT + ROW_HEIGHT * rows), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(1 + rows, COLUMNS, height_ratios=[MAIN_HEIGHT, *[ROW_HEIGHT] * rows])
    _draw_all_entries(figure.add_subplot(grid[0, :]), sweep)
    for i, (name, curve) in enumerate(panels):
        row, column = divmod(i, COLUMNS)
        axes = figure.add_subplot(grid[1 + row, column])
        _draw_tensor(axes, sweep, name, curve)
        axes.tick_params(labelleft=column == 0, labelbottom=i + COLUMNS >= len(panels), labelsize="x-small")
    if len(sweep.tensors) > MAX_PANELS:
        figure.supxlabel(f"{len(sweep.tensors) - MAX_PANELS} more tensors are not drawn", fontsize="small")
    return figure


def _panels(sweep: SweepCurves) -> list[tuple[str, Curve]]:
    """The tensors that get a panel: those that float precision does not explain first, in case not all fit."""
    if len(sweep.tensors) == 1:
        return []
    return sorted(sweep.tensors.items(), key=lambda item: item[1].explained is not False)[:MAX_PANELS]


def _draw_all_entries(axes: "Axes", sweep: SweepCurves) -> None:
    lines = (
        (sweep.discrepancy, "discrepancy d of numerical and backprop", DISCREPANCY),
        (sweep.floor, "floor: rounding and truncation", FLOOR),
        (sweep.noise, "its part from noise of the loss", NOISE),
        (sweep.truncation, "its part from truncation", TRUNCATION),
    )
    for values, label, style in lines:
        axes.plot(sweep.steps, _positive(values), label=label, **style)
    _scale(axes, sweep)
    _hatch_unchanged_steps(axes, sweep)
    axes.axvline(sweep.best_step, label=f"best step, {sweep.best_step:.3g}", **BEST)
    axes.set_title(_title(sweep), loc="left", fontsize="medium")
    axes.set_xlabel("step h, in units of the parameters")
    axes.set_ylabel("||n - g|| / (||n|| + ||g||)")
    axes.grid(visible=True, color="0.9", linewidth=0.6)
    axes.legend(loc="best", fontsize="small", framealpha=0.9)


def _title(sweep: SweepCurves) -> str:
    at = sweep.best
    return (
        f"At the best step, {sweep.best_step:.3g}, d is {sweep.discrepancy[at]:.1e}; "
        f"rounding and truncation account for {sweep.floor[at]:.1e}"
    )


def _draw_tensor(axes: "Axes", sweep: SweepCurves, name: str, curve: Curve) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes.plot(curve.steps, _positive(curve.discrepancy), **(DISCREPANCY | {"markersize": 2}))
    axes.plot(curve.steps, _positive(curve.floor), **FLOOR)
    axes.axvline(curve.best_step, **BEST)
    _scale(axes, sweep)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(numticks=4))
        axis.set_minor_locator(NullLocator())
    axes.grid(visible=True, color="0.9", linewidth=0.6)
    not_explained = curve.explained is False
    title = f"{_shortened(printable(name))}{': not explained' if not_explained else ''}"
    weight = "bold" if not_explained else "normal"
    axes.set_title(title, loc="left", fontsize="small", fontweight=weight, parse_math=False)


def _shortened(name: str) -> str:
    """The end of a long name, where the paths of tensors differ."""
    return name if len(name) <= MAX_TITLE_LENGTH else f"...{name[3 - MAX_TITLE_LENGTH :]}"


def _scale(axes: "Axes", sweep: SweepCurves) -> None:
    """Log-log axes, from below the lowest point of any tensor to above 1, the largest possible discrepancy."""
    curves = [sweep, *sweep.tensors.values()]
    values = np.concatenate([values for curve in curves for values in (curve.discrepancy, curve.floor)])
    lowest = values[np.isfinite(values) & (values > 0)].min(initial=1.0)
    axes.set(xscale="log", yscale="log", ylim=(max(lowest / 4, 1e-18), 4))
    axes.set_xlim(sweep.steps[0] / 1.5, sweep.steps[-1] * 1.5)


def _hatch_unchanged_steps(axes: "Axes", sweep: SweepCurves) -> None:
    """Hatch the steps at which the loss does not change for most entries."""
    last = sweep.loss_unchanged_up_to
    if last is None:
        return
    (left, end), bottom = axes.get_xlim(), axes.get_ylim()[0]
    right = last * 1.25
    axes.axvspan(left, right, facecolor="0.93", edgecolor="0.75", hatch="//", linewidth=0, zorder=0)
    is_wide = right > math.sqrt(left * end)
    x, side = (right / 1.1, "right") if is_wide else (right * 1.1, "left")
    note = f"at {last:.3g} and below, the loss\ndoes not change for most entries"
    axes.text(x, bottom * 1.3, note, horizontalalignment=side, **NOTE)


def _positive(values: Float64) -> Float64:
    """The values, with nan where a logarithmic axis cannot show them."""
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)
