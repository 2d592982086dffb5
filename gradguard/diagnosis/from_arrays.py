"""Diagnosis of gradients measured elsewhere, such as a printed table or the check of another program."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from gradguard.arrays import Float64, quantum_of_column, require_constants, unit_roundoff
from gradguard.diagnosis.across_tensors import summary, unmeasured, worst_verdict
from gradguard.diagnosis.classify import diagnose_tensor
from gradguard.diagnosis.evidence import Evidence
from gradguard.diagnosis.known_factors import History
from gradguard.report import Report, TensorReport, Thresholds, Verdict
from gradguard.statistics import DEFAULT_RULES, DerivativePairs, norm

# Of n, and of the largest n, where no error bar is given: one step for all entries suits few of them. The two best rows
# of a printed table, differenced at a step of 5e-3 and wrong by one factor, differ in n/g by 1.5 %.
ASSUMED_TRUNCATION = 5e-3
FLOAT32_ROUNDOFF = unit_roundoff(np.dtype(np.float32))  # gradients are seldom computed in less
MAX_VALUE = 1e150  # of n, g and error bars: far beyond any gradient, and its square is still finite

Error = ArrayLike | Mapping[str, ArrayLike]


def diagnose(
    pairs: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    error: Error | None = None,
    constants: Mapping[str, float] | None = None,
    quantum: float | None = None,
) -> Report:
    """Verdict and cause from arrays alone.

    Without error bars, the quantum is estimated from the values of n if it shows in them, and a truncation error of
    0.5 % of n and of the largest n is assumed; a smaller error of the gradient is then not detected.

    Args:
        pairs: For each tensor its backprop and its numerical gradient, `{"lstm": (g, n)}`, two arrays of one shape.
        error: The error bar of n, in its units: one number, an array, or a mapping from tensors to either.
        constants: Numbers of the training by name, such as `{"timesteps": 39}`.
        quantum: The least difference between two values of n: ulp(loss) / 2h for a two-point difference.

    Raises:
        TypeError: A value is not an array of real numbers, or `pairs` is not a mapping of pairs.
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
    for what, values, verdict in (("g", g, Verdict.nonfinite), ("n", n, Verdict.inconclusive)):
        overflown = ~(np.abs(values) <= MAX_VALUE)
        if overflown.any():
            says = f"{overflown.sum()} of {values.size} values of {what} are nan, inf or beyond {MAX_VALUE:g}"
            cause = "an overflow, or memory never written"
            return unmeasured({name: n.shape}, verdict, says, cause, cause_key="overflow")
    return {name: diagnose_tensor(_evidence(name, g, n, error, quantum), History(constants), Thresholds())}


def _evidence(name: str, g: Float64, n: Float64, error: Float64 | None, quantum: float | None) -> Evidence:
    numerical, backprop = n.ravel(), g.ravel()
    bars = _assumed(numerical, quantum) if error is None else np.hypot(error.ravel(), quantum or 0.0)
    relative = DEFAULT_RULES.backprop_rounding * FLOAT32_ROUNDOFF
    rounding = np.full(n.size, relative * float(np.abs(g).max()))
    deviation = np.hypot(bars, rounding)
    z = np.divide(numerical - backprop, deviation, out=np.zeros(n.size), where=deviation > 0)
    measured = DerivativePairs(numerical, backprop, bars, rounding, z, rounding)
    return Evidence(
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


def _assumed(n: Float64, quantum: float | None) -> Float64:
    """The error bars of n, (m,), if the user gives none: a quantum, and the truncation of one step for all entries."""
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
    bar = error.get(name) if isinstance(error, Mapping) else error
    if bar is None:
        return None
    bars = _numbers(f"error of {name!r}", bar)
    if bars.shape not in ((), n.shape):
        raise ValueError(f"error of {name!r} has shape {bars.shape}; expected one number or the shape {n.shape}")
    if not ((bars >= 0) & (bars <= MAX_VALUE)).all():
        raise ValueError(f"error of {name!r} holds {bars.min():g} to {bars.max():g}; expected 0 to {MAX_VALUE:g}")
    return np.broadcast_to(bars, n.shape).astype(np.float64)
