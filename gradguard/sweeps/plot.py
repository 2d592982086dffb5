"""A sweep as a picture: log-log, readable without colour, the steps at which the loss does not move hatched."""

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

from gradguard.arrays.types import Float64
from gradguard.report.text import printable
from gradguard.sweeps.curves import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gradguard.sweeps.sweep import Sweep

FORMATS = (".png", ".svg")
DPI = 120
WIDTH, MAIN_HEIGHT, ROW_HEIGHT = 9.0, 4.4, 1.6  # inches
COLUMNS = 5
LONGEST_NAME = 18  # characters over a small panel
DRAWN = 15  # tensors; the others are counted

# Dark to light, so that they differ in grey too, and each has a dash pattern of its own. Colours of Okabe and Ito 2008.
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
        ValueError: The name ends in something else than a format known here.
    """
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise ValueError(f"cannot draw into {target.name!r}; expected a name that ends in {' or '.join(FORMATS)}")
    require_matplotlib()
    return target


def require_matplotlib() -> None:
    """Say how to get matplotlib where it is not installed.

    Raises:
        ImportError: It is not.
    """
    if not is_drawable():
        raise ImportError("a sweep is drawn by matplotlib, which is not installed: pip install 'gradguard[plot]'")


def is_drawable() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def save(sweep: "Sweep", path: str | os.PathLike[str]) -> None:
    """Draw a sweep into a PNG or SVG file.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The name ends in something else.
        OSError: The file cannot be written.
    """
    target = require_plottable(path)
    with _own_style():
        _figure(sweep).savefig(target, metadata={"Date": None} if target.suffix.lower() == ".svg" else None)


def png(sweep: "Sweep") -> tuple[int, int, bytes]:
    """Width, height and bytes of a sweep's picture as PNG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    require_matplotlib()
    drawn = io.BytesIO()
    with _own_style():
        figure = _figure(sweep)
        figure.savefig(drawn, format="png")
        width, height = figure.canvas.get_width_height()
    return width, height, drawn.getvalue()


@contextmanager
def _own_style() -> Iterator[None]:
    """Whatever the user's matplotlibrc says, the same sweep gives the same picture."""
    import matplotlib.style

    settings = {"savefig.dpi": "figure", "svg.hashsalt": "gradguard", "hatch.linewidth": 0.6}
    with matplotlib.style.context(["default", settings]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script that the font lacks
        yield


def _figure(sweep: "Sweep") -> "Figure":
    from matplotlib.figure import Figure  # not pyplot: that keeps figures, and may open windows

    drawn = _drawn(sweep)
    rows = -(-len(drawn) // COLUMNS)
    figure = Figure(figsize=(WIDTH, MAIN_HEIGHT + ROW_HEIGHT * rows), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(1 + rows, COLUMNS, height_ratios=[MAIN_HEIGHT, *[ROW_HEIGHT] * rows])
    _draw_whole(figure.add_subplot(grid[0, :]), sweep)
    for place, (name, curve) in enumerate(drawn):
        row, column = divmod(place, COLUMNS)
        axes = figure.add_subplot(grid[1 + row, column])
        _draw_tensor(axes, sweep, name, curve)
        axes.tick_params(labelleft=column == 0, labelbottom=place + COLUMNS >= len(drawn), labelsize="x-small")
    if len(sweep.tensors) > DRAWN:
        figure.supxlabel(f"{len(sweep.tensors) - DRAWN} more tensors are not drawn", fontsize="small")
    return figure


def _drawn(sweep: "Sweep") -> list[tuple[str, Curve]]:
    """The tensors to draw one by one: those that are wrong first, in case not all can be."""
    if len(sweep.tensors) == 1:
        return []
    return sorted(sweep.tensors.items(), key=lambda item: item[1].explained is not False)[:DRAWN]


def _draw_whole(axes: "Axes", sweep: "Sweep") -> None:
    lines = (
        (sweep.discrepancy, "discrepancy d of n and g", DISCREPANCY),
        (sweep.floor, "floor: what float precision explains", FLOOR),
        (sweep.noise, "of it, noise of the loss", NOISE),
        (sweep.truncation, "of it, truncation", TRUNCATION),
    )
    for values, label, style in lines:
        axes.plot(sweep.steps, _positive(values), label=label, **style)
    _scale(axes, sweep)
    _shade(axes, sweep)
    axes.axvline(sweep.best_step, label=f"best step, {sweep.best_step:.3g}", **BEST)
    axes.set_title(_title(sweep), loc="left", fontsize="medium")
    axes.set_xlabel("step h, in units of the parameters")
    axes.set_ylabel("||n - g|| / (||n|| + ||g||)")
    axes.grid(visible=True, color="0.9", linewidth=0.6)
    axes.legend(loc="best", fontsize="small", framealpha=0.9)


def _title(sweep: "Sweep") -> str:
    at = sweep.best
    return (
        f"At the best step, {sweep.best_step:.3g}, d is {sweep.discrepancy[at]:.1e} and float precision explains "
        f"{sweep.floor[at]:.1e}"
    )


def _draw_tensor(axes: "Axes", sweep: "Sweep", name: str, curve: Curve) -> None:
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
    title = f"{_short(printable(name))}{': not explained' if not_explained else ''}"
    weight = "bold" if not_explained else "normal"
    axes.set_title(title, loc="left", fontsize="small", fontweight=weight, parse_math=False)


def _short(name: str) -> str:
    """The end of a long name: where the parts of a path to a tensor differ."""
    return name if len(name) <= LONGEST_NAME else f"...{name[3 - LONGEST_NAME :]}"


def _scale(axes: "Axes", sweep: "Sweep") -> None:
    """Log-log, from well under the lowest point of any tensor to well over 1, the largest discrepancy there is."""
    curves = [sweep, *sweep.tensors.values()]
    shown = np.concatenate([values for curve in curves for values in (curve.discrepancy, curve.floor)])
    lowest = shown[np.isfinite(shown) & (shown > 0)].min(initial=1.0)
    axes.set(xscale="log", yscale="log", ylim=(max(lowest / 4, 1e-18), 4))
    axes.set_xlim(sweep.steps[0] / 1.5, sweep.steps[-1] * 1.5)


def _shade(axes: "Axes", sweep: "Sweep") -> None:
    """Hatch the steps at which the loss does not move for most entries."""
    last = sweep.still_step
    if last is None:
        return
    (left, end), bottom = axes.get_xlim(), axes.get_ylim()[0]
    right = last * 1.25
    axes.axvspan(left, right, facecolor="0.93", edgecolor="0.75", hatch="//", linewidth=0, zorder=0)
    is_wide = right > math.sqrt(left * end)
    place, side = (right / 1.1, "right") if is_wide else (right * 1.1, "left")
    says = f"at {last:.3g} and below the loss\ndoes not move for most entries"
    axes.text(place, bottom * 1.3, says, horizontalalignment=side, **NOTE)


def _positive(values: Float64) -> Float64:
    """The values that a logarithmic axis can show, nan for the others."""
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)
