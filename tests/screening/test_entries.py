"""A wrong entry of a tensor, found by halving a direction that disagrees."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradguard import Report, check
from gradguard.perturbation import Direction, EntryProbe
from gradguard.screening.entries import with_its_like, wrong_entry


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_the_only_wrong_entry_is_found_by_halves(rows: int, columns: int, seed: int) -> None:
    """Wherever it is in a matrix, about log2(size) differences lead to it."""
    rng = np.random.default_rng(seed)
    vector, error, asked = rng.standard_normal((rows, columns)), np.zeros((rows, columns)), [0]
    place = (int(rng.integers(rows)), int(rng.integers(columns)))
    error[place] = 1.0

    def residual_of(part: Direction, share: float) -> float:
        asked[0] += 1
        assert np.linalg.norm(part.vector) == pytest.approx(1)
        assert np.count_nonzero(part.vector) == round(share * vector.size)
        return float((error * part.vector).sum())

    found = wrong_entry(Direction(lambda: vector), float((error * vector).sum()), residual_of)
    assert found == EntryProbe(place)
    assert asked[0] <= np.ceil(np.log2(vector.size))


@given(st.integers(2, 200), st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_of_several_wrong_entries_one_is_found(size: int, count: int, seed: int) -> None:
    """It is one of them, and no right entry between them."""
    rng = np.random.default_rng(seed)
    vector, error = rng.standard_normal(size), np.zeros(size)
    error[rng.choice(size, min(count, size), replace=False)] = rng.uniform(0.5, 2, min(count, size))
    residual_of = lambda part, _share: float(error @ part.vector)  # noqa: E731
    found = wrong_entry(Direction(lambda: vector), float(error @ vector), residual_of)
    assert found is not None
    assert error[found.index]


@pytest.mark.parametrize("shape", [(1,), (2,), (1, 1), (2, 3), (5, 1, 4)])
def test_its_like_are_other_entries_along_each_axis(shape: tuple[int, ...]) -> None:
    """Each differs from the entry in one axis only, and lies in the tensor."""
    entry = EntryProbe(tuple(0 for _ in shape))
    first, *others = with_its_like(entry, shape)
    assert first == entry
    for other in others:
        assert sum(a != b for a, b in zip(other.index, entry.index, strict=True)) == 1
        assert all(0 <= place < length for place, length in zip(other.index, shape, strict=True))
    assert len({other.index for other in others}) == sum(min(2, length - 1) for length in shape)


def checked(wrong: object, factor: float, precision: str) -> Report:
    """The check of a matrix of 4,096 entries, some of which have a gradient that is wrong by a factor."""
    rng = np.random.default_rng(7)
    params = {"W": (rng.standard_normal((64, 64)) / 8).astype(np.float32)}
    x, target = rng.standard_normal((2, 8, 64)).astype(np.float32)
    out = np.tanh(x @ params["W"])
    grads = {"W": x.T @ (2 * (out - target) * (1 - out**2))}
    grads["W"][wrong] *= np.float32(factor)
    return check(params, grads, lambda: np.square(np.tanh(x @ params["W"]) - target).sum(), precision=precision)


@pytest.mark.parametrize("precision", ["native", "auto"])
@pytest.mark.parametrize(
    ("wrong", "factor", "says"),
    [
        (np.s_[21, :], 0.0, "wrong only in index 21 of axis 0, where backprop is zero"),
        (np.s_[:, 40], 1.2, "wrong only in index 40 of axis 1, where numerical = 0.833"),
        (np.s_[30, 17], 2.0, "worst at [30, 17]"),
    ],
)
def test_few_wrong_entries_among_thousands_are_found_and_named(
    wrong: object, factor: float, says: str, precision: str
) -> None:
    """A row, a column and a single entry of 4,096 are told apart, though a check samples a dozen entries."""
    report = checked(wrong, factor, precision).tensors["W"]
    assert report.verdict.is_bug
    assert says in report.explanation
    assert report.discrepancy > 1e-3
