"""What cannot be moved is refused by name."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradguard.arrays.validation import require_movable

AnyArray = NDArray[Any]


def read_only() -> dict[str, AnyArray]:
    """An array that must not be written."""
    weights = np.ones(3)
    weights.flags.writeable = False
    return {"w": weights}


def tied(second: slice) -> dict[str, AnyArray]:
    """Two names for parts of one array."""
    both = np.ones(6)
    return {"encoder": both[:4], "decoder": both[second]}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (read_only(), ["'w'", "read-only", "loss(params)"]),
        ({"w": np.lib.stride_tricks.as_strided(np.ones(3), (3, 3), (0, 8))}, ["'w'", "(3, 3)", "(0, 8)"]),
        (tied(slice(3, 6)), ["'encoder'", "'decoder'", "share memory"]),
        (tied(slice(None, None, 2)), ["'encoder'", "'decoder'", "share memory"]),
        ({"w": np.lib.stride_tricks.sliding_window_view(np.ones(5), 3, writeable=True)}, ["'w'", "(3, 3)"]),
    ],
    ids=["read-only", "broadcast", "shared", "shared, interleaved", "windows"],
)
def test_arrays_that_cannot_be_moved_one_by_one_are_refused(arrays: dict[str, AnyArray], words: list[str]) -> None:
    """Moving one entry must move that entry and nothing else; the message names the tensors that break this."""
    with pytest.raises(ValueError, match="parameter") as raised:
        require_movable(arrays)
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    "arrays",
    [
        {"even": slice(0, None, 2), "odd": slice(1, None, 2)},
        {"left": (slice(None), slice(0, 3)), "right": (slice(None), slice(3, 6))},
        {"row": (0,), "corner": (1, 0, ...), "rest": (slice(2, None),)},
        {"none": slice(0, 0), "all": slice(None)},
    ],
    ids=str,
)
def test_parts_of_one_buffer_that_do_not_overlap_are_fine(arrays: dict[str, Any]) -> None:
    """Views of one flat buffer of parameters are common; only shared entries are refused."""
    buffer = np.zeros((4, 6))
    require_movable({name: buffer[index] for name, index in arrays.items()})


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_an_array_without_entries_is_fine(shape: tuple[int, ...]) -> None:
    """There is nothing in it that could overlap."""
    require_movable({"none": np.empty(shape), "w": np.ones(3)})
