"""A report as TensorBoard summaries: curves, bands, histograms and the text of alerts.

Tags are `gradguard.<metric>/<tensor>`: TensorBoard groups charts by the text before the first slash, so each metric is
one section with a curve for each tensor. A number that was measured at an earlier step is no point of this one.
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

from gradguard.report import Alert, Report, TensorReport, alike, encodable

_Curve: TypeAlias = tuple[str, float, str]

_MAX_FLOAT32 = float(np.finfo(np.float32).max)

_VERDICT = "Level: 0 agrees, 1 float precision or the user explains it, 2 cannot tell, 3 a bug"

# By the metric of a check, or by that of tensors.
_DESCRIPTIONS = {
    "check/evaluations": "How often the loss was evaluated",
    "check/seconds": "How long the check took",
    "check/overhead": "Share of the time after the first check that went into checks",
    "check/verdict": _VERDICT,
    "check/loss": "The loss at the parameters as they are",
    "check/screened": "Tensors that a screen of the model covered",
    "check/measured": "Tensors of which numbers of their own were measured",
    "verdict": _VERDICT,
    "ratio": "n / g: of the tensor's own probes, or by regression over those of screens",
    "ratio_drift": "log(ratio / the first confirmed ratio)",
    "evidence": "log10 of the evidence that the gradient is wrong; alarms at about 7",
    "smallest_visible": "The smallest relative error that would have shown",
    "discrepancy": "norm(n - g) / (norm(n) + norm(g)), g backprop, n numerical",
    "floor": "The discrepancy that float precision alone could cause",
    "sign_agreement": "Share of resolvable entries whose signs agree",
    "step_size": "Step of the differences, in units of the parameters",
    "noise": "Standard deviation of the loss's rounding noise, in units of the loss",
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
        summary.MergeFrom(text_pb("gradguard.alerts/alerts", alert_table(report.alerts)))
    if charted:
        summary.MergeFrom(_layout(charted))
    return summary


def _scalar(value: float) -> tensor_pb2.TensorProto:
    shape = tensor_shape_pb2.TensorShapeProto()
    return tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[value], tensor_shape=shape)


def _curves(report: Report) -> Iterator[_Curve]:
    for key, value in report.scalars().items():
        curve = key.removeprefix("gradguard/")
        if is_scalar(value):
            yield f"gradguard.{curve}", value, _DESCRIPTIONS.get(curve) or _DESCRIPTIONS[curve.partition("/")[0]]
    for name, tensor in _measured(report):
        yield from _band(name, tensor)


def _measured(report: Report) -> Iterator[tuple[str, TensorReport]]:
    """The tensors whose own numbers are of this check, by name."""
    return ((name, tensor) for name, tensor in report.tensors.items() if tensor.measured_at == report.step)


def _band(name: str, tensor: TensorReport) -> Iterator[_Curve]:
    """The band of discrepancies that float precision explains, at each step that has a discrepancy.

    TensorBoard refuses a margin chart unless its three curves have the same steps, so the band has curves of its own.
    Where the floor is not finite, the band reaches up to 1, the largest possible discrepancy. Its lower edge is a
    thousandth of the floor, because a logarithmic axis cannot show zero.
    """
    if not is_scalar(tensor.discrepancy):
        return
    top = min(float(tensor.floor), 1.0) if math.isfinite(tensor.floor) else 1.0
    yield _tag("band", name, "lower"), top / 1000, "The lower edge of the band, a thousandth of its upper edge"
    yield _tag("band", name, "upper"), top, "The discrepancy up to which float precision explains everything"


def _histogram(name: str, tensor: TensorReport) -> summary_pb2.Summary:
    ratios = [ratio for ratio in tensor.ratios if is_scalar(ratio)]
    return histogram_pb(_tag("ratios", name), ratios) if ratios else summary_pb2.Summary()


def _layout(names: Iterable[str]) -> summary_pb2.Summary:
    """One margin chart for each tensor, in the Custom Scalars tab."""
    category = layout_pb2.Category(
        title="gradguard: discrepancy over the band that float precision explains",
        chart=[_chart(name) for name in names],
    )
    layout = layout_pb2.Layout(category=[category])
    metadata = custom_scalar.create_summary_metadata()
    metadata.data_class = summary_pb2.DATA_CLASS_TENSOR
    tensor = make_tensor_proto(layout.SerializeToString())
    value = summary_pb2.Summary.Value(tag=custom_scalar.CONFIG_SUMMARY_TAG, metadata=metadata, tensor=tensor)
    return summary_pb2.Summary(value=[value])


def _chart(name: str) -> layout_pb2.Chart:
    series = layout_pb2.MarginChartContent.Series(
        value=_tag("discrepancy", name),
        lower=_tag("band", name, "lower"),
        upper=_tag("band", name, "upper"),
    )
    return layout_pb2.Chart(title=encodable(name), margin=layout_pb2.MarginChartContent(series=[series]))


def alert_table(alerts: Iterable[Alert]) -> str:
    """Alerts as a Markdown table, a row for each fault, that shows names and messages as plain text."""
    groups = ((group[0], ", ".join(alert.tensor for alert in group)) for group in alike(alerts))
    rows = [
        ("level", "tensor", "verdict", "message"),
        ("---", "---", "---", "---"),
        *(tuple(map(cell, (_level(alert), names, alert.verdict, alert.message))) for alert, names in groups),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _level(alert: Alert) -> str:
    return logging.getLevelName(alert.level)


def cell(text: str) -> str:
    """Text on one line that Markdown shows unchanged: markup characters become character references."""
    shown = (char if char.isprintable() else "\ufffd" for char in " ".join(text.split()))
    return "".join(f"&#{ord(char)};" if char in "&<>\\`*_[]!|" else char for char in shown)


def _tag(metric: str, *names: str) -> str:
    return encodable("/".join([f"gradguard.{metric}", *names]))


def is_scalar(value: float) -> bool:
    """Whether TensorBoard can draw the value: it stores scalars as float32, and larger values become infinite."""
    return math.isfinite(value) and abs(value) <= _MAX_FLOAT32
