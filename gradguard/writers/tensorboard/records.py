"""Records for the GradGuard tab: each check is one tensor summary of the plugin that holds the record as JSON."""

from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto import summary_pb2
from tensorboard.util.tensor_util import make_tensor_proto

from gradguard.sweeps import Sweep
from gradguard.writers.record import ALERT_TAG, CHECK_TAG, PLUGIN, SWEEP_CURVES, SWEEP_TAG, Record, packed


def summarize_record(record: Record) -> summary_pb2.Summary:
    """The record of a check, under a second tag if it has alerts, so that TensorBoard's sampling cannot drop it."""
    summary = _summary(CHECK_TAG, record)
    if record["alerts"]:
        summary.MergeFrom(_summary(ALERT_TAG, record))
    return summary


def summarize_sweep_record(sweep: Sweep) -> summary_pb2.Summary:
    """The record of a sweep: the curves of all entries together and of each tensor."""
    plain = sweep.to_dict()
    names = ("steps", *SWEEP_CURVES, "best", "explanation", "precision")
    tensors = {name: {key: curve[key] for key in (*SWEEP_CURVES, "best")} for name, curve in plain["tensors"].items()}
    return _summary(SWEEP_TAG, {name: plain[name] for name in names} | {"tensors": tensors})


def _summary(tag: str, record: Mapping[str, Any]) -> summary_pb2.Summary:
    metadata = summary_pb2.SummaryMetadata(
        plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name=PLUGIN),
        data_class=summary_pb2.DATA_CLASS_TENSOR,
    )
    value = summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=make_tensor_proto(packed(record)))
    return summary_pb2.Summary(value=[value])
