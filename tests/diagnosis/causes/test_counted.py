"""Contributions that are counted once, and hints on which tensors are wrong."""

import numpy as np
import pytest

from gradguard import Report, diagnose

RNG = np.random.default_rng(0)
SHAPES = {"first": (6, 4), "second": (5, 7), "third": (4, 3), "fourth": (5,)}
G = {name: RNG.normal(size=shape) for name, shape in SHAPES.items()}


def with_wrong(*names: str) -> Report:
    """The report on the four tensors, of which some are wrong by no factor."""
    wrong = {name: G[name] * RNG.uniform(0.4, 2.5, G[name].shape) for name in names}
    return diagnose({name: (g, wrong.get(name, g)) for name, g in G.items()}, error=1e-6)


def test_ratios_are_whole_within_their_own_bars() -> None:
    """The smaller an entry, the less is known of its ratio; one whose ratio is clearly not whole speaks against it."""
    times, g = RNG.choice([1.0, 2.0, 3.0, 4.0], 60), np.geomspace(0.05, 3.0, 60)
    n = times * g + 1e-3 * RNG.standard_normal(60)
    assert diagnose({"x": (g, n)}, error=1e-3).tensors["x"].cause_key == "overwritten"
    n[-1] = 2.02 * g[-1]
    assert diagnose({"x": (g, n)}, error=1e-3).tensors["x"].cause_key == "chain_rule"


@pytest.mark.parametrize(("name", "next_one"), [("first", "second"), ("second", None), ("fourth", None)])
def test_the_only_wrong_tensor_is_pointed_at(name: str, next_one: str | None) -> None:
    """What enters after the first tensor of the forward pass may be wrong too, and is bounded by the second one."""
    explanation = with_wrong(name).explanation
    assert f"Only {name} is wrong" in explanation
    assert (f"the error enters between it and {next_one}" in explanation) is (next_one is not None)


def test_two_wrong_tensors_are_not_the_only_one() -> None:
    """Nor is one where just one other agrees."""
    assert "Only " not in with_wrong("first", "third").explanation
    g = {name: G[name] for name in ("first", "fourth")}
    report = diagnose({"first": (g["first"], g["first"][::-1] ** 2), "fourth": (g["fourth"], g["fourth"])}, error=1e-6)
    assert "Only " not in report.explanation


@pytest.mark.parametrize("count", [2, 4])
def test_a_model_of_which_every_tensor_is_wrong_is_told(count: int) -> None:
    """Then g may be the gradient of something else; two tensors are enough."""
    names = list(G)[:count]
    wrong = {name: (G[name], G[name] * RNG.uniform(0.4, 2.5, G[name].shape)) for name in names}
    assert "Every tensor is wrong, and not by a single factor" in diagnose(wrong, error=1e-6).explanation
    agreeing = wrong | {"b": (np.ones(4), np.ones(4))}
    assert "Every tensor is wrong" not in diagnose(agreeing, error=1e-6).explanation


def test_biases_that_agree_clear_what_reaches_their_layers() -> None:
    """A matrix is judged by the bias that follows it directly; one without a bias of its own shows nothing."""
    wrong, right = G["first"] * RNG.uniform(0.4, 2.5, (6, 4)), RNG.normal(size=4)
    other = {"W2": (G["first"].T, wrong.T), "b2": (right, right)}
    told = "The biases agree and the matrices beside them are wrong (W1 and W2)"
    assert told in diagnose({"W1": (G["first"], wrong), "b1": (right, right), **other}, error=1e-6).explanation
    between = {"W1": (G["first"], wrong), "E": (G["third"], G["third"]), "b1": (right, right), **other}
    assert told not in diagnose(between, error=1e-6).explanation
