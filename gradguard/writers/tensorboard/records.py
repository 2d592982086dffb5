"""What the GradGuard tab reads: one tensor a check that holds the record as JSON, owned by the plugin."""

from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto import summary_pb2
from tensorboard.util.tensor_util import make_tensor_proto

from gradguard.sweeps.sweep import Sweep
from gradguard.writers.record import ALERTED, CHECK, CURVES, PLUGIN, SWEEP, Record, packed


def summarize_record(record: Record) -> summary_pb2.Summary:
    """The record of a check; twice where it has alerts, so that TensorBoard's sampling cannot lose it."""
    summary = _summary(CHECK, record)
    if record["alerts"]:
        summary.MergeFrom(_summary(ALERTED, record))
    return summary


def summarize_sweep_record(sweep: Sweep) -> summary_pb2.Summary:
    """A sweep's curves, whole and by tensor."""
    told = sweep.to_dict()
    names = ("steps", *CURVES, "best", "explanation", "precision")
    tensors = {name: {key: curve[key] for key in (*CURVES, "best")} for name, curve in told["tensors"].items()}
    return _summary(SWEEP, {name: told[name] for name in names} | {"tensors": tensors})


def _summary(tag: str, record: Mapping[str, Any]) -> summary_pb2.Summary:
    metadata = summary_pb2.SummaryMetadata(
        plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name=PLUGIN),
        data_class=summary_pb2.DATA_CLASS_TENSOR,
    )
    value = summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=make_tensor_proto(packed(record)))
    return summary_pb2.Summary(value=[value])
