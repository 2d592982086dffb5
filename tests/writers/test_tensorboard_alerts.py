"""The list of alerts, whatever the names and messages hold."""

import html
import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import MakeReport
from tensorboard_runs import ALERTS, read_run, write_all

from gradguard import Alert, Verdict
from gradguard.writers.tensorboard.curves import alert_list


def test_the_alerts_of_a_step_are_one_list(tmp_path: Path, make_report: MakeReport) -> None:
    """All that was told at a check stands together, since TensorBoard keeps one text a step; a fault is one item."""
    alerts = (
        *(
            Alert(
                4,
                logging.ERROR,
                name,
                Verdict.scale,
                f"step 4 {name}: BUG, scale: numerical = 39 x backprop",
                subject="scale",
            )
            for name in "WV"
        ),
        Alert(4, logging.INFO, "", Verdict.ok, "recovered"),
    )
    write_all(tmp_path, make_report(3), make_report(4, alerts=alerts))
    [(step, text)] = read_run(tmp_path)[ALERTS]
    assert step == 4
    assert text.item().decode().splitlines() == [
        "- **ERROR** W and V: BUG, scale: numerical = 39 x backprop",
        "- **INFO**: recovered",
    ]


HOSTILE = [
    "<script>alert(1)</script>",
    "a | b",
    r"a \| b",
    "*W* _W_ **W** `timesteps` ~~W~~",
    "[here](http://example.com) ![x](y)",
    "&lt;b&gt; &#42;",
    "# 1. > - ```",
    "\x02klzzwxh:0000\x03",
    "one\ntwo\r\n\n| x | y |",
    "lone \ud800 surrogate",
]


def rendered_item(markdown: str) -> str:
    """The text of a list with one item, as TensorBoard's own renderer shows it."""
    from tensorboard.plugin_util import markdown_to_safe_html

    found = re.fullmatch(
        "<ul>\\s*<li><strong>WARNING</strong>(.*)</li>\\s*</ul>", markdown_to_safe_html(markdown), re.DOTALL
    )
    assert found is not None
    assert "<" not in found[1]
    return html.unescape(found[1])


def shown(text: str) -> str:
    """A text on one line, with a mark for each character that cannot be shown."""
    return "".join(char if char.isprintable() else "\ufffd" for char in " ".join(text.split()))


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer is deprecated:DeprecationWarning")
@pytest.mark.parametrize("text", HOSTILE)
def test_names_and_messages_show_as_text(tmp_path: Path, make_report: MakeReport, text: str) -> None:
    """HTML, pipes and Markdown in a tensor's name or in a message are read, not rendered."""
    write_all(tmp_path, make_report(0, alerts=(Alert(0, logging.WARNING, text, Verdict.sign, text),)))
    [(_, markdown)] = read_run(tmp_path)[ALERTS]
    assert rendered_item(markdown.item().decode()) == f" {shown(text)}: {shown(text)}"


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer is deprecated:DeprecationWarning")
@given(text=st.text(alphabet=st.one_of(st.sampled_from("<>&|\\`*_[]()!#~^:;\"'x1 \t\n"), st.characters())))
def test_any_message_shows_as_text(text: str) -> None:
    """No text at all gets markup into the list, or loses a letter there."""
    item = rendered_item(alert_list([Alert(0, logging.WARNING, "W", Verdict.sign, f"x{text}x")]))
    assert item == f" W: {shown(f'x{text}x')}"
