import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from resumed_training import Training, by_json, by_pickle, changed, event_files
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from gradguard import JSONLWriter
from gradguard.training.schedule import Budget
from gradguard.writers import read_jsonl

PLAIN = {dict, list, str, int, float, bool, type(None)}


@pytest.mark.parametrize("precision", ["native", "float64"])
def test_a_guard_that_resumes_makes_the_same_checks(precision: str) -> None:
    """Wherever the training stops: before a bug, while it lasts and after, every further report is bit for bit equal.

    That covers the probes, steps, noise, evidence, baseline, the name of the ratio, and what is told again or not.
    """
    training, states, params, expected = Training(precision), [], [], []
    guard = training.guard()
    for step in range(11):
        states.append(guard.state_dict())
        params.append(copy.deepcopy(training.model.params))
        expected += training.run(guard, range(step, step + 1))
    assert [report["verdict"] for report in expected].count("scale") >= 4
    assert sum(len(report["alerts"]) for report in expected) >= 2
    for stop, then in ((1, 4), (5, 8), (8, 11)):
        resumed = Training(precision)
        for name, param in params[stop].items():
            resumed.model.params[name][...] = param
        guard = resumed.guard(seed=99)
        guard.load_state_dict(by_json(states[stop]))
        assert resumed.run(guard, range(stop, then)) == expected[stop:then]


@pytest.mark.parametrize("carry", [by_json, by_pickle])
def test_a_state_comes_back_as_it_was(state: dict[str, Any], carry: Callable[[Any], Any]) -> None:
    """From strict JSON and from a pickle, and so from whatever holds these."""
    assert carry(state) == state


def test_a_state_is_made_of_plain_values_only(state: dict[str, Any]) -> None:
    """Nothing of NumPy's or gradguard's own is in it, so that any format can hold it."""

    def types(value: object) -> set[type]:
        items = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
        return {type(value)}.union(*map(types, items))

    assert types(state) <= PLAIN


def test_a_state_taken_is_not_changed_by_further_checks() -> None:
    """It is a copy, and a guard that took it does not share it either."""
    training = Training()
    guard = training.guard()
    training.run(guard, range(3))
    state = guard.state_dict()
    told = json.dumps(state)
    training.run(guard, range(3, 5))
    assert json.dumps(state) == told
    guard.load_state_dict(state)
    training.run(guard, range(3, 5))
    assert json.dumps(state) == told


def test_a_state_taken_back_is_the_same_state(state: dict[str, Any]) -> None:
    """Whose turn it is included; only the clock has gone on."""
    state = changed(state, "memory/next_tensor", 1)
    guard = Training().guard()
    guard.load_state_dict(state)
    again = guard.state_dict()
    assert again["spent"].pop("elapsed") >= state["spent"].pop("elapsed")
    assert again == state


def test_a_training_may_be_set_back(tmp_path: Path) -> None:
    """In the same process at an earlier step: the checks are repeated, and no writer objects."""
    training = Training()
    with training.guard(logdir=tmp_path, writers=[JSONLWriter(tmp_path / "log.jsonl")]) as guard:
        training.run(guard, range(2))
        state, params = guard.state_dict(), copy.deepcopy(training.model.params)
        first = training.run(guard, range(2, 5))
        for name, param in params.items():
            training.model.params[name][...] = param
        guard.load_state_dict(state)
        assert training.run(guard, range(2, 5)) == first
    assert [report["step"] for report in read_jsonl(tmp_path / "log.jsonl")] == [*range(5), *range(2, 5)]
    events = [[event.step for event in EventFileLoader(str(path)).Load()][1:] for path in event_files(tmp_path)]
    assert events == [[0, 1, 2, 3, 4], [2, 3, 4]]


def test_a_budget_goes_on_where_it_stopped() -> None:
    """The share of time spent counts, the time between the two does not, and the first check is no longer free."""
    budget = Budget(0.01)
    budget.record_check(1.0, 10)
    budget.record_check(5.0, 10)
    resumed = Budget(0.01)
    resumed.resume(budget.spent)
    assert not resumed.affords_check
    assert resumed.spent.seconds == 5.0
    assert resumed.share() is not None
    copied = pickle.loads(pickle.dumps(budget))  # noqa: S301 - our own bytes
    assert not copied.affords_check
    assert copied.spent.elapsed < 5.0
