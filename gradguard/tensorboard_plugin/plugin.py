"""The TensorBoard plugin: the routes from which the tab loads its files and data.

TensorBoard imports this module at every start, and does not start if the import fails. The module therefore needs only
TensorBoard, werkzeug (a dependency of TensorBoard) and gradguard's core.
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

from gradguard.runs import verdicts
from gradguard.runs.overview import overview, tensor_over_time
from gradguard.tensorboard_plugin import plotly
from gradguard.tensorboard_plugin.runs import MAX_CHECKS, Run, Runs
from gradguard.writers.record import PLUGIN

Handler: TypeAlias = Callable[[wrappers.Request], wrappers.Response]

STATIC = Path(__file__).parent / "static"
CONTENT_TYPES = {".js": "text/javascript", ".css": "text/css"}
SAMPLES_HINT = f"TensorBoard keeps more with --samples_per_plugin={PLUGIN}={MAX_CHECKS}."
PLOTLY_CACHE_SECONDS = 86400  # a day
LOG = tb_logging.get_logger()


class GradGuardPlugin(base_plugin.TBPlugin):  # type: ignore[misc]  # tensorboard ships no types
    """The GradGuard tab. The tab shows its own errors; TensorBoard and its other tabs are not affected.

    Args:
        context: The context that TensorBoard passes to each plugin.
    """

    plugin_name = PLUGIN

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._provider = context.data_provider
        self._latest: dict[object, Run] = {}

    def get_plugin_apps(self) -> Mapping[str, Callable[..., Iterable[bytes]]]:
        """The routes of the tab, each with its handler."""
        routes: dict[str, Handler] = {"/runs": self._runs, "/run": self._run, "/tensor": self._tensor}
        files = {
            f"/static/{path.name}": _static_file(path) for path in STATIC.glob("*") if path.suffix in CONTENT_TYPES
        }
        return {
            route: wrappers.Request.application(_with_error_response(handler))
            for route, handler in (routes | files | {"/plotly.js": _plotly}).items()
        }

    def is_active(self) -> bool:
        """False: TensorBoard shows the tab when its data provider holds data under the plugin's name."""
        return False

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """The entry point of the page and the name of the tab."""
        return base_plugin.FrontendMetadata(es_module_path="/static/index.js", tab_name="GradGuard")

    def _runs(self, request: wrappers.Request) -> wrappers.Response:
        runs = self._read(request).summaries()
        return _json(request, {"runs": runs, "plotly": plotly.script() is not None, "verdicts": verdicts()})

    def _run(self, request: wrappers.Request) -> wrappers.Response:
        run = self._read(request).read(_argument(request, "run"))
        return _json(request, overview(run.checks, run.unreadable, run.sweep) | {"hint": SAMPLES_HINT})

    def _tensor(self, request: wrappers.Request) -> wrappers.Response:
        run, name, step = (_argument(request, key) for key in ("run", "tensor", "step"))
        checks = self._read(request).read(run).checks
        check = next((check for check in checks if str(check["step"]) == step), None)
        if check is None:
            raise errors.NotFoundError(f"TensorBoard no longer keeps the check at step {step} of run {run!r}: reload")
        return _json(request, tensor_over_time(name, checks) | {"report": check["tensors"].get(name)})

    def _read(self, request: wrappers.Request) -> Runs:
        if self._provider is None:
            raise errors.NotFoundError("TensorBoard runs without a data provider (--generic_data=false)")
        context, experiment = plugin_util.context(request.environ), plugin_util.experiment_id(request.environ)
        return Runs(self._provider, context, experiment, self._latest)


def _with_error_response(handler: Handler) -> Handler:
    """The handler, with an error response that the tab shows if the handler raises."""

    def respond(request: wrappers.Request) -> wrappers.Response:
        try:
            return handler(request)
        except errors.PublicError as error:
            return _json(request, {"error": str(error)}, error.http_code)
        except Exception as error:  # one failed request must not stop the server
            LOG.exception("The GradGuard tab could not answer %s", request.path)
            return _json(request, {"error": f"{type(error).__name__}: {error}"}, 500)

    return respond


def _argument(request: wrappers.Request, name: str) -> str:
    value: str | None = request.args.get(name)
    if value is None:
        raise errors.InvalidArgumentError(f"the request has no {name}")
    return value


def _json(request: wrappers.Request, content: Mapping[str, Any], code: int = 200) -> wrappers.Response:
    return _respond(request, json.dumps(content, allow_nan=False), "application/json", code=code)


def _respond(request: wrappers.Request, content: bytes | str, content_type: str, **options: Any) -> wrappers.Response:
    response: wrappers.Response = http_util.Respond(request, content, content_type, **options)
    return response


def _static_file(path: Path) -> Handler:
    return lambda request: _respond(request, path.read_bytes(), CONTENT_TYPES[path.suffix])


def _plotly(request: wrappers.Request) -> wrappers.Response:
    path = plotly.script()
    if path is None:
        raise errors.NotFoundError(f"plotly is not installed: {plotly.INSTALL}")
    return _respond(request, path.read_bytes(), "text/javascript", expires=PLOTLY_CACHE_SECONDS)
