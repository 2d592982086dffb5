import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from reports import MakeReport, MakeTensor
from servers import Browser, browser, tensorboard_server

from gradguard import Alert, BlockReport, Entry, Report, TensorReport, Verdict
from gradguard.cli import main
from gradguard.writers import TensorBoardWriter

NAMES = ("<img src=x onerror=alert(1)>", "**bold** [a](b) `c`", "layer/1/W \N{TEST TUBE}", "%{x} $a$ &lt;b&gt;")
ENTRIES = tuple(Entry((i, 0), -(0.1**i), -39 * 0.1**i, 1e-4) for i in range(6))
TABLE = ".detail table"
LAYERS = tuple(f"layers.{layer}.{kind}" for layer in range(20) for kind in ("W", "b"))
ROW_NAMES = ".row .name span"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for all."""
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def wrong(make_tensor: MakeTensor) -> Callable[..., TensorReport]:
    """Builds a tensor that is wrong by a factor of 39, on one of its gates too."""

    def build(name: str) -> TensorReport:
        block = BlockReport("f<i>", Verdict.scale, 0.95, 1e-4, 39.0, 0.01, 1.0, 6, 6)
        return make_tensor(
            name,
            verdict=Verdict.scale,
            cause="the backward pass divides by the number of timesteps and the loss does not",
            explanation="numerical = 39.00(1) x backprop",
            discrepancy=0.95,
            ratio=39.0,
            ratio_error=0.01,
            entries=ENTRIES,
            worst=ENTRIES[:2],
            blocks={"f<i>": block},
            constants={"timesteps": 39.0},
        )

    return build


@pytest.fixture(scope="module")
def report(
    make_report: MakeReport, make_tensor: MakeTensor, wrong: Callable[..., TensorReport]
) -> Callable[..., Report]:
    """Builds a check at a step, by the names of tensors that are right and of one that is wrong."""

    def build(step: int, right: tuple[str, ...], bad: str = "", told: bool = False) -> Report:
        tensors = [*(make_tensor(name, entries=ENTRIES[:2]) for name in right), *([wrong(bad)] if bad else [])]
        verdict = Verdict.scale if bad else Verdict.ok
        finding = "BUG, scale: numerical = 39 x backprop"
        alert = Alert(step, logging.ERROR, bad, Verdict.scale, f"step {step} {bad}: {finding}; do this", finding)
        return make_report(step, *tensors, verdict=verdict, alerts=(alert,) if told else ())

    return build


@pytest.fixture(scope="module")
def in_turns(make_report: MakeReport, make_tensor: MakeTensor) -> Callable[[int], Report]:
    """Builds a check at a step: W is measured every second check and always screened, V measured at first only."""

    def build(step: int) -> Report:
        w = make_tensor("W", entries=ENTRIES, measured_at=step // 200 * 200, screened_at=step)
        return make_report(step, w, make_tensor("V", entries=ENTRIES, measured_at=0), screened=1)

    return build


@pytest.fixture(scope="module")
def layers(
    make_report: MakeReport, make_tensor: MakeTensor, wrong: Callable[..., TensorReport]
) -> Callable[[int], Report]:
    """Builds a check of 20 layers: two tensors become wrong by one cause, one after the other; d of another is 0."""

    def build(step: int) -> Report:
        bad = LAYERS[14 : 14 + step]
        tensors = [wrong(name) if name in bad else make_tensor(name) for name in LAYERS[:-1]]
        exact = make_tensor(LAYERS[-1], discrepancy=0.0 if step else 1e-6)
        return make_report(step, *tensors, exact, screened=40, verdict=Verdict.scale if bad else Verdict.ok)

    return build


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
    report: Callable[..., Report],
    in_turns: Callable[[int], Report],
    layers: Callable[[int], Report],
) -> Path:
    """A log directory: a run whose W moves at step 500, one that is fine, one with markup for names, one in turns.

    And one with many tensors.
    """
    folder = tmp_path_factory.mktemp("runs")
    right = [report(step, ("V", "W")) for step in range(0, 500, 100)]
    moved = [report(step, ("V",), "W", told=step == 500) for step in range(500, 1000, 100)]
    write(folder / "1-moved", *right, *moved)
    write(folder / "2-fine", *(report(step, ("V",)) for step in range(3)))
    write(folder / "3 <b>run<", report(0, NAMES[1:], NAMES[0], told=True))
    write(folder / "4-turns", *(in_turns(step) for step in range(0, 600, 100)))
    write(folder / "5-layers", *(layers(step) for step in range(4)))
    return folder


def write(folder: Path, *reports: Report) -> None:
    """Write reports as one run does."""
    writer = TensorBoardWriter(folder)
    for one in reports:
        writer.write(one)
    writer.close()


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    """A TensorBoard over it."""
    with tensorboard_server(runs, "--reload_interval", "1") as address:
        yield address


@pytest.fixture
def tab(chromium: Browser, address: str) -> Browser:
    """The tab's own page, with its charts drawn: TensorBoard around it takes long to start."""
    chromium.open(f"{address}/data/plugin_entry.html?name=gradguard")
    chromium.wait_for_charts()
    return chromium


def choose_run(tab: Browser, run: str) -> None:
    """Choose a run as a person does."""
    from selenium.webdriver.support.ui import Select

    Select(tab.wait_for("#run")).select_by_value(run)


def headline(tab: Browser) -> str:
    """The sentence at the top."""
    tab.wait_for("#headline")
    return tab.texts("#headline")[0]


def test_the_tab_says_what_is_wrong_where_and_since_when(tab: Browser, address: str) -> None:
    """The first glance: verdict, cause, what to do, a row a tensor, charts; nothing fails and nobody else is asked."""
    assert headline(tab) == "BUG: scale in W, since step 500"
    (said,) = tab.texts(".verdict")
    assert "divides by the number of timesteps" in said
    assert "multiply the gradient by numerical/backprop" in said
    assert tab.texts(".row .name") == ["\N{HEAVY MULTIPLICATION X}\nW", "\N{HEAVY CHECK MARK}\nV"]
    assert tab.texts(".row:first-child .span em") == ["scale"]
    assert "W (2 × 2) at step 500" in tab.texts(".detail h2")[0]  # noqa: RUF001 - a times sign
    assert len(tab.all(".drawing .main-svg")) >= len(tab.all(".drawing")) >= 5
    assert tab.texts(".detail .badge") == ["\N{HEAVY MULTIPLICATION X} BUG: scale"]
    assert tab.texts(".alerts p")[0] == "step 500, W BUG, scale: numerical = 39 x backprop"
    assert "multiply the gradient" in tab.texts(".alerts")[0]
    assert tab.problems() == []
    assert {url[: len(address)] for url in tab.asked()} == {address}


def test_a_click_chooses_tensor_and_step(tab: Browser) -> None:
    """A row is clicked on, and the details are those of that tensor; an alert leads to its check."""
    tab.click(".row:nth-child(2) .track")
    assert tab.until(lambda: tab.texts(".detail .tensor") == ["V"], "the details of V")
    assert tab.texts("[aria-selected=true] .name span") == ["V"]
    tab.click(".alerts button")
    assert tab.until(lambda: "W (2" in tab.texts(".detail h2")[0], "the details of W")


def test_the_keyboard_reaches_every_tensor_and_check(tab: Browser) -> None:
    """Arrow keys move through rows and checks, and the focus stays on the row."""
    tab.press_on("[role=option][aria-selected=true]", "ArrowDown")
    assert tab.until(lambda: tab.texts(".detail .tensor") == ["V"], "the row below")
    tab.press_on("[role=option][aria-selected=true]", "ArrowLeft")
    tab.until(lambda: "at step 400" in tab.texts(".detail h2")[0], "the check before")
    focused = tab.driver.execute_script("return document.activeElement.getAttribute('aria-label')")
    assert focused.startswith("V: ok since step 0")


def test_another_run_tells_its_own_story(tab: Browser) -> None:
    """The run is chosen in the tab."""
    choose_run(tab, "2-fine")
    tab.until(lambda: "No bug in 1 tensor: rounding and truncation" in headline(tab), "the story of the other run")
    assert "3 checks, steps 0 to 2" in headline(tab)
    assert "None: nothing crossed a threshold" in tab.texts(".card")[-1]


def test_what_is_chosen_before_the_charts_are_there_is_drawn(chromium: Browser, address: str) -> None:
    """Nobody has to wait for the charts of the first run to see those of another."""
    chromium.forget()
    chromium.open(f"{address}/data/plugin_entry.html?name=gradguard")
    choose_run(chromium, "2-fine")
    chromium.wait_for_charts()
    assert "No bug in 1 tensor" in headline(chromium)
    assert chromium.problems() == []


def test_the_runs_are_listed_the_worst_first(tab: Browser) -> None:
    """The menu has the state of each run, and a line on each leads to it."""
    assert [text.split(" ")[0] for text in tab.texts("#run option")] == [*"\u2716\u2716\u2716?\u2714"]
    assert tab.texts(".runs summary") == ["5 runs: 3 with a bug, 1 in doubt, 1 fine"]
    tab.click(".runs summary")
    assert tab.texts(".runs tbody tr:first-child td:nth-child(3)") == ["BUG: scale in W, since step 500"]
    tab.click(".runs tr:last-child .link")
    tab.until(lambda: "No bug in 1 tensor" in headline(tab), "the run that was clicked on")
    assert tab.all(".runs[open]")


def test_many_tensors_are_grouped_by_layer(tab: Browser) -> None:
    """Layers are closed but for that of the chosen tensor; each has its worst verdict, and opens by mouse and keys."""
    choose_run(tab, "5-layers")
    tab.until(lambda: "layers.7.W" in headline(tab), "the run with layers")
    assert len(tab.all(".layer")) == 20
    assert tab.texts(".layer .name")[:2] == ["\u2716\n\u25be layers.7 (2)", "\u2716\n\u25b8 layers.8 (2)"]
    assert tab.texts(ROW_NAMES) == [".W", ".b"]
    tab.press_on(".layer[aria-expanded=false]", "Enter")
    tab.until(lambda: tab.texts(ROW_NAMES)[2:] == [".W", ".b"], "the rows of the next layer")
    assert tab.driver.execute_script("return document.activeElement.dataset.key") == "layer layers.8"
    tab.press_on("[role=option][aria-selected=true]", "End")
    tab.press_on("[role=option][aria-selected=true]", "ArrowDown")
    tab.press_on("[role=option][aria-selected=true]", "ArrowDown")
    tab.until(lambda: tab.texts(".detail .tensor") == ["layers.8.W"], "a tensor of the next layer")
    assert tab.texts(".screen .name span") == ["model"]
    assert "40 of 40 tensors screened" in tab.all(".screen")[0].get_attribute("aria-label")
    assert tab.problems() == []


def test_one_cause_is_one_block(tab: Browser) -> None:
    """Whenever each tensor became wrong; the cause and the advice are not said twice."""
    choose_run(tab, "5-layers")
    tab.until(lambda: "layers.7.W" in headline(tab), "the run with layers")
    assert tab.texts(".finding dd")[0] == ("layers.7.W since step 1; layers.7.b since step 2; layers.8.W since step 3")
    assert len(tab.all(".finding")) == 1
    assert headline(tab) == "BUG: scale in layers.7.W, layers.7.b and layers.8.W, the first since step 1"


def test_a_link_reopens_what_is_filtered_and_chosen(tab: Browser, address: str) -> None:
    """Filter, order and switch choose the rows without losing the caret; the address holds them and what is chosen."""
    choose_run(tab, "5-layers")
    tab.until(lambda: "layers.7.W" in headline(tab), "the run with layers")
    tab.type_into("#filter", "S.1.")
    assert tab.texts(ROW_NAMES) == ["layers.1.W", "layers.1.b"]
    tab.type_into("#filter", "\b" * 4)
    tab.click("#only")
    assert tab.texts(ROW_NAMES) == ["layers.7.W", "layers.7.b", "layers.8.W"]
    tab.type_into("#filter", "b")
    tab.click(".row .name")
    tab.until(lambda: tab.texts(".detail .tensor") == ["layers.7.b"], "the one that is left")
    link = tab.wait_for(".permalink").get_attribute("href")
    assert link == tab.driver.current_url
    tab.open(link.replace(f"{address}/data/plugin_entry.html?name=gradguard", f"{address}/"))
    tab.inside()
    tab.until(lambda: tab.texts(".detail .tensor") == ["layers.7.b"], "the same tensor")
    assert tab.texts(ROW_NAMES) == ["layers.7.b"]
    assert tab.all("#only")[0].is_selected()
    tab.outside()
    assert tab.driver.current_url.partition("#")[2] == link.partition("#")[2]


def test_a_filter_that_nothing_passes_says_so(tab: Browser) -> None:
    """An empty list would look like a run without tensors."""
    tab.type_into("#filter", "<nothing>")
    assert tab.texts(".rows") == ["None of the 2 tensors matches."]


def test_a_discrepancy_of_zero_is_drawn(chromium: Browser, address: str) -> None:
    """A logarithmic axis has no 0: it stands on a line of its own below all else."""
    query = "p.gradguard.run=5-layers&p.gradguard.tensor=layers.19.b"
    chromium.open(f"{address}/data/plugin_entry.html?name=gradguard#gradguard&{query}")
    chromium.wait_for_charts()
    chart = "[aria-label^=Discrepancy]"
    chromium.until(lambda: len(chromium.all(f"{chart} .point")) == 4, "a point for each check")
    assert "0" in chromium.texts(f"{chart} .annotation-text")


def test_names_are_text_everywhere(tab: Browser) -> None:
    """Tensors, blocks and runs named in HTML, Markdown or plotly's own marks are shown as they are."""
    choose_run(tab, "3 <b>run<")
    tab.until(lambda: NAMES[0] in headline(tab), "the name in the sentence")
    assert {text.partition("\n")[2] for text in tab.texts(".row .name")} == set(NAMES)
    tab.wait_for_charts()
    tab.until(lambda: any("f<i>" in text for text in tab.texts(".drawing text")), "the name of the block in a chart")
    assert tab.all("img") == []
    assert "%{x} $a$ &lt;b&gt;" in tab.texts(".rows")[0]
    assert tab.problems() == []


def test_what_is_older_has_its_date(tab: Browser) -> None:
    """Verdict, numbers and charts of an earlier step say of which they are, and no point of a chart repeats one."""
    choose_run(tab, "4-turns")
    tab.until(lambda: "1 of 2 tensors was not checked in the last 3 checks (V)" in headline(tab), "the other run")
    tab.wait_for_charts()
    assert "max_overhead" in tab.texts(".verdict .todo")[0]
    assert tab.texts(".row .mark") == ["?", "\N{HEAVY CHECK MARK}"]
    assert len(tab.all(".row:first-child .stale")) == 1
    tab.press_on("[role=option][aria-selected=true]", "End")
    tab.until(
        lambda: "V (2" in tab.texts(".detail h2")[0] and "step 500" in tab.texts(".detail h2")[0], "the last check"
    )
    assert tab.texts(".detail .badge") == ["\N{HEAVY CHECK MARK} ok, at step 0"]
    assert tab.texts(".says") == ["not checked since; d = 2.8e-5 at step 0"]
    tab.press_on("[role=option][aria-selected=true]", "ArrowDown")
    tab.until(lambda: "W (2" in tab.texts(".detail h2")[0], "the row below")
    assert tab.texts(".detail .badge") == ["\N{HEAVY CHECK MARK} ok"]
    assert tab.texts(".says") == ["screened; smallest detectable scale error: 0.01 %; d = 2.8e-5 at step 400"]
    assert tab.texts(".facts .earlier")[0] == "2.8e-5 over a floor of 3.4e-5, at step 400"
    captions = tab.texts("figcaption")
    assert "Numerical gradient n against backprop g, each sampled entry, at step 400" in captions
    tab.wait_for_charts()
    points = "return [...document.querySelectorAll('.drawing')].map((one) => one.querySelectorAll('.point').length)"
    assert {3, 6} <= set(tab.driver.execute_script(points))
    assert tab.problems() == []


def test_it_follows_tensorboard(chromium: Browser, report: Callable[..., Report], tmp_path: Path) -> None:
    """Inside TensorBoard it takes over the theme, charts included, and its button to reload brings new checks."""
    write(tmp_path / "run", report(0, ("V", "W")))
    chromium.set_dark(True)
    with tensorboard_server(tmp_path, "--reload_interval", "1") as address:
        chromium.open(f"{address}/#gradguard")
        chromium.inside()
        chromium.wait_for_charts()
        chromium.until(lambda: "in the check at step 0" in headline(chromium), "the first check")
        assert background(chromium) == "rgb(41, 44, 48)"
        chromium.outside()
        chromium.driver.execute_script("document.body.classList.remove('dark-mode')")
        chromium.inside()
        chromium.until(lambda: background(chromium) == "rgb(255, 255, 255)", "charts on white")
        write(tmp_path / "run", report(10, ("V",), "W", told=True))
        chromium.until(lambda: after_reload(chromium) == "BUG: scale in W, since step 10", "the new check")
        assert chromium.problems() == []
        assert {url[: len(address)] for url in chromium.asked()} == {address}
    chromium.set_dark(False)


def background(tab: Browser) -> str:
    """The colour that a chart is drawn on."""
    colour: str = tab.driver.execute_script("return document.querySelector('.main-svg')?.style.background ?? ''")
    return colour


def after_reload(chromium: Browser) -> str:
    """What the tab says after TensorBoard's own button to reload."""
    chromium.outside()
    chromium.driver.execute_script("document.querySelector('app-header-reload button').click()")
    chromium.inside()
    return headline(chromium)


def test_without_plotly_there_are_tables(chromium: Browser, runs: Path, tmp_path: Path) -> None:
    """The tab says what to install, and shows the numbers."""
    (tmp_path / "plotly").mkdir()
    (tmp_path / "plotly" / "__init__.py").write_text("")
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    with tensorboard_server(runs, environment=environment) as address:
        chromium.open(f"{address}/data/plugin_entry.html?name=gradguard")
        chromium.wait_for(TABLE)
    assert "pip install 'gradguard[tab]'" in chromium.texts(".problem")[0]
    assert chromium.all(".drawing") == []
    assert any("39 ± 0.01" in text for text in chromium.texts(TABLE))
    assert chromium.problems() == []


def test_a_log_directory_without_data_says_what_to_do(chromium: Browser, tmp_path: Path) -> None:
    """No run, no error, but how to get one."""
    with tensorboard_server(tmp_path) as address:
        chromium.open(f"{address}/data/plugin_entry.html?name=gradguard")
        said = chromium.wait_for("main h1").text
    assert said == "No run here holds gradguard data."
    assert "Attach GradGuard(" in chromium.wait_for("main").text
    assert chromium.problems() == []


def test_the_page_of_a_report_shows_the_same(chromium: Browser, runs: Path, tmp_path: Path) -> None:
    """One file, from a disk: the sentence, the strip, the charts, the alerts; it asks nobody for anything."""
    path = tmp_path / "report.html"
    assert main(["report", str(runs), "--html", str(path)]) == 1
    chromium.open(path.as_uri())
    chromium.wait_for_charts()
    assert headline(chromium) == "BUG: scale in W, since step 500"
    assert chromium.texts(".detail .badge") == ["\N{HEAVY MULTIPLICATION X} BUG: scale"]
    choose_run(chromium, "3 <b>run<")
    chromium.until(lambda: NAMES[0] in headline(chromium), "the other run")
    chromium.wait_for_charts()
    assert chromium.problems() == []
    assert chromium.asked() == {path.as_uri()}
