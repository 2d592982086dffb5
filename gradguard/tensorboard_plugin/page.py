"""The tab as one self-contained HTML page, with its scripts, style, plotly and the data in it."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradguard.runs import Log, changes_of, verdicts
from gradguard.runs.coverage import last_right, last_steps
from gradguard.runs.overview import overview, summary, tensor_over_time, worst_first
from gradguard.tensorboard_plugin import plotly
from gradguard.writers.record import Record

STATIC = Path(__file__).parent / "static"
MAX_CHECKS = 300  # of a run
MAX_CHARACTERS = 4_000_000  # of JSON, for the single entries of all runs together


def page(logs: Sequence[Log]) -> str:
    """The page as HTML: it needs no server, and shows tables instead of charts if plotly is not installed."""
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
    """The scripts as an import map of data URLs, since a single page has no folder to import from."""
    return {"imports": {f"gradguard/{path.name}": _as_url(path) for path in sorted(STATIC.glob("*.js"))}}


def _as_url(path: Path) -> str:
    text = path.read_text(encoding="utf-8").replace("from './", "from 'gradguard/")
    return f"data:text/javascript;base64,{base64.b64encode(text.encode()).decode()}"


def _content(logs: Sequence[Log]) -> Mapping[str, Any]:
    runs = {log.run: thinned(log.checks) for log in logs}
    content = {log.run: _run(log, runs[log.run], MAX_CHARACTERS // len(logs)) for log in logs}
    summaries = worst_first({"name": name} | summary(checks) for name, checks in runs.items())
    return {"summaries": summaries, "runs": content, "verdicts": verdicts()}


def _run(log: Log, checks: Sequence[Record], max_characters: int) -> Mapping[str, Any]:
    names = dict.fromkeys(name for check in checks for name in check["tensors"])
    return {
        "overview": overview(checks, log.unreadable, log.sweep),
        "tensors": {name: tensor_over_time(name, checks) for name in names},
        "checks": {check["step"]: check["tensors"] for check in _fitting(checks, max_characters)},
    }


def thinned(checks: Sequence[Record]) -> list[Record]:
    """At most about `MAX_CHECKS` checks: every k-th, with the first, the last and all that have alerts.

    Each then tells of the whole run, as the last record in an event file does.
    """
    every = max(1, -(-len(checks) // MAX_CHECKS))
    chosen = [check for i, check in enumerate(checks) if i % every == 0 or check["alerts"] or i == len(checks) - 1]
    if len(chosen) == len(checks):
        return chosen
    whole = {"changes": changes_of(checks), "right": last_right(checks), "last": last_steps(checks)}
    return [check | {"began": checks[0]["step"], "checks": len(checks)} | whole for check in chosen]


def _fitting(checks: Iterable[Record], max_characters: int) -> list[Record]:
    """As many complete checks as fit: those with alerts first, then the latest."""
    chosen: list[Record] = []
    for check in sorted(checks, key=lambda check: (not check["alerts"], -check["step"])):
        tensors = dict(check["tensors"])
        max_characters -= len(json.dumps(tensors))
        if max_characters < 0:
            break
        chosen.append(check | {"tensors": tensors})
    return chosen


def _in_html(content: Mapping[str, Any]) -> str:
    """JSON without "<", so that it cannot end its HTML element."""
    return json.dumps(content, allow_nan=False).replace("<", "\\u003c")
