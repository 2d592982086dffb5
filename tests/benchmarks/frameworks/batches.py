"""The batches that the trainings of all frameworks get, and how long a training takes for each."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

TIMESTEPS, SEQUENCES, INPUTS, HIDDEN, CLASSES = 39, 64, 5, 64, 4
CONSTANTS = {"timesteps": TIMESTEPS}


class Batches:
    """Random sequences, always the same; the class of each is which of its first inputs has the largest mean.

    Args:
        count: How many batches there are.
        convert: Makes of x, (timesteps, sequences, inputs), and the classes y what the framework takes.

    Attributes:
        count: As given.
        asked: The processor time at which each batch was asked for.
        began: The wall time at which the first batch was asked for.
    """

    def __init__(self, count: int, convert: Callable[[NDArray[Any], NDArray[Any]], Any]) -> None:
        self.count = count
        self.asked: list[float] = []
        self.began = 0.0
        self._convert = convert

    def __iter__(self) -> Iterator[Any]:
        self.began = time.perf_counter()
        for number in range(self.count):
            self.asked.append(time.process_time())
            yield self.drawn(number)

    def drawn(self, number: int) -> Any:
        """The batch of some number."""
        rng = np.random.default_rng(number)
        x = rng.standard_normal((TIMESTEPS, SEQUENCES, INPUTS), np.float32)
        return self._convert(x, x[:, :, :CLASSES].mean(0).argmax(1))
