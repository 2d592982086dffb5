"""The verdict alone, on gradients measured elsewhere: a printed table, another program's check."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from gradguard.arrays.floating_point import quantum_of_column
from gradguard.arrays.types import Float64
from gradguard.arrays.validation import require_constants
from gradguard.diagnosis.across_tensors import summary, unmeasured, worst_verdict
from gradguard.diagnosis.classify import diagnose_tensor
from gradguard.diagnosis.evidence import Evidence
from gradguard.diagnosis.known_factors import History
from gradguard.report.results import Report, TensorReport
from gradguard.report.thresholds import Thresholds
from gradguard.report.verdict import Verdict
from gradguard.statistics.discrepancy import norm
from gradguard.statistics.pairs import DerivativePairs

ASSUMED_TRUNCATION = 5e-3  # of n, and of the largest n, where no error bar is given: one step for all leaves so much
UNIT_ROUNDOFF = 2.0**-24  # of float32, in which gradients that are printed were most likely computed
LARGEST = 1e150  # no gradient that a float32 loss can have, and its square is still finite

Error = ArrayLike | Mapping[str, ArrayLike]


def diagnose(
    pairs: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    error: Error | None = None,
    constants: Mapping[str, float] | None = None,
    quantum: float | None = None,
) -> Report:
    """Verdict and cause from arrays alone.

    Without error bars the quantum of the numerical column is read off the column itself where it shows, and one per
    cent of truncation is assumed; a smaller error of the gradient is then not told from the differences' own.

    Args:
        pairs: For each tensor its backprop and its numerical gradient, `{"lstm": (g, n)}`, of one shape.
        error: The error bar of n: one number, an array, or a mapping from tensors to either.
        constants: Numbers of the training by name, such as `{"timesteps": 39}`.
        quantum: The least difference between two values of n: ulp(loss) / 2h for a two-point difference.

    Raises:
        TypeError: Something is no array of numbers.
        ValueError: Shapes differ, an array is empty, or a number is out of its range.
    """
    started = time.perf_counter()
    known = require_constants(constants)
    if not isinstance(pairs, Mapping):
        raise TypeError(f"pairs is a {type(pairs).__name__}; expected a mapping such as {{'lstm': (g, n)}}")
    if quantum is not None and not 0 <= quantum < np.inf:
        raise ValueError(f"quantum is {quantum!r}; expected a number of at least 0, or None")
    tensors: dict[str, TensorReport] = {}
    for name, pair in pairs.items():
        g, n = _read(name, pair)
        bars = _error_of(name, error, n)
        with np.errstate(over="ignore"):  # a deviation of more bars than float64 holds is as good as infinite
            tensors |= _diagnosed(name, g, n, bars, known, quantum)
    return Report(
        step=0,
        verdict=worst_verdict(tensors),
        tensors=tensors,
        precision="given",
        evaluations=0,
        seconds=time.perf_counter() - started,
        explanation=summary(tensors),
        loss=float("nan"),
    )


def _diagnosed(
    name: str, g: Float64, n: Float64, error: Float64 | None, constants: Mapping[str, float], quantum: float | None
) -> dict[str, TensorReport]:
    for what, values in (("g", g), ("n", n)):
        overflown = ~(np.abs(values) <= LARGEST)
        if overflown.any():
            verdict = Verdict.nonfinite if what == "g" else Verdict.inconclusive
            says = f"{overflown.sum()} of {values.size} values of {what} are nan, inf or beyond {LARGEST:g}"
            cause = "an overflow, or memory never written"
            return unmeasured({name: n.shape}, verdict, says, cause, cause_key="overflow")
    numerical, backprop = n.ravel(), g.ravel()
    bars = _assumed(numerical, quantum) if error is None else np.hypot(error.ravel(), quantum or 0.0)
    rounding = np.full(n.size, 8 * UNIT_ROUNDOFF * float(np.abs(g).max()))
    deviation = np.hypot(bars, rounding)
    z = np.divide(numerical - backprop, deviation, out=np.zeros(n.size), where=deviation > 0)
    measured = DerivativePairs(numerical, backprop, bars, rounding, z, rounding)
    evidence = Evidence(
        name=name,
        shape=n.shape,
        norm=norm(g),
        entries=measured,
        index=tuple(np.ndindex(n.shape)),
        directions=DerivativePairs.none(),
        unresolved=0,
        kinks=0,
        coverage=1.0,
        step_size=float("nan"),
        noise=float("nan"),
        nonsmooth=False,
        confirmed_at_short_steps=True,
        blocks={},
    )
    return {name: diagnose_tensor(evidence, History(constants), Thresholds())}


def _assumed(n: Float64, quantum: float | None) -> Float64:
    """The error bars of n where none are given: a quantum of the loss, and truncation for one step that fits all."""
    truncation = ASSUMED_TRUNCATION * np.hypot(np.abs(n), np.abs(n).max())
    bars: Float64 = np.hypot(quantum_of_column(n) if quantum is None else quantum, truncation)
    return bars


def _read(name: str, pair: Sequence[ArrayLike]) -> tuple[Float64, Float64]:
    if not isinstance(pair, Sequence | np.ndarray) or len(pair) != 2:
        raise TypeError(f"pairs[{name!r}] is no pair; expected (g, n), the backprop and the numerical gradient")
    g, n = _numbers(f"g of {name!r}", pair[0]), _numbers(f"n of {name!r}", pair[1])
    if g.shape != n.shape:
        raise ValueError(f"g and n of {name!r} have the shapes {g.shape} and {n.shape}; expected the same")
    if not g.size:
        raise ValueError(f"g and n of {name!r} are empty; expected at least one value")
    return g, n


def _numbers(what: str, values: ArrayLike) -> Float64:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{what} has dtype {array.dtype}; expected real numbers")
    return array.astype(np.float64)


def _error_of(name: str, error: Error | None, n: Float64) -> Float64 | None:
    given = error.get(name) if isinstance(error, Mapping) else error
    if given is None:
        return None
    bars = _numbers(f"error of {name!r}", given)
    if bars.shape not in ((), n.shape):
        raise ValueError(f"error of {name!r} has shape {bars.shape}; expected one number or the shape {n.shape}")
    if not ((bars >= 0) & (bars <= LARGEST)).all():
        raise ValueError(f"error of {name!r} holds {bars.min():g} to {bars.max():g}; expected 0 to {LARGEST:g}")
    return np.broadcast_to(bars, n.shape).astype(np.float64)
