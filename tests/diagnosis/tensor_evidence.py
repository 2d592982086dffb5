"""Evidence of one tensor from numbers that a test chooses."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gradguard.diagnosis.evidence import Evidence
from gradguard.statistics.pairs import DerivativePairs


def pairs_of(
    n: ArrayLike, g: ArrayLike = 1.0, error: ArrayLike = 0.1, rounding: ArrayLike = 0.0, z: ArrayLike | None = None
) -> DerivativePairs:
    """Pairs of a common size, whose z is (n - g) / deviation unless given."""
    deviation = np.hypot(error, rounding)
    z = (np.asarray(n) - np.asarray(g)) / deviation if z is None else z
    columns = np.broadcast_arrays(n, g, error, rounding, z, rounding)
    return DerivativePairs(*(np.array(column, dtype=float) for column in columns))


def evidence_of(entries: DerivativePairs, directions: DerivativePairs | None = None, **changes: Any) -> Evidence:
    """Evidence of a vector whose loss is smooth, unless said otherwise."""
    facts: dict[str, Any] = {
        "name": "w",
        "shape": (entries.size,),
        "norm": 1.0,
        "unresolved": 0,
        "kinks": 0,
        "coverage": 1.0,
        "step_size": 1e-3,
        "noise": 1e-8,
        "nonsmooth": False,
        "confirmed_at_short_steps": True,
        "blocks": {},
    }
    facts |= changes
    index = tuple(np.ndindex(facts["shape"]))
    return Evidence(entries=entries, directions=directions or DerivativePairs.none(), index=index, **facts)
