"""Ranks that hold whole parameters."""

import re
from typing import Any

import pytest

pytest.importorskip("torch")

from rank_checks import RIGHT
from ranks import in_ranks
from ranks_ending import interrupted_in_turn
from ranks_whole import everything


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What two ranks have done, one after the other: to start them takes long."""
    return in_ranks(everything, str(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def checks(both: list[Any]) -> list[Any]:
    """One check of each kind."""
    return [left["checks"] for left in both]


@pytest.fixture(scope="module")
def ends() -> list[Any]:
    """What three ranks have done, of which one went away."""
    return in_ranks(interrupted_in_turn, ranks=3)


def test_a_distributed_training_is_bit_for_bit_the_same_under_guard(both: list[Any]) -> None:
    """Weights, gradients, moments, buffers and all random streams, on each rank; and nothing is wrong."""
    for left in (rank["identical"] for rank in both):
        assert left["same"] == [True] * len(left["same"])
        assert [step for step, _ in left["history"]] == [0, 2]
        assert {verdict for _, verdict in left["history"]} <= RIGHT


def test_the_loss_of_all_ranks_is_what_the_gradients_are_held_to(checks: list[Any]) -> None:
    """The mean over ranks whose parts differ in size; all find the same, in float64, after as many evaluations."""
    one, other = (check["right"] for check in checks)
    assert one["report"]["verdict"] == "ok"
    assert one["report"]["precision"] == "float64"
    assert max(tensor["discrepancy"] for tensor in one["report"]["tensors"].values()) < 1e-6
    assert one == other


def test_a_sum_where_the_loss_is_a_mean_is_named_by_the_number_of_processes(checks: list[Any]) -> None:
    """Without a word from the user."""
    for check in checks:
        tensors = check["summed"]["report"]["tensors"]
        assert {tensor["verdict"] for tensor in tensors.values()} == {"scale"}
        assert "1/`world_size`" in check["summed"]["text"]
        assert "number of processes" in check["summed"]["text"]


def test_the_loss_that_each_rank_computed_is_compared_on_all(checks: list[Any]) -> None:
    """All ranks find that it is the one of the check, or that it is not, although only one of them is off."""
    for check in checks:
        assert check["its own loss"]["report"]["verdict"] == "ok"
        assert check["another loss"]["report"]["verdict"] == "other_loss"
        assert check["another loss"]["calls"] <= 3


def test_losses_are_added_where_the_user_says_so(checks: list[Any]) -> None:
    """Parts of unequal size, each weighted by its share, with gradients that are sums."""
    assert {check["said to be summed"]["report"]["verdict"] for check in checks} == {"ok"}


def test_unreduced_losses_of_parts_of_unequal_size(checks: list[Any]) -> None:
    """Each rank reduces its own, and as many numbers go over the wire."""
    one, other = (check["unreduced"]["report"] for check in checks)
    assert one["verdict"] in RIGHT
    assert one == other


def test_the_first_rank_alone_writes_and_logs(checks: list[Any]) -> None:
    """Events once, and each alert once."""
    assert any("world_size" in message for message in checks[0]["log"])
    assert checks[0]["files"] == 1
    assert checks[1]["log"] == []


def test_a_training_that_averages_by_itself_is_checked_with_its_group(both: list[Any]) -> None:
    """No wrapper is needed."""
    assert [left["by hand"] for left in both] == [{"bug": False}] * 2


def test_what_a_check_costs_is_counted_by_one_clock(both: list[Any]) -> None:
    """A slow rank makes no other plans than a fast one: both check the same, as often."""
    one, other = (left["budgeted"] for left in both)
    assert one == other
    assert 1 < len(one) < 30


def test_each_rank_checks_its_own_calls_of_functions_and_waits_for_nobody(both: list[Any]) -> None:
    """The wrong Function is named at each check; one that communicates is not called by a rank alone."""
    for left in both:
        assert len(left["functions"]) == 3
        for cause in left["functions"]:
            assert "Halved.backward is wrong in its gradient for input 0 (`x`): numerical = 2 x backprop" in cause
            assert "Averaged" not in cause


def test_a_state_that_one_rank_saved_is_resumed_by_all(both: list[Any]) -> None:
    """Also with a bound on their time, which the clocks of no two processes agree on."""
    one, other = (left["resumed"] for left in both)
    assert one == other


def test_ranks_talk_once_an_evaluation(both: list[Any]) -> None:
    """And once for each move of all tensors together: what it costs on the wire."""
    one, other = (left["exchanges"] for left in both)
    assert one == other
    assert one["evaluations"] <= one["exchanges"] <= 1.25 * one["evaluations"]


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ("open", ["ValueError: the gradients of rank {rank} were not synchronised", "no_sync()"]),
        ("gradients", ["ValueError: the gradients of ranks 0 and 1 differ", "(out.weight)", "not averaged"]),
        ("parameters", ["ValueError: the parameters of ranks 0 and 1 differ", "(out.bias)", "checkpoint"]),
        ("seed", ["ValueError: the options of TorchGuard of ranks 0 and 1 differ", "'seed', '{rank}'"]),
        ("shapes", ["ValueError: the parameters of ranks 0 and 1 differ", "every rank must make the same guard"]),
        ("across", ["ValueError: across is 'median'; expected 'mean' or 'sum'"]),
        ("timeout", ["ValueError: timeout is 0; expected a number of seconds above 0"]),
    ],
)
def test_a_mistake_is_told_on_each_rank(both: list[Any], mistake: str, says: list[str]) -> None:
    """With the ranks, the tensors and what to do; none waits for another one."""
    for rank, told in enumerate(left["mistakes"] for left in both):
        assert all(words.format(rank=rank) in told[mistake] for words in says), told[mistake]


def test_a_loss_that_fails_on_one_rank_ends_the_check_on_all(both: list[Any]) -> None:
    """Its own error there, and on the other one which rank it was and why."""
    one, other = (left["mistakes"]["loss"] for left in both)
    assert other == "OSError: the disk with the batch is gone"
    assert one.startswith("RankError: rank 1 failed in the check of step 0: OSError: the disk with")


@pytest.mark.parametrize(
    ("how", "says", "seconds"),
    [
        ("is interrupted", "rank 2 failed in the check of step 0: KeyboardInterrupt", 30),
        ("hangs", "rank 2 did not come within 1.5 s in the check of step 0, where this rank (RANK) was at a loss", 30),
        ("dies", "rank 2 did not come within 1.5 s in the check of step 0", 30),
    ],
)
def test_a_rank_that_goes_away_in_a_probe_is_named(ends: list[Any], how: str, says: str, seconds: float) -> None:
    """By the others, in bounded time, with their parameters as they were; a further check says it again at once."""
    for rank, one in enumerate(left[how] for left in ends[:2]):
        assert says.replace("RANK", str(rank)) in one["said"]
        assert re.search("parameters .* are (as they were|restored)", one["said"])
        assert one["seconds"] < seconds
        assert one["restored"]
        assert says.partition(" in the check")[0] in one["again"]


def test_ranks_at_different_steps_are_told_apart(both: list[Any]) -> None:
    """Rather than measured together."""
    for told in (left["mistakes"]["out of step"] for left in both):
        assert "RankError: rank 1 and rank 0 do not check alike" in told
        assert "of step 1" in told
        assert "of step 0" in told


def test_ranks_that_move_one_of_several_tensors_differently_are_told_apart(both: list[Any]) -> None:
    """The other tensors are where they are on all ranks, and no earlier point is held against them."""
    for told in (left["several"] for left in both):
        assert "RankError: rank 1 and rank 0 do not check alike: one is at a loss" in told


def test_a_guard_that_only_one_rank_makes_is_told(both: list[Any]) -> None:
    """After the timeout, with what to do."""
    told = both[0]["mistakes"]["made on one"]
    assert told.startswith(
        "RuntimeError: not all of ranks 0 and 1 made their TorchGuard within 2 s; make it on every rank"
    )
