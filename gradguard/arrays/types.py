"""The array types that every other module names."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Float64 = NDArray[np.float64]
Region = tuple[slice, ...]  # one slice for each axis of an array
