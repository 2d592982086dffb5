"""Makes the pictures of the documentation from the demo's run.

    python tests/screenshots.py [LOGDIR]

LOGDIR holds the demo's two runs already (`gradguard demo --logdir LOGDIR`); without it they are made. It needs the
packages of the tests and Chromium.
"""

import contextlib
import sys
import tempfile
from pathlib import Path

from servers import Browser, browser, tensorboard_server

from gradguard.cli import main as gradguard

DOCS = Path(__file__).parent.parent / "docs"


def main(logdir: Path) -> None:
    """Takes the pictures."""
    fault, fixed = sorted(path.name for path in logdir.iterdir())
    with browser(1400, 1240) as chromium:
        with tensorboard_server(logdir) as address:
            take_tab(chromium, address, fault, "tab.png")
            chromium.set_dark(True)
            take_tab(chromium, address, fixed, "tab-dark.png")
        chromium.set_dark(False)
        # TensorBoard writes its logdir beside the charts: it shall not be a path of this machine.
        with contextlib.chdir(logdir), tensorboard_server(fixed) as address:
            take_band_charts(chromium, address)
    gradguard(["sweep", "gradguard.demo.question:fixed", "--plot", str(DOCS / "sweep.png")])


def take_tab(chromium: Browser, address: str, run: str, name: str) -> None:
    """The GradGuard tab on a run."""
    from selenium.webdriver.support.ui import Select

    chromium.open(f"{address}/#gradguard")
    chromium.inside()
    chromium.wait_for_charts()
    Select(chromium.wait_for("#run")).select_by_value(run)
    chromium.until(lambda: run in chromium.driver.execute_script("return document.querySelector('#run').value"), run)
    chromium.wait_for_quiet()
    chromium.wait_for_charts()
    chromium.outside()
    chromium.driver.save_screenshot(str(DOCS / name))


def take_band_charts(chromium: Browser, address: str) -> None:
    """Custom Scalars."""
    chromium.open(f"{address}/#custom_scalars")
    chromium.wait_for("tf-custom-scalar-dashboard")
    chromium.wait_for_quiet()
    chromium.driver.save_screenshot(str(DOCS / "tensorboard.png"))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            gradguard(["demo", "--logdir", folder])
            main(Path(folder))
