"""Ranks that hold a part of each parameter."""

from typing import Any

import pytest

pytest.importorskip("torch")

from rank_checks import RIGHT
from ranks import in_ranks
from ranks_sharded import sharded_everything


@pytest.fixture(scope="module")
def shards() -> list[Any]:
    """What two ranks have done that hold a part of each parameter."""
    return in_ranks(sharded_everything)


def test_a_sharded_training_is_bit_for_bit_the_same_under_guard(shards: list[Any]) -> None:
    """Each rank's parts of weights, gradients and moments, buffers and all random streams; and nothing is wrong."""
    for left in (rank["identical"] for rank in shards):
        assert left["same"] == [True] * len(left["same"])
        assert [step for step, _ in left["history"]] == [0, 2]
        assert {verdict for _, verdict in left["history"]} <= RIGHT


@pytest.mark.parametrize("spread", ["right", "copied"])
def test_sharded_parameters_are_checked_where_they_lie(shards: list[Any], spread: str) -> None:
    """In the precision of the training; all ranks find the same. Some ranks may hold the same part."""
    one, other = (left[spread]["report"] for left in shards)
    assert one == other
    assert one["verdict"] in RIGHT
    assert one["precision"] == "native"
    assert max(tensor["discrepancy"] for tensor in one["tensors"].values()) < 1e-3


def test_sharded_gradients_that_are_sums_are_named_by_the_number_of_processes(shards: list[Any]) -> None:
    """As whole ones are."""
    for left in shards:
        assert {tensor["verdict"] for tensor in left["summed"]["report"]["tensors"].values()} == {"scale"}
        assert "1/`world_size`" in left["summed"]["text"]


def test_parts_say_together_what_the_whole_says(shards: list[Any]) -> None:
    """Norms, entries, and the very same directions."""
    assert [left["numbers"] for left in shards] == [[True] * 8] * 2


def test_tensors_that_move_at_once_send_their_products_at_once(shards: list[Any]) -> None:
    """However many there are; each product is that of the whole tensor, and all are put back bit for bit."""
    for several in (kind for left in shards for kind in left["several"]):
        assert several == {"products": True, "restored": True, "sent": ["row", "sum"], "moved the loss": True}


def test_ranks_that_hold_parts_talk_twice_an_evaluation(shards: list[Any]) -> None:
    """The loss, and how far the parts have moved; and what it takes to choose the probes."""
    one, other = (left["exchanges"] for left in shards)
    assert one == other
    assert one["exchanges"] < 2 * one["evaluations"] + 200


def test_gradients_that_were_not_reduced_are_told(shards: list[Any]) -> None:
    """By name of the rank."""
    for rank, left in enumerate(shards):
        assert left["open"].startswith(f"ValueError: the gradients of rank {rank} were not synchronised")
        assert "set_requires_gradient_sync(False)" in left["open"]


def test_float64_copies_of_sharded_parameters_are_refused_with_the_reason(shards: list[Any]) -> None:
    """Where they are asked for by name."""
    for left in shards:
        assert "precision='float64' does not work" in left["float64"]
        assert "fully_shard gathers the parameters in their own dtype" in left["float64"]


def test_a_rank_that_fails_leaves_the_parts_of_all_as_they_were(shards: list[Any]) -> None:
    """And is named by the other."""
    one, other = (left["fails"] for left in shards)
    assert other == "OSError: the disk with the batch is gone"
    assert one.startswith("RankError: rank 1 failed in the check of step 0: OSError")
    assert [left["restored"] for left in shards] == [[True, True]] * 2
