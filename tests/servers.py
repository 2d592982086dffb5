"""A real TensorBoard and a real browser, for the tests that look at what a person would see."""

import contextlib
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SECONDS_TO_START = 60
SECONDS_TO_END = 10
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
INSTALL = "chromium and chromedriver are not installed: apt-get install chromium chromium-driver"
CHARTS = """
const all = [...document.querySelectorAll('.drawing')];
return all.length > 0 && all.every((one) => one.querySelector('.main-svg'));
"""


@contextmanager
def tensorboard_server(
    logdir: Path | str, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """A real TensorBoard over a log directory; yields the address it answers at."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(
        [*command, *options],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
    ) as process:
        try:
            yield _read_address(process)
        finally:
            process.terminate()
            try:
                process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:  # TensorBoard raises SystemExit in its handler, which may be swallowed
                process.kill()


def _read_address(process: "subprocess.Popen[bytes]") -> str:
    """The address a server announces on its standard error."""
    assert process.stderr is not None
    output, deadline = b"", time.monotonic() + SECONDS_TO_START
    while not (address := re.search(rb"at (http://127\.0\.0\.1:\d+)/ ", output)):
        ready, _, _ = select.select([process.stderr], [], [], max(0.0, deadline - time.monotonic()))
        chunk = os.read(process.stderr.fileno(), 4096) if ready else b""
        assert chunk, f"TensorBoard did not start: {output.decode()}"
        output += chunk
    return address[1].decode()


def fetch(address: str, route: str, **parameters: str) -> Any:
    """What a route of a plugin answers, from JSON."""
    query = urllib.parse.urlencode(parameters)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{address}/data/plugin/{route}?{query}", timeout=SECONDS_TO_START) as response:
        return json.load(response)


def fetch_loaded(address: str, route: str, **parameters: str) -> Any:
    """What a route answers once the server has loaded the run."""
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        if answer := fetch(address, route, **parameters):
            return answer
    pytest.fail(f"TensorBoard never had anything to say at {route}")


class Browser:
    """Headless Chromium, and what the tests do with the tab in it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, address: str) -> None:
        """Open TensorBoard, or a page."""
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get("about:blank")
        self.driver.get(address)

    def forget(self) -> None:
        """Empty the cache."""
        self.driver.execute_cdp_cmd("Network.clearBrowserCache", {})

    def wait_for_tabs(self) -> None:
        """Until TensorBoard has put up its tabs."""
        script = "return document.querySelector('header, tb-webapp-header, app-header')?.innerText ?? ''"
        self.until(lambda: "gradguard" in self.driver.execute_script(script).lower(), "the name of the tab")

    def wait_for_quiet(self) -> None:
        """Until TensorBoard is done with what it does first."""
        self.driver.execute_async_script("const done = arguments[0]; setTimeout(() => requestIdleCallback(done), 3000)")

    def show_tab(self) -> None:
        """Go from whatever TensorBoard shows to the GradGuard tab, and into its frame."""
        self.outside()
        self.driver.execute_script("location.hash = 'gradguard'")
        self.inside()

    def outside(self) -> None:
        """To TensorBoard around the tab."""
        self.driver.switch_to.default_content()

    def inside(self) -> None:
        """Into the tab's frame."""
        self.outside()
        self.driver.switch_to.frame(self.wait_for("iframe[src*='name=gradguard']"))

    def wait_for(self, selector: str) -> Any:
        """The first element there is of a kind."""
        return self.until(lambda: self.all(selector), f"no {selector}")[0]

    def all(self, selector: str) -> list[Any]:
        """All elements of a kind."""
        found: list[Any] = self.driver.find_elements("css selector", selector)
        return found

    def texts(self, selector: str) -> list[str]:
        """What the elements of a kind say."""
        script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText ?? one.textContent)"
        said: list[str] = self.driver.execute_script(script, selector)
        return said

    def click(self, selector: str) -> None:
        """Click on the first element of a kind, as a person does, also while the page is being drawn."""
        self._act(lambda: self.wait_for(selector).click(), f"{selector} to click on")

    def type_into(self, selector: str, text: str) -> None:
        """Type into the first element of a kind, also while the page is being drawn."""
        self._act(lambda: self.wait_for(selector).send_keys(text), f"{selector} to type into")

    def _act(self, action: Callable[[], object], told: str) -> None:
        """Do something with an element; again where it was replaced, or not drawn yet, before anything was done."""
        from selenium.common.exceptions import ElementNotInteractableException, StaleElementReferenceException

        def is_done() -> bool:
            with contextlib.suppress(StaleElementReferenceException, ElementNotInteractableException):
                action()
                return True
            return False

        self.until(is_done, told)

    def until(self, condition: Any, told: str) -> Any:
        """What the condition gives once it holds."""
        deadline = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < deadline:
            if value := condition():
                return value
            time.sleep(0.02)
        pytest.fail(f"the page never showed it: {told}")

    def wait_for_charts(self) -> None:
        """Until every chart of the page is drawn."""
        self.until(lambda: self.driver.execute_script(CHARTS), "its charts")

    def press_on(self, selector: str, key: str) -> None:
        """Focus an element and press a key, by its name in the DOM."""
        from selenium.webdriver.common.keys import Keys

        names = {
            "ArrowDown": Keys.ARROW_DOWN,
            "ArrowUp": Keys.ARROW_UP,
            "ArrowLeft": Keys.ARROW_LEFT,
            "End": Keys.END,
            "Enter": Keys.ENTER,
        }

        def press() -> None:
            self.driver.execute_script("document.querySelector(arguments[0]).focus()", selector)
            self.driver.switch_to.active_element.send_keys(names[key])

        self._act(press, f"{selector} to press {key} on")

    def set_dark(self, is_dark: bool) -> None:
        """What the system prefers, which TensorBoard follows unless told otherwise."""
        value = "dark" if is_dark else "light"
        media = {"features": [{"name": "prefers-color-scheme", "value": value}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def problems(self) -> list[str]:
        """What the console complained of since the page was opened; TensorBoard has no icon to serve."""
        told = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        return [message for message in told if "favicon.ico" not in message]

    def asked(self) -> set[str]:
        """The addresses that were asked for anything since the page was opened."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        sent = (one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent")
        return {url for url in sent if not url.startswith(("data:", "blob:", "about:", "chrome:"))}


@contextmanager
def browser(width: int = 1400, height: int = 1700) -> Iterator[Browser]:
    """Headless Chromium with a profile of its own; skips the test where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason=INSTALL)
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip(INSTALL)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
        try:
            yield Browser(driver)
        finally:
            driver.quit()
