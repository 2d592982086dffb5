"""The tab as one self-contained page: its scripts, its style, plotly and the data in a single file."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradguard.runs.logs import Log
from gradguard.runs.overview import overview
from gradguard.runs.story import changes_of
from gradguard.tensorboard_plugin import plotly
from gradguard.writers.record import Record

STATIC = Path(__file__).parent / "static"
SHOWN = 300  # checks of a run
LARGEST = 4_000_000  # characters of the single entries of all runs


def page(logs: Sequence[Log]) -> str:
    """The page as HTML: it asks nothing of any server, and shows tables where plotly is not installed."""
    script = plotly.script()
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>GradGuard</title>',
        '<meta name="viewport" content="width=device-width">',
        f"<style>{(STATIC / 'style.css').read_text(encoding='utf-8')}</style>",
        f"<script>{script.read_text(encoding='utf-8')}</script>" if script else "",
        f'<script type="importmap">{_in_html(_modules())}</script>',
        f'<script type="application/json" id="data">{_in_html(_content(logs))}</script>',
        "</head><body><script type=\"module\">import 'gradguard/page.js';</script></body></html>",
    ]
    return "\n".join(filter(None, parts))


def _modules() -> Mapping[str, Any]:
    """The scripts as a map of imports: a page on its own has no folder that they could import each other from."""
    return {"imports": {f"gradguard/{path.name}": _as_url(path) for path in sorted(STATIC.glob("*.js"))}}


def _as_url(path: Path) -> str:
    text = path.read_text(encoding="utf-8").replace("from './", "from 'gradguard/")
    return f"data:text/javascript;base64,{base64.b64encode(text.encode()).decode()}"


def _content(logs: Sequence[Log]) -> Mapping[str, Any]:
    return {"runs": {log.run: _run(log, LARGEST // len(logs)) for log in logs}}


def _run(log: Log, room: int) -> Mapping[str, Any]:
    shown = thinned(log.checks)
    return {
        "overview": overview(shown, log.unreadable, log.sweep),
        "checks": {check["step"]: check for check in _within(shown, room)},
    }


def thinned(checks: Sequence[Record]) -> list[Record]:
    """As many checks as a picture shows: those with alerts, the first and the last, and others evenly.

    The latest carries the changes of the verdicts of all, and their number, as the records in event files do.
    """
    every = max(1, -(-len(checks) // SHOWN))
    kept = [check for i, check in enumerate(checks) if i % every == 0 or check["alerts"] or i == len(checks) - 1]
    if len(kept) == len(checks):
        return kept
    whole = {"changes": changes_of(checks), "began": checks[0]["step"], "checks": len(checks)}
    return [check | {"began": None, "checks": None} | whole for check in kept]


def _within(checks: Iterable[Record], room: int) -> list[Record]:
    """Whole checks, those with alerts and then the latest first, as many as there is room for."""
    kept: list[Record] = []
    for check in sorted(checks, key=lambda check: (not check["alerts"], -check["step"])):
        room -= len(json.dumps(check))
        if room < 0:
            break
        kept.append(check)
    return kept


def _in_html(content: Mapping[str, Any]) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(content, allow_nan=False).replace("<", "\\u003c")
