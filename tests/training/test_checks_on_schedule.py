"""When a check is made, and what is kept of it."""

import numpy as np
import pytest
from lstm_training import TIMESTEPS, WATCHED, Training, averaged, guard_of

from gradguard import GradGuard, GradientError
from gradguard.training.schedule import ROUTINE_EVALUATIONS


def test_checks_come_on_schedule_and_every_one_is_a_row_of_history() -> None:
    """From the start step on; at other steps `after_backward` returns None and changes nothing."""
    training = Training()
    guard = guard_of(training, every_n_steps=3, start_step=2)
    assert guard.report is None
    training.run(guard, range(12))
    assert [step for step, report in enumerate(training.reports) if report is not None] == [2, 5, 8, 11]
    assert [row.step for row in guard.history] == [2, 5, 8, 11]
    assert guard.report is training.reports[11]
    for row in guard.history:
        report = training.reports[row.step]
        assert report is not None
        assert (row.verdict, row.evaluations, row.seconds) == (report.verdict, report.evaluations, report.seconds)
        assert row.verdicts == {name: tensor.verdict for name, tensor in report.tensors.items()}
        assert row.ratios == {name: tensor.ratio for name, tensor in report.tensors.items()}
        assert row.alarms == ()


def test_the_first_check_measures_all_tensors_and_later_ones_are_cheap() -> None:
    """A routine check screens all tensors at once, and measures own numbers of one: each has its turn."""
    training = Training()
    guard = guard_of(training)
    first, *later = training.run(guard, range(7))
    assert all(tensor.deep for tensor in first.tensors.values())
    turns = []
    for report in later:
        (own,) = (name for name, tensor in report.tensors.items() if tensor.measured_at == report.step)
        turns.append(own)
        assert not report.tensors[own].deep
        assert report.screened == len(WATCHED)
        assert all(tensor.screened_at == report.step for tensor in report.tensors.values())
        assert report.evaluations == 1 + 2 * 4 + 4 * (1 + 2) + 1
    assert set(turns) == set(WATCHED)
    assert first.evaluations > 5 * later[0].evaluations


def test_a_routine_check_costs_the_same_however_many_tensors_there_are() -> None:
    """And no more than the budget of a routine check foresees."""

    def cost(layers: int) -> set[int]:
        params = {f"w{i}": np.linspace(-1, 1, 6, dtype=np.float32) + np.float32(0.01 * i) for i in range(layers)}
        loss = lambda: np.float32(sum(np.tanh(param).sum() for param in params.values()))  # noqa: E731
        guard = GradGuard(params, loss, every_n_steps=1, max_overhead=None, precision="native")
        for step in range(9):
            guard.after_backward(step, {name: 1 - np.tanh(param) ** 2 for name, param in params.items()})
        assert not any(row.verdict.is_bug for row in guard.history)
        return {row.evaluations for row in guard.history if row.step}

    assert cost(2) == cost(40)
    assert max(cost(40)) <= ROUTINE_EVALUATIONS


def test_a_schedule_may_be_a_rule() -> None:
    """Any callable from a step to a bool."""
    training = Training()
    guard = guard_of(training, every_n_steps=lambda step: step in (1, 2, 4))
    training.run(guard, range(6))
    assert [row.step for row in guard.history] == [1, 2, 4]


def test_a_tight_budget_skips_checks() -> None:
    """After the first, which is free, a share of a billionth leaves no time for any."""
    training = Training()
    guard = guard_of(training, max_overhead=1e-9)
    training.run(guard, range(5))
    assert [row.step for row in guard.history] == [0]
    assert guard.report is not None
    assert guard.report.overhead is None


def test_a_check_at_once_waits_for_neither_schedule_nor_budget() -> None:
    """It is a row of the history as any other check, and the training goes on by its schedule."""
    training = Training()
    guard = guard_of(training, every_n_steps=1000, start_step=2, max_overhead=1e-9)
    assert guard.after_backward(0, training.grads()) is None
    reports = [guard.check_now(step, training.grads()) for step in (0, 1, 1)]
    assert [report.step for report in reports] == [row.step for row in guard.history] == [0, 1, 1]
    assert guard.report is reports[-1]
    assert reports[-1].evaluations <= ROUTINE_EVALUATIONS
    assert guard.after_backward(2, training.grads()) is None
    with pytest.raises(ValueError, match="step 1 comes after step 2"):
        guard.check_now(1, training.grads())


def test_a_check_at_once_reports_a_bug_and_leaves_the_parameters() -> None:
    """It alerts as a scheduled check does, takes a loss, its value and constants, and is refused once closed."""
    training = Training()
    guard = GradGuard(training.watched, every_n_steps=1000, start_step=1, on_alert="raise")
    before = {name: param.tobytes() for name, param in training.model.params.items()}
    with pytest.raises(GradientError, match=r"step 0 Wh: BUG, scale.*`timesteps`"):
        guard.check_now(
            0,
            averaged(0, training.grads()),
            training.loss,
            value=training.loss(),
            constants={"timesteps": TIMESTEPS},
        )
    assert before == {name: param.tobytes() for name, param in training.model.params.items()}
    guard.close()
    with pytest.raises(ValueError, match="guard is closed"):
        guard.check_now(1, training.grads(), training.loss)


def test_the_share_of_time_that_checks_took_is_told() -> None:
    """From the second check on, with that check itself."""
    training = Training()
    _, *later = training.run(guard_of(training), range(4))
    shares = [report.overhead for report in later]
    assert all(share is not None and 0 < share < 1 for share in shares)


def test_the_same_seed_makes_the_same_checks() -> None:
    """And another seed other probes."""

    def ratios(seed: int) -> list[dict[str, float]]:
        training = Training()
        guard = guard_of(training, seed=seed)
        training.run(guard, range(3))
        return [dict(row.ratios) for row in guard.history]

    assert ratios(1) == ratios(1) != ratios(2)


def test_an_integration_may_ask_whether_a_check_may_come() -> None:
    """Where steps are far apart; a rule of the user's is not asked for it, since it may count its calls."""
    asked: list[int] = []
    every_third = GradGuard({"w": np.ones(2)}, every_n_steps=3, start_step=1)
    assert [every_third.may_check(step) for step in range(6)] == [False, True, False, False, True, False]
    ruled = GradGuard({"w": np.ones(2)}, every_n_steps=lambda step: bool(asked.append(step)))
    assert ruled.may_check(0)
    assert not asked


def test_steps_that_an_integration_skips_count_for_what_was_not_checked(caplog: pytest.LogCaptureFixture) -> None:
    """The guard was called, and no check was due."""
    guard = GradGuard({"w": np.ones(2)}, start_step=100)
    guard.skip_step(5)
    with pytest.raises(ValueError, match="steps must not go backwards"):
        guard.skip_step(4)
    guard.close()
    assert "no check was due up to step 5" in caplog.text
