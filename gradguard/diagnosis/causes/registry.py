"""The named causes in the order in which they are asked; the first that knows the symptoms is reported.

A new cause is a function in the file of its family and its place in the tuple at the end of that file:

- of one tensor, `(Symptoms) -> Diagnosis | None`, in `TENSOR_CAUSES`;
- of all tensors together, which changes what their reports say, `(Model) -> {name: Diagnosis}`, in `MODEL_CAUSES`;
- of all tensors together, which adds a sentence to the summary, `(Model) -> Diagnosis | None`, in `HINTS`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from gradguard.diagnosis.causes import clipping, counted, factors, fields, location, shared
from gradguard.diagnosis.causes.symptoms import Diagnosis, Model, Symptoms

TensorCause: TypeAlias = Callable[[Symptoms], Diagnosis | None]
ModelCause: TypeAlias = Callable[[Model], Mapping[str, Diagnosis]]
Hint: TypeAlias = Callable[[Model], Diagnosis | None]

TENSOR_CAUSES: Sequence[TensorCause] = (
    *factors.TENSOR_CAUSES,
    *fields.TENSOR_CAUSES,
    *counted.TENSOR_CAUSES,
    *clipping.TENSOR_CAUSES,
    *location.TENSOR_CAUSES,
)
MODEL_CAUSES: Sequence[ModelCause] = (*clipping.MODEL_CAUSES, *factors.MODEL_CAUSES)
HINTS: Sequence[Hint] = (*location.HINTS, *shared.HINTS, *counted.HINTS)


def cause_of_tensor(tensor: Symptoms) -> Diagnosis | None:
    """The first cause that the symptoms of one tensor have; None where none has a name."""
    return next(filter(None, (cause(tensor) for cause in TENSOR_CAUSES)), None)


def causes_of_model(model: Model) -> Mapping[str, Diagnosis]:
    """The first cause that shows in all tensors together: by name, what it says of each tensor that it concerns."""
    return next(filter(None, (cause(model) for cause in MODEL_CAUSES)), {})


def hint_of_model(model: Model) -> Diagnosis | None:
    """The first hint that all tensors together give; None where they give none, or where their causes are named."""
    if all(tensor.cause_key.startswith(fields.KEYS) for tensor in model.wrong):
        return None
    return next(filter(None, (hint(model) for hint in HINTS)), None)
