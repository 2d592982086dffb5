"""A flat view of nested arrays."""

from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest

from gradguard.containers import Container

Layer = namedtuple("Layer", "W b")  # noqa: PYI024 - as users write it
ONE, TWO, THREE, FOUR = (np.full(2, float(i)) for i in range(1, 5))

CONTAINERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "a list": ([ONE, TWO], {"0": ONE, "1": TWO}),
    "a tuple": ((ONE, TWO), {"0": ONE, "1": TWO}),
    "tuples in a list": ([(ONE, TWO), (THREE, FOUR)], {"0.0": ONE, "0.1": TWO, "1.0": THREE, "1.1": FOUR}),
    "mappings": ({"enc": {"W": ONE, "b": TWO}, "W": THREE}, {"enc.W": ONE, "enc.b": TWO, "W": THREE}),
    "a mapping of lists": ({"W": [ONE, TWO]}, {"W.0": ONE, "W.1": TWO}),
    "whole numbers as names": ({0: ONE, 1: {2: TWO}}, {"0": ONE, "1.2": TWO}),
    "named tuples": ([Layer(ONE, TWO)], {"0.0": ONE, "0.1": TWO}),
    "layers without parameters": ([(ONE,), (), {}, [TWO]], {"0.0": ONE, "3.0": TWO}),
    "an ordered mapping": (OrderedDict(b=OrderedDict(W=ONE), a=[TWO]), {"b.W": ONE, "a.0": TWO}),
    "one array": (ONE, {"params": ONE}),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_the_names_show_the_place(kind: str) -> None:
    """In the order of the container, and the arrays are the user's own."""
    root, expected = CONTAINERS[kind]
    view = Container(root)
    assert list(view) == list(expected)
    assert all(view[name] is array for name, array in expected.items())
    assert len(view) == len(expected)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_container_of_the_same_form_is_filled(kind: str) -> None:
    """With the types that a loss takes apart again, and without a change of the user's own."""
    root, expected = CONTAINERS[kind]
    others = {name: array + 10 for name, array in expected.items()}
    filled = Container(root).filled(others)
    assert type(filled) is type(root)
    again = Container(filled)
    assert list(again) == list(expected)
    assert all(again[name] is others[name] for name in expected)
    assert all(Container(root)[name] is array for name, array in expected.items())


def test_empty_parts_and_named_tuples_keep_their_form() -> None:
    """A loss may count layers, or read fields by name."""
    assert Container([(ONE,), (), {}]).filled({"0.0": TWO})[1:] == [(), {}]
    (layer,) = Container([Layer(ONE, TWO)]).filled({"0.0": THREE, "0.1": FOUR})
    assert isinstance(layer, Layer)
    assert layer.b is FOUR


def test_what_is_bound_anew_is_seen_and_can_be_bound() -> None:
    """In the very list or mapping that the program holds."""
    inner = [ONE, TWO]
    params = {"W": inner}
    view = Container(params)
    inner[1] = THREE
    assert view["W.1"] is THREE
    view["W.0"] = FOUR
    assert inner[0] is FOUR
    assert view.is_mutable
    with pytest.raises(TypeError, match=r"'W\.0' cannot be taken out"):
        del view["W.0"]


@pytest.mark.parametrize("root", [(ONE,), [(ONE, TWO)], ONE], ids=str)
def test_a_tuple_and_one_array_cannot_be_bound_anew(root: Any) -> None:
    """What holds them says so itself."""
    view = Container(root)
    assert not view.is_mutable
    with pytest.raises(TypeError):
        view[next(iter(view))] = TWO
