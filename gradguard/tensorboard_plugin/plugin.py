"""What TensorBoard asks of a plugin, and the routes that the tab reads from.

TensorBoard imports this in every process, and ends where that fails: it needs nothing but TensorBoard, werkzeug, which
TensorBoard brings along, and gradguard's core.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from tensorboard import errors, plugin_util
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from tensorboard.util import tb_logging
from werkzeug import wrappers

from gradguard.runs.overview import overview
from gradguard.tensorboard_plugin import plotly
from gradguard.tensorboard_plugin.runs import MOST, Runs
from gradguard.writers.record import PLUGIN

Answer: TypeAlias = Callable[[wrappers.Request], wrappers.Response]

STATIC = Path(__file__).parent / "static"
KINDS = {".js": "text/javascript", ".css": "text/css"}
KEEP_MORE = f"TensorBoard keeps more with --samples_per_plugin={PLUGIN}={MOST}."
A_DAY = 86400  # seconds
LOG = tb_logging.get_logger()


class GradGuardPlugin(base_plugin.TBPlugin):  # type: ignore[misc]  # tensorboard ships no types
    """The GradGuard tab. Whatever fails in it is told in the tab: TensorBoard and its other tabs go on.

    Args:
        context: TensorBoard's own.
    """

    plugin_name = PLUGIN

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._provider = context.data_provider

    def get_plugin_apps(self) -> Mapping[str, Callable[..., Iterable[bytes]]]:
        """The routes."""
        routes: dict[str, Answer] = {"/runs": self._runs, "/run": self._run, "/check": self._check}
        files = {f"/static/{path.name}": _file(path) for path in STATIC.glob("*") if path.suffix in KINDS}
        return {
            route: wrappers.Request.application(_told(answer))
            for route, answer in (routes | files | {"/plotly.js": _plotly}).items()
        }

    def is_active(self) -> bool:
        """Whether the tab is shown by itself: TensorBoard asks the provider what it holds for the plugin by name."""
        return False

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Where the page begins."""
        return base_plugin.FrontendMetadata(es_module_path="/static/index.js", tab_name="GradGuard")

    def _runs(self, request: wrappers.Request) -> wrappers.Response:
        return _json(request, {"runs": self._read(request).names(), "plotly": plotly.script() is not None})

    def _run(self, request: wrappers.Request) -> wrappers.Response:
        run = self._read(request).read(_asked(request, "run"))
        return _json(request, overview(run.checks, run.unreadable, run.sweep) | {"hint": KEEP_MORE})

    def _check(self, request: wrappers.Request) -> wrappers.Response:
        run, step = _asked(request, "run"), _asked(request, "step")
        check = self._read(request).check(run, step)
        if check is None:
            raise errors.NotFoundError(f"TensorBoard no longer keeps the check at step {step} of run {run!r}: reload")
        return _json(request, check)

    def _read(self, request: wrappers.Request) -> Runs:
        if self._provider is None:
            raise errors.NotFoundError("TensorBoard runs without a data provider (--generic_data=false)")
        return Runs(self._provider, plugin_util.context(request.environ), plugin_util.experiment_id(request.environ))


def _told(answer: Answer) -> Answer:
    """The answer, or what failed, in words that the tab shows."""

    def told(request: wrappers.Request) -> wrappers.Response:
        try:
            return answer(request)
        except errors.PublicError as error:
            return _json(request, {"error": str(error)}, error.http_code)
        except Exception as error:  # one answer that fails must not take the server's others along
            LOG.exception("The GradGuard tab could not answer %s", request.path)
            return _json(request, {"error": f"{type(error).__name__}: {error}"}, 500)

    return told


def _asked(request: wrappers.Request, name: str) -> str:
    value: str | None = request.args.get(name)
    if value is None:
        raise errors.InvalidArgumentError(f"the request has no {name}")
    return value


def _json(request: wrappers.Request, content: Mapping[str, Any], code: int = 200) -> wrappers.Response:
    return _respond(request, json.dumps(content, allow_nan=False), "application/json", code=code)


def _respond(request: wrappers.Request, content: bytes | str, kind: str, **more: Any) -> wrappers.Response:
    response: wrappers.Response = http_util.Respond(request, content, kind, **more)
    return response


def _file(path: Path) -> Answer:
    return lambda request: _respond(request, path.read_bytes(), KINDS[path.suffix])


def _plotly(request: wrappers.Request) -> wrappers.Response:
    path = plotly.script()
    if path is None:
        raise errors.NotFoundError(f"plotly is not installed: {plotly.INSTALL}")
    return _respond(request, path.read_bytes(), "text/javascript", expires=A_DAY)
