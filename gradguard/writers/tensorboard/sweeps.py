"""A sweep over step sizes as TensorBoard summaries: explanation and tables as text, and the curves as a picture."""

from collections.abc import Iterable, Sequence

from tensorboard.compat.proto import summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.plugins.image import metadata as image
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb

from gradguard.sweeps import Sweep, rows_of_steps, rows_of_tensors
from gradguard.sweeps.plot import is_drawable, png
from gradguard.writers.tensorboard.curves import cell, is_scalar

MATPLOTLIB_HINT = "To see the curves as a picture: pip install 'gradguard[plot]'"


def summarize_sweep(sweep: Sweep) -> summary_pb2.Summary:
    """The summaries of a sweep for TensorBoard, without the picture if matplotlib is not installed."""
    summary: summary_pb2.Summary = text_pb("gradguard.sweep/table", _text(sweep))
    for name, value, description in _scalars(sweep):
        if is_scalar(value):
            summary.MergeFrom(scalar_pb(f"gradguard.sweep/{name}", value, description=description))
    if is_drawable():
        summary.MergeFrom(_picture("gradguard.sweep/curve", *png(sweep)))
    return summary


def _scalars(sweep: Sweep) -> Iterable[tuple[str, float, str]]:
    at = sweep.best
    yield "best_step", sweep.best_step, "The step size with the lowest floor, in units of the parameters"
    yield "discrepancy", float(sweep.discrepancy[at]), "norm(n - g) / (norm(n) + norm(g)) at the best step size"
    yield "floor", float(sweep.floor[at]), "The discrepancy that rounding and truncation cause at the best step size"


def _text(sweep: Sweep) -> str:
    parts = [cell(sweep.explanation), _markdown(rows_of_tensors(sweep.tensors)), _markdown(rows_of_steps(sweep))]
    return "\n\n".join(parts if is_drawable() else [*parts, MATPLOTLIB_HINT])


def _markdown(rows: Iterable[Sequence[str]]) -> str:
    head, *body = ([cell(text) for text in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])


def _picture(tag: str, width: int, height: int, content: bytes) -> summary_pb2.Summary:
    """An image summary; TensorBoard's own function for it needs TensorFlow."""
    metadata = image.create_summary_metadata(display_name=None, description="")
    metadata.data_class = summary_pb2.DATA_CLASS_BLOB_SEQUENCE
    strings = [str(width).encode(), str(height).encode(), content]
    shape = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=len(strings))])
    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=strings, tensor_shape=shape)
    return summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])
