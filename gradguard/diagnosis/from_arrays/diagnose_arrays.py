"""The verdict on gradients measured elsewhere, such as a printed table or the check of another program."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradguard.arrays import Float64, quantum_of_column, require_constants
from gradguard.diagnosis.across_tensors import summary, unmeasured, worst_verdict
from gradguard.diagnosis.causes.symptoms import Surroundings
from gradguard.diagnosis.classify import diagnose_tensor
from gradguard.diagnosis.evidence import Evidence
from gradguard.diagnosis.from_arrays.numbers import Numbers, read_numbers
from gradguard.diagnosis.known_factors import History
from gradguard.environment import own_numerics, with_short_traceback
from gradguard.report import Report, TensorReport, Thresholds, Verdict, percent
from gradguard.statistics import ALARM_Z, DEFAULT_RULES, NEGLIGIBLE_N, DerivativePairs, norm

# Of n, and of the largest n, where no error bar is given: one step for all entries suits few of them. The two best rows
# of a printed table, differenced at a step of 5e-3 and wrong by one factor, differ in n/g by 1.5 %.
ASSUMED_TRUNCATION = 5e-3
MAX_COMMON_TRUNCATION = 2e-2  # the factor that truncation may seem to be on all entries together
MAX_SCATTER_OF_FACTOR = 0.2  # of n - g: what a true factor leaves, where the numbers have enough digits to show it
QUANTUM_OF_ZEROS = 2.0**-23 / 1e-4  # of n = 0 throughout: that of a float32 loss near 1, at a step of 5e-5
MAX_VALUE = 1e150  # of n, g and error bars: far beyond any gradient, and its square is still finite

Pair = tuple[Any, Any]  # of whatever `read_numbers` reads
Error = Any  # as above, or a mapping from tensors to it


@with_short_traceback
@own_numerics
def diagnose(
    pairs: Mapping[str, Pair],
    *,
    error: Error | None = None,
    constants: Mapping[str, float] | None = None,
    quantum: float | None = None,
) -> Report:
    """Verdict and cause from arrays alone.

    Numbers may stand in arrays of any shape, in tensors, in nested lists, or in strings. Differences below the last
    decimal of printed numbers are never reported as a bug. Without error bars, the quantum is estimated from the values
    of n if it shows in them, and a truncation error of 0.5 % of n and of the largest n is assumed; a smaller error of
    the gradient is then not detected.

    Args:
        pairs: For each tensor its backprop and its numerical gradient, `{"lstm": (g, n)}`, of one shape; a column may
            stand beside a row.
        error: The error bar of n, in its units: one number, an array, or a mapping from tensors to either.
        constants: Numbers of the training by name, such as `{"timesteps": 39}`.
        quantum: The least difference between two values of n: ulp(loss) / 2h for a two-point difference.

    Raises:
        TypeError: A value is not a real number, or `pairs` is not a mapping of pairs.
        ValueError: Shapes differ, an array is empty, text is no number, or a number is out of its range.
    """
    started = time.perf_counter()
    known = require_constants(constants)
    if not isinstance(pairs, Mapping):
        raise TypeError(
            f"pairs is a {type(pairs).__name__}; expected a mapping such as {{'lstm': (backprop, numerical)}}"
        )
    if quantum is not None and not 0 <= quantum < np.inf:
        raise ValueError(f"quantum is {quantum!r}; expected a number of at least 0, or None")
    tensors: dict[str, TensorReport] = {}
    numbers = {name: _read(name, pair) for name, pair in pairs.items()}
    largest = max((_largest(g) for g, _ in numbers.values()), default=0.0)
    for name, (g, n) in numbers.items():
        bars = _error_of(name, error, n)
        tensors[name] = _diagnosed(name, g, n, bars, known, quantum, largest)
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
    name: str,
    g: Numbers,
    n: Numbers,
    error: Float64 | None,
    constants: Mapping[str, float],
    quantum: float | None,
    largest: float,
) -> TensorReport:
    for what, numbers, verdict in (("backprop", g, Verdict.nonfinite), ("numerical", n, Verdict.inconclusive)):
        overflown = ~(np.abs(numbers.values) <= MAX_VALUE)
        if overflown.any():
            says = f"{overflown.sum()} of {overflown.size} values of {what} are nan, inf or beyond {MAX_VALUE:g}"
            cause = "an overflow, or memory never written"
            return unmeasured({name: overflown.shape}, verdict, says, cause, cause_key="overflow")[name]
    evidence, alone = _evidence(name, g, n, error, quantum, largest), Surroundings(gradients={name: g.values})
    return _with_format(diagnose_tensor(evidence, History(constants), Thresholds(), alone), g)


def _with_format(tensor: TensorReport, g: Numbers) -> TensorReport:
    """The report, which says so if the gradient was rounded to 16 bits and that may matter."""
    if not g.narrow_format or tensor.verdict is Verdict.ok:
        return tensor
    narrow = f"every backprop value is a {g.narrow_format} number, with a resolution of {percent(2 * g.roundoff)}"
    return dataclasses.replace(tensor, explanation=f"{tensor.explanation}; {narrow}")


def _evidence(
    name: str, g: Numbers, n: Numbers, error: Float64 | None, quantum: float | None, largest: float
) -> Evidence:
    numerical, backprop = n.values.ravel(), g.values.ravel()
    is_unknown = quantum is None and error is None
    smallest = quantum_of_column(numerical, n.unit.ravel()) if is_unknown else quantum or 0.0
    finest = np.maximum(smallest, np.maximum(n.unit, g.unit).ravel())  # cut-off digits all err to one side
    may_be_factor = bool((np.abs(numerical - backprop) > finest).any())
    if error is None and may_be_factor:
        may_be_factor = not _is_like_truncation(numerical, backprop)
    relative = DEFAULT_RULES.backprop_rounding * g.roundoff
    # A derivative of zero is a sum that cancels: what its rounding leaves is in proportion to its terms.
    is_rounding = _largest(g) <= relative * largest and norm(numerical) <= NEGLIGIBLE_N * norm(backprop)
    if is_unknown and not is_rounding and not numerical.any():
        smallest = QUANTUM_OF_ZEROS
    bars = np.hypot(smallest, _assumed_truncation(numerical) if error is None else error.ravel())
    return Evidence(
        name=name,
        shape=n.values.shape,
        norm=norm(backprop),
        entries=_pairs(g, n, bars, relative * (largest if is_rounding else _largest(g))),
        index=tuple(np.ndindex(n.values.shape)),
        directions=DerivativePairs.none(),
        unresolved=0,
        kinks=0,
        coverage=1.0,
        step_size=float("nan"),
        noise=float("nan"),
        nonsmooth=False,
        confirmed_at_short_steps=True,
        blocks={},
        passing=largest,
        rules=dataclasses.replace(DEFAULT_RULES, factor_test=may_be_factor),
    )


def _pairs(g: Numbers, n: Numbers, error: Float64, own: float) -> DerivativePairs:
    """The derivatives with their error bars, to which printing adds: at ALARM_Z bars it is off by a whole unit.

    Args:
        g: Backprop.
        n: Numerical.
        error: The error bars of n before it was printed, (m,).
        own: The rounding error of backprop before it was printed.
    """
    numerical, backprop = n.values.ravel(), g.values.ravel()
    bars = np.hypot(error, n.unit.ravel() / ALARM_Z)
    rounding = np.hypot(own, g.unit.ravel() / ALARM_Z)
    deviation = np.hypot(bars, rounding)
    z = np.divide(numerical - backprop, deviation, out=np.zeros(backprop.size), where=deviation > 0)
    return DerivativePairs(numerical, backprop, bars, rounding, z, np.full(backprop.size, own))


def _largest(numbers: Numbers) -> float:
    """The largest size of the numbers that are no overflow."""
    sizes = np.abs(numbers.values)
    return float(sizes[sizes <= MAX_VALUE].max(initial=0.0))


def _is_like_truncation(n: Float64, g: Float64) -> bool:
    """Whether n - g is a small factor that does not hold for every entry, as truncation is when it shrinks all of them.

    It does not average out, so that a thousand entries would make it certain.
    """
    factor = float(n @ g) / (float(g @ g) or 1.0)
    is_small = abs(factor - 1) < MAX_COMMON_TRUNCATION
    return is_small and norm(n - factor * g) > MAX_SCATTER_OF_FACTOR * norm(n - g)


def _assumed_truncation(n: Float64) -> Float64:
    """The truncation of n, (m,), at one step for all entries."""
    truncation: Float64 = ASSUMED_TRUNCATION * np.hypot(np.abs(n), np.abs(n).max())
    return truncation


def _read(name: str, pair: object) -> tuple[Numbers, Numbers]:
    """Numbers of g and of n in one shape, that of g."""
    if not isinstance(pair, Sequence | np.ndarray) or isinstance(pair, str) or len(pair) != 2:
        raise TypeError(f"pairs[{name!r}] is not a pair; expected (backprop, numerical)")
    g, n = read_numbers(f"backprop of {name!r}", pair[0]), read_numbers(f"numerical of {name!r}", pair[1])
    if _without_axes_of_one(g) != _without_axes_of_one(n):
        shapes = f"backprop of {name!r} has shape {g.values.shape} and numerical {n.values.shape}; expected the same"
        hint = f": {_way_out(g.values.shape, n.values.shape)}" if g.values.size == n.values.size else ""
        raise ValueError(f"{shapes}{hint}")
    if not g.values.size:
        raise ValueError(f"backprop and numerical of {name!r} are empty; expected at least one value")
    return g, n.reshaped(g.values.shape)


def _without_axes_of_one(numbers: Numbers) -> tuple[int, ...]:
    return tuple(length for length in numbers.values.shape if length != 1)


def _way_out(g: tuple[int, ...], n: tuple[int, ...]) -> str:
    """How arrays with as many entries and other shapes may belong together, which only the user knows."""
    return (
        "transpose one of them" if g == n[::-1] else f"if their entries are in one order, pass numerical.reshape({g})"
    )


def _error_of(name: str, error: Error | None, n: Numbers) -> Float64 | None:
    bar = error.get(name) if isinstance(error, Mapping) else error
    if bar is None:
        return None
    read, shape = read_numbers(f"error of {name!r}", bar), n.values.shape
    bars = read.values
    if bars.size > 1 and _without_axes_of_one(read) == _without_axes_of_one(n):
        bars = bars.reshape(shape)
    if bars.size != 1 and bars.shape != shape:
        raise ValueError(f"error of {name!r} has shape {bars.shape}; expected one number or the shape {shape}")
    if not ((bars >= 0) & (bars <= MAX_VALUE)).all():
        raise ValueError(f"error of {name!r} holds {bars.min():g} to {bars.max():g}; expected 0 to {MAX_VALUE:g}")
    return np.broadcast_to(bars if bars.shape == shape else bars.ravel()[0], shape).astype(np.float64)
