from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradguard import gates
from gradguard.arrays.named_blocks import Blocks, block_masks
from gradguard.testing import LSTM
from gradguard.testing.lstm import gate

SHAPES = {"W": (5, 20), "b": (20,), "s": ()}


@pytest.mark.parametrize("tensor", ["Wx", "Wh", "b"])
@pytest.mark.parametrize("last", ["positive", "negative"])
def test_gates_are_the_columns_that_the_lstm_computes_them_from(tensor: str, last: str) -> None:
    """In order along the axis, counted from the front or the back: the views that the network itself uses."""
    weights = LSTM(inputs=3, hidden=2).params[tensor]
    axis = weights.ndim - 1 if last == "positive" else -1
    masks = block_masks({tensor: gates("ifog", axis=axis)}, {tensor: weights.shape})[tensor]
    assert list(masks) == [*"ifog"]
    for name, mask in masks.items():
        assert np.array_equal(np.sort(weights[mask]), np.sort(gate(weights, name).ravel()))


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    data=st.data(),
    names=st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=4, unique=True),
)
def test_gates_part_a_tensor_into_equal_pieces(shape: list[int], data: st.DataObject, names: list[str]) -> None:
    """Every entry lies in exactly one of them, and each holds as many as the others."""
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    shape[axis] *= len(names)
    masks = block_masks({"W": gates(names, axis)}, {"W": tuple(shape)})["W"]
    assert list(masks) == names
    assert (np.sum(list(masks.values()), axis=0) == 1).all()
    assert {int(mask.sum()) for mask in masks.values()} == {int(np.prod(shape)) // len(names)}


def test_blocks_may_be_any_index_expression_and_may_overlap() -> None:
    """Slices, lists of rows, boolean masks, single entries: what NumPy takes."""
    diagonal = np.eye(5, 20, dtype=bool)
    named: dict[str, Any] = {
        "input": np.s_[:, :5],
        "rows": [0, 2],
        "diagonal": diagonal,
        "corner": (0, -1),
        "all": ...,
    }
    masks = block_masks({"W": named, "s": {"it": ()}}, SHAPES)
    counts = {name: int(mask.sum()) for name, mask in masks["W"].items()}
    assert counts == {"input": 25, "rows": 40, "diagonal": 5, "corner": 1, "all": 100}
    assert np.array_equal(masks["W"]["diagonal"], diagonal)
    assert masks["s"]["it"].all()
    assert "b" not in masks
    assert block_masks(None, SHAPES) == {}


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ({"U": gates("ifog", axis=1)}, ["'U'", "W, b, s"]),
        ({"W": gates("ifo", axis=1)}, ["'W'", "(5, 20)", "20", "3 gates"]),
        ({"W": gates("ifog", axis=2)}, ["'W'", "axis 2", "(5, 20)"]),
        ({"W": gates("ifog", axis=-3)}, ["'W'", "axis -3", "(5, 20)"]),
        ({"s": gates("ifog", axis=0)}, ["'s'", "axis 0", "()"]),
        ({"W": {"input": np.s_[:, :, :5]}}, ["'input'", "'W'", "(5, 20)"]),
        ({"W": {"input": np.s_[7]}}, ["'input'", "'W'", "(5, 20)"]),
        ({"W": {"input": np.s_[:, 30:]}}, ["'input'", "'W'", "no entry", "(5, 20)"]),
        ({"W": {"input": "i"}}, ["'input'", "'W'", "(5, 20)"]),
        ({"W": {"input": np.ones((4, 20), bool)}}, ["'input'", "'W'", "(5, 20)"]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_blocks_that_do_not_fit_are_named(blocks: Blocks, words: list[str]) -> None:
    """The message says which tensor and block, and what shape they should fit."""
    with pytest.raises(ValueError, match="block") as raised:
        block_masks(blocks, SHAPES)
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize("names", ["ifif", "", []])
def test_gates_without_or_with_equal_names_are_refused(names: Any) -> None:
    """Two gates of one name could not be told apart in a report."""
    with pytest.raises(ValueError, match="at least one, each once"):
        gates(names, axis=1)
