import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradguard
from gradguard import Sweep, sweep
from gradguard.testing import LSTM, random_batch

pytest.importorskip("matplotlib")

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def swept() -> Sweep:
    """A sweep of a small network, one tensor of which is wrong."""
    model, batch = LSTM(3, 2, 3), random_batch(4, 2, inputs=3, outputs=3)
    _, grads = model.loss_and_grads(batch)
    grads["V"] *= np.float32(2)
    return sweep(model.params, grads, lambda: model.loss(batch), entries=4)


def one(name: str = "x", **options: Any) -> Sweep:
    """The sweep of a loss of one tensor."""
    x = {name: np.ones(2, np.float32)}
    return sweep(x, x, lambda: float(x[name].sum()), **options)


def png_size(path: Path) -> tuple[int, int]:
    """Width and height, as the file's own header tells them."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def lines(path: Path) -> list[str]:
    """The paths that are drawn with a stroke, by their styles."""
    return [path.get("style", "") for path in ET.parse(path).getroot().iter(f"{SVG}path")]  # noqa: S314 - our own file


def test_a_png_is_drawn_by_the_ending_of_the_name(swept: Sweep, tmp_path: Path) -> None:
    """A PNG comes out large enough to read, with one panel more a row of tensors."""
    swept.plot(tmp_path / "sweep.PNG")
    one().plot(str(tmp_path / "one.png"))
    width, height = png_size(tmp_path / "sweep.PNG")
    assert width >= 800
    assert height > png_size(tmp_path / "one.png")[1]


def test_an_svg_shows_what_it_is_asked_to(swept: Sweep, tmp_path: Path) -> None:
    """Lines differ in their dashes, a tensor that is wrong is called so, and the same sweep gives the same file."""
    first, again = tmp_path / "first.svg", tmp_path / "again.svg"
    swept.plot(first)
    swept.plot(again)
    assert first.read_bytes() == again.read_bytes()
    dashes = {part for style in lines(first) for part in style.split("; ") if part.startswith("stroke-dasharray")}
    assert len(dashes) == 3  # noise, truncation, best step
    assert "V: not explained" in first.read_text()
    assert "best step" in first.read_text()


def test_steps_at_which_the_loss_does_not_move_are_marked(tmp_path: Path) -> None:
    """They are hatched, and a note says what that means; without any there is no such note."""
    x = {"x": np.linspace(0.1, 1, 9, dtype=np.float32)}
    grads = {"x": np.full(9, 1e-3, np.float32)}
    sweep(x, grads, lambda: np.float32(1 + 1e-3 * x["x"].sum(dtype=np.float64))).plot(tmp_path / "unchanged.svg")
    one().plot(tmp_path / "changing.svg")
    assert "does not change for most entries" in (tmp_path / "unchanged.svg").read_text()
    assert "<pattern" in (tmp_path / "unchanged.svg").read_text()
    assert "does not change" not in (tmp_path / "changing.svg").read_text()


def test_any_name_can_be_drawn(tmp_path: Path) -> None:
    """A name is no formula and no markup, and no character of it breaks the file."""
    names = ["$x^$", "W\x1b[31m", "<b>&", "層の重み", "x" * 500, "$"]
    x = {name: np.ones(2, np.float32) for name in names}
    swept = sweep(x, x, lambda: float(sum(array.sum() for array in x.values())), steps=[1e-3, 1e-2])
    for ending in ("svg", "png"):
        swept.plot(tmp_path / f"sweep.{ending}")
    assert lines(tmp_path / "sweep.svg")
    assert png_size(tmp_path / "sweep.png")
    drawn = (tmp_path / "sweep.svg").read_text()
    assert all(shown in drawn for shown in ("$x^$", "W\\x1b[31m", "&lt;b&gt;&amp;", "層の重み"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: sweep({"x": np.ones(2)}, {"x": np.full(2, np.nan)}, lambda: 1.0),
        lambda: sweep({"x": np.ones(2)}, {"x": np.zeros(2)}, lambda: 1.0),
        lambda: one(steps=[1e-3, 1e-2]),
        lambda: sweep(x := {f"t{i}": np.ones(1) for i in range(40)}, x, lambda: 1.0, steps=[1e-3, 1e-2]),
    ],
    ids=["nan", "zero", "two steps", "many tensors"],
)
def test_an_odd_sweep_can_be_drawn(make: Callable[[], Sweep], tmp_path: Path) -> None:
    """Nothing but nan, nothing but zeros, two steps only, or more tensors than fit: there is a picture."""
    make().plot(tmp_path / "sweep.png")
    assert png_size(tmp_path / "sweep.png")[1] < 3000


def test_another_ending_is_refused(swept: Sweep, tmp_path: Path) -> None:
    """A format that is not offered is an error that says which are."""
    with pytest.raises(ValueError, match=r"'sweep.gif'; expected a name that ends in .png or .svg"):
        swept.plot(tmp_path / "sweep.gif")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_missing_is_an_error_of_the_system(swept: Sweep, tmp_path: Path) -> None:
    """The file cannot be written where there is no folder."""
    with pytest.raises(FileNotFoundError):
        swept.plot(tmp_path / "missing" / "sweep.png")


def test_matplotlib_is_only_imported_to_draw(tmp_path: Path) -> None:
    """Importing gradguard, and sweeping, leave matplotlib alone; drawing opens no window and sets no global state."""
    script = """
import sys, numpy as np
from gradguard import sweep
x = {"x": np.ones(2)}
swept = sweep(x, x, lambda: float(x["x"].sum()))
assert "matplotlib" not in sys.modules and "tensorboard" not in sys.modules and "tqdm" not in sys.modules
swept.plot(sys.argv[1])
assert "matplotlib.pyplot" not in sys.modules
"""
    command = [sys.executable, "-c", script, str(tmp_path / "sweep.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path) -> None:
    """Where matplotlib is missing, drawing says which extra brings it, and the sweep itself works."""
    script = f"""
import sys
sys.path[:] = [entry for entry in sys.path if "site-packages" not in entry]
import importlib.util
assert importlib.util.find_spec("matplotlib") is None
sys.path += {[str(tmp_path)]!r}
from gradguard import sweep
import numpy as np
x = {{"x": np.ones(2)}}
try:
    sweep(x, x, lambda: float(x["x"].sum())).plot("sweep.png")
except ImportError as error:
    print(error)
"""
    (tmp_path / "numpy").symlink_to(Path(np.__file__).parent)
    for libraries in Path(np.__file__).parents[1].glob("numpy.libs"):
        (tmp_path / "numpy.libs").symlink_to(libraries)
    (tmp_path / "gradguard").symlink_to(Path(gradguard.__file__).parent)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pip install 'gradguard[plot]'" in done.stdout
