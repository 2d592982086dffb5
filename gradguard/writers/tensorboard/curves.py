"""A report as TensorBoard summaries: curves, bands, histograms and the text of alerts.

TensorBoard groups charts by the text before the first slash of a tag and sorts the groups. `gradguard/<number>` is the
overview and stands first; each `gradguard.<metric>/<tensor>` is a section with a curve for each tensor; the curves of
Custom Scalars stand last. A number that was measured at an earlier step is no point of this one.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from tensorboard.compat.proto import summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.util.tensor_util import make_tensor_proto

from gradguard.report import Alert, Report, TensorReport, Verdict, alike, encodable, listed
from gradguard.report.verdict import Level
from gradguard.statistics import explained_by

_Curve: TypeAlias = tuple[str, float, str]

_MAX_FLOAT32 = float(np.finfo(np.float32).max)

_BAND = "z_custom_scalars"  # sorted after all other sections
_SMALLEST = 1e-18  # a discrepancy or floor of which nothing smaller is drawn: below the rounding of float64

# By the metric of a check, or by that of tensors. The numbers of a report without a description are no curves: they are
# in the records of the GradGuard tab.
_DESCRIPTIONS = {
    "check/evaluations": "How often the loss was evaluated",
    "check/seconds": "How long the check took",
    "check/verdict": "Level: 0 agrees, 1 within float precision or as declared, 2 cannot tell, 3 a bug",
    "check/loss": "The loss at the parameters as they are",
    "check/screened": "Tensors that a screen of the model covered",
    "check/measured": "Tensors of which numbers of their own were measured",
    "ratio": "n / g: of the tensor's own probes, or by regression over those of screens",
    "ratio_drift": "log(ratio / the first confirmed ratio)",
    "discrepancy": "norm(n - g) / (norm(n) + norm(g)), g backprop, n numerical",
    "sign_agreement": "Share of resolvable entries whose signs agree",
}

_LEVELS = {
    Level.bug: ("bug", "Tensors whose gradient is wrong"),
    Level.unclear: ("cannot_tell", "Tensors that the check cannot judge"),
    Level.explained: ("explained", "Tensors that differ within float precision, or as declared"),
    Level.ok: ("ok", "Tensors whose gradient agrees"),
}


def summarize(report: Report, *, described: set[str], charted: Sequence[str] = ()) -> summary_pb2.Summary:
    """The summaries of a report for TensorBoard.

    Args:
        report: The report of a check.
        described: The curves whose description is in the file already, to which those of this report are added:
            TensorBoard keeps the description of a tag's first event, and later points need none.
        charted: The tensors to draw a band chart of, where these are not those of the file's last layout.
    """
    summary = summary_pb2.Summary()
    for tag, value, description in _curves(report):
        if tag in described:
            summary.value.add(tag=tag, tensor=_scalar(value))
        else:
            described.add(tag)
            summary.MergeFrom(scalar_pb(tag, value, description=description))
    for name, tensor in _measured(report):
        summary.MergeFrom(_histogram(name, tensor))
    if report.alerts:
        summary.MergeFrom(text_pb("gradguard.alerts/alerts", alert_list(report.alerts)))
    if charted:
        summary.MergeFrom(_layout(charted))
    return summary


def _scalar(value: float) -> tensor_pb2.TensorProto:
    shape = tensor_shape_pb2.TensorShapeProto()
    return tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[value], tensor_shape=shape)


def _curves(report: Report) -> Iterator[_Curve]:
    for name, value, description in _overview(report):
        if is_scalar(value):
            yield f"gradguard/{name}", value, description
    for key, value in report.scalars().items():
        curve = key.removeprefix("gradguard/")
        description = _DESCRIPTIONS.get(curve) or _DESCRIPTIONS.get(curve.partition("/")[0], "")
        if description and is_scalar(value):
            yield f"gradguard.{curve}", value, description
    for name, tensor in _measured(report):
        yield from _band(name, tensor)


def _overview(report: Report) -> Iterator[_Curve]:
    """The run in a few numbers; a number that no tensor of this check has is left out."""
    over = [
        tensor.discrepancy / tensor.floor
        for _, tensor in _measured(report)
        if tensor.verdict is not Verdict.expected and tensor.floor > 0 and math.isfinite(tensor.discrepancy)
    ]
    if over:
        description = (
            "The largest d / floor of a tensor; rounding and truncation reach 2, and more where entries are few"
        )
        yield "discrepancy_over_floor", max(over), description
    evidence = [tensor.evidence for tensor in report.tensors.values() if tensor.looked_at(report.step)]
    if evidence:
        yield "evidence", max(evidence), "The largest log10 of the evidence that a gradient is wrong; alarms at about 7"
    for level, (name, description) in _LEVELS.items():
        yield f"tensors_{name}", sum(one.verdict.level is level for one in report.tensors.values()), description
    if report.overhead is not None:
        yield "overhead", report.overhead, "Share of the time after the first check that went into checks"


def _measured(report: Report) -> Iterator[tuple[str, TensorReport]]:
    """The tensors whose own numbers are of this check, by name."""
    return ((name, tensor) for name, tensor in report.tensors.items() if tensor.measured_at == report.step)


def _band(name: str, tensor: TensorReport) -> Iterator[_Curve]:
    """log10 of the discrepancy, and of the band of float precision, where there is a discrepancy.

    TensorBoard draws these charts on linear axes, and refuses one unless its three curves have the same steps. Where
    the floor is not finite, the band reaches up to 1, the largest possible discrepancy. Its lower edge is a thousandth
    of that. A discrepancy of 0 has no logarithm and stands at that edge.
    """
    if not is_scalar(tensor.discrepancy):
        return
    explained = explained_by(float(tensor.floor), tensor.sampled - tensor.unresolved - tensor.kinks)
    top = max(min(explained, 1.0), _SMALLEST) if math.isfinite(explained) else 1.0
    yield _tag(_BAND, name, "log10_d"), math.log10(tensor.discrepancy or top / 1000), "log10 of the discrepancy"
    yield _tag(_BAND, name, "lower"), math.log10(top / 1000), "The lower edge of the band, 3 below the upper one"
    yield _tag(_BAND, name, "upper"), math.log10(top), "log10 of the largest d from rounding and truncation"


def _histogram(name: str, tensor: TensorReport) -> summary_pb2.Summary:
    """The ratios of the entries where they may differ: those of a right gradient are a spike at 1."""
    ratios = [] if tensor.verdict.agrees else [ratio for ratio in tensor.ratios if is_scalar(ratio)]
    return histogram_pb(_tag("ratios", name), ratios) if ratios else summary_pb2.Summary()


def _layout(names: Sequence[str]) -> summary_pb2.Summary:
    """One margin chart for each tensor, in the Custom Scalars tab, which shows the last chart of a layout first."""
    category = layout_pb2.Category(
        title="gradguard: log10 of the discrepancy d, over the band of float precision",
        chart=[_chart(name) for name in reversed(names)],
    )
    layout = layout_pb2.Layout(category=[category])
    metadata = custom_scalar.create_summary_metadata()
    metadata.data_class = summary_pb2.DATA_CLASS_TENSOR
    tensor = make_tensor_proto(layout.SerializeToString())
    value = summary_pb2.Summary.Value(tag=custom_scalar.CONFIG_SUMMARY_TAG, metadata=metadata, tensor=tensor)
    return summary_pb2.Summary(value=[value])


def _chart(name: str) -> layout_pb2.Chart:
    series = layout_pb2.MarginChartContent.Series(
        value=_tag(_BAND, name, "log10_d"),
        lower=_tag(_BAND, name, "lower"),
        upper=_tag(_BAND, name, "upper"),
    )
    return layout_pb2.Chart(title=encodable(name), margin=layout_pb2.MarginChartContent(series=[series]))


def alert_list(alerts: Iterable[Alert]) -> str:
    """Alerts as a Markdown list, an item for each fault, that shows names and messages as plain text.

    TensorBoard breaks the columns of a table into single letters where a message is long.
    """
    return "\n".join(_item([alert.tensor for alert in group], group[0]) for group in alike(alerts))


def _item(names: Sequence[str], alert: Alert) -> str:
    where = f" {cell(listed(names))}" if any(names) else ""
    message = alert.message.removeprefix(f"step {alert.step} {alert.tensor}: ")
    return f"- **{logging.getLevelName(alert.level)}**{where}: {cell(message)}"


def cell(text: str) -> str:
    """Text on one line that Markdown shows unchanged: markup characters become character references."""
    shown = (char if char.isprintable() else "\ufffd" for char in " ".join(text.split()))
    return "".join(f"&#{ord(char)};" if char in "&<>\\`*_[]!|" else char for char in shown)


def _tag(metric: str, *names: str) -> str:
    return encodable("/".join([f"gradguard.{metric}", *names]))


def is_scalar(value: float) -> bool:
    """Whether TensorBoard can draw the value: it stores scalars as float32, and larger values become infinite."""
    return math.isfinite(value) and abs(value) <= _MAX_FLOAT32
