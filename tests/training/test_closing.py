"""What a guard says at the end of a training."""

from collections.abc import Callable

import numpy as np
import pytest
from lstm_training import StopError, Training, guard_of
from reports import MakeTensor

from gradguard import GradGuard, Verdict
from gradguard.training.alerts import open_at_the_end


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What was logged, with its level."""
    return [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "gradguard"]


def test_a_training_whose_tensors_were_all_looked_at_ends_silently(caplog: pytest.LogCaptureFixture) -> None:
    """A correct training has nothing to be told of."""
    training = Training()
    with guard_of(training) as guard:
        training.run(guard, range(3))
    assert told(caplog) == []


@pytest.mark.parametrize(
    ("options", "steps", "reason"),
    [
        ({"start_step": 100}, 5, "no check was due up to step 4; every_n_steps and start_step say when one is"),
        ({"every_n_steps": lambda step: False}, 5, "no check was due up to step 4"),  # noqa: ARG005 - a schedule
        ({}, 0, "after_backward was never called"),
    ],
)
def test_a_training_without_a_check_says_why(
    options: dict[str, int | Callable[[int], bool]], steps: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A guard that never checked is not taken for one that found nothing; a second close says no more."""
    training = Training()
    guard = guard_of(training, **options)
    training.run(guard, range(steps))
    guard.close()
    guard.close()
    assert [level for level, _ in told(caplog)] == ["WARNING"]
    assert f"no gradient was checked: {reason}" in told(caplog)[0][1]


def test_a_check_that_raised_is_not_called_one_that_was_not_due(caplog: pytest.LogCaptureFixture) -> None:
    """The exception has told it."""
    training = Training()
    guard = GradGuard(training.watched)

    def refuse() -> float:
        raise StopError

    with pytest.raises(StopError), guard:
        guard.after_backward(0, training.grads(), refuse)
    assert told(caplog) == []


def test_a_tensor_that_no_check_could_look_at_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Its checks knew nothing but that the loss of the training was another one."""
    weights = {"w": np.ones(3), "v": np.ones(2)}
    with GradGuard(weights, lambda: float(weights["w"].sum() + weights["v"].sum())) as guard:
        report = guard.after_backward(0, {"w": np.ones(3), "v": np.ones(2)}, value=7.0)
    assert report is not None
    assert report.verdict == "other_loss"
    level, line = told(caplog)[-1]
    assert level == "WARNING"
    assert line == (
        "gradguard: no check of this training covered 2 of 2 tensors: w and v; the warnings of the checks say why"
    )


def test_what_was_never_judged_and_what_is_suspected_are_two_lines(make_tensor: MakeTensor) -> None:
    """A screen that could not show anything of a tensor is no look at it; an older measurement is one."""
    unclear = {"verdict": Verdict.inconclusive}
    tensors = [
        make_tensor("fine", measured_at=0, screened_at=9),
        make_tensor("small", measured_at=None, screened_at=9, cause_key="screen_too_coarse", **unclear),
        make_tensor("once", measured_at=3, screened_at=9, cause_key="screen_too_coarse", **unclear),
        make_tensor("never", measured_at=None, cause_key="unscreened", **unclear),
        make_tensor("bad", measured_at=None, cause_key="suspected", **unclear),
    ]
    lines = list(open_at_the_end([tensor.name for tensor in tensors], {tensor.name: tensor for tensor in tensors}))
    assert lines[0].startswith("gradguard: no check of this training covered 2 of 5 tensors: small and never; ")
    assert "max_overhead" in lines[0]
    assert lines[1].startswith("gradguard: the last check suspects bad, ")
    assert len(lines) == 2
