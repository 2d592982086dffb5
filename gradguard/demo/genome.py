"""The data of the demo: the genome of the virus phi X 174, the first DNA genome ever sequenced (NC_001422.1)."""

from collections.abc import Iterator
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.testing.lstm import Batch

BASES = "ACGT"
START = "^"
"""The input symbol at the first position of a window, which has no previous base."""
ALPHABET = BASES + START

Codes = NDArray[np.integer[Any]]


def read_genome() -> Codes:
    """The 5386 bases in order, as indices into `ALPHABET`; the genome is circular."""
    lines = resources.files("gradguard.demo").joinpath("phix174.fa").read_text("ascii").splitlines()
    bases = "".join(line for line in lines if not line.startswith(">"))
    return np.array([BASES.index(base) for base in bases])


def batches(genome: Codes, timesteps: int = 39, batch: int = 16, seed: int = 0) -> Iterator[Batch]:
    """An endless series of batches of windows at random positions of the circular genome.

    Args:
        genome: Indices into `ALPHABET`.
        timesteps: T, the bases in a window.
        batch: B, the windows in a batch.
        seed: The seed of the positions.
    """
    rng = np.random.default_rng(seed)
    while True:
        yield windows(genome, rng.integers(len(genome), size=batch), timesteps)


def whole(genome: Codes, timesteps: int = 39) -> Batch:
    """The whole genome as one batch of consecutive windows; the last may wrap round and overlap the first."""
    return windows(genome, np.arange(0, len(genome), timesteps), timesteps)


def windows(genome: Codes, positions: Codes, timesteps: int) -> Batch:
    """The windows that begin at `positions`: the target is each base, the input the one before or the start symbol."""
    bases = genome[(positions + np.arange(timesteps)[:, None]) % len(genome)]
    start = np.full((1, len(positions)), ALPHABET.index(START))
    symbols = np.concatenate([start, bases[:-1]])
    return Batch(np.eye(len(ALPHABET), dtype=np.float32)[symbols], bases)
