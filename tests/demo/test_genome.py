import itertools

import numpy as np

from gradguard.demo.genome import ALPHABET, batches, read_genome, whole, windows


def letters(codes: np.typing.NDArray[np.integer]) -> str:
    """Codes as text."""
    return "".join(ALPHABET[code] for code in codes)


def test_the_genome_is_that_of_phi_x_174() -> None:
    """All 5386 bases are there, from the first to the last, in their known proportions."""
    genome = letters(read_genome())
    assert len(genome) == 5386
    assert genome.startswith("GAGTTTTATCGCTTCC")
    assert {base: genome.count(base) for base in "ACGT"} == {"A": 1291, "C": 1157, "G": 1254, "T": 1684}


def test_a_window_predicts_each_base_from_the_one_before() -> None:
    """The start symbol stands before a window's first base, and each later input is the base before."""
    batch = windows(read_genome(), np.array([0, 7]), 39)
    assert batch.x.shape == (39, 2, 5)
    assert batch.x.dtype == np.float32
    assert (batch.x.sum(axis=-1) == 1).all()
    symbols = batch.x.argmax(axis=-1)
    assert [letters(column) for column in symbols[:1].T] == ["^", "^"]
    assert (symbols[1:] == batch.y[:-1]).all()
    assert letters(batch.y[:16, 0]) == "GAGTTTTATCGCTTCC"
    assert letters(batch.y[:9, 1]) == "ATCGCTTCC"


def test_windows_wrap_round_the_circle() -> None:
    """A window that begins at the last base goes on with the first."""
    genome = read_genome()
    bases = letters(windows(genome, np.array([5385]), 5).y[:, 0])
    assert bases == letters(genome[-1:]) + "GAGT"


def test_batches_are_endless_random_and_repeat_with_their_seed() -> None:
    """Each batch has the size asked for and differs from the last; the same seed draws the same ones."""
    genome = read_genome()
    one, two = itertools.islice(batches(genome, timesteps=10, batch=3, seed=1), 2)
    again, other = next(batches(genome, 10, 3, seed=1)), next(batches(genome, 10, 3, seed=2))
    assert one.x.shape == (10, 3, 5)
    assert one.y.shape == (10, 3)
    assert np.array_equal(one.y, again.y)
    assert not np.array_equal(one.y, two.y)
    assert not np.array_equal(one.y, other.y)


def test_the_whole_genome_is_covered() -> None:
    """Windows end to end hold every base in order."""
    genome = read_genome()
    batch = whole(genome, 39)
    assert batch.y.shape == (39, 139)
    assert np.array_equal(batch.y.T.ravel()[:5386], genome)
