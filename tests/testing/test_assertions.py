import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradguard
from gradguard import Report, check, gates, snapshot_rng
from gradguard.testing import LSTM, Batch, assert_gradients, faulty, random_batch

USER_TEST = """
import numpy as np
from gradguard.testing import LSTM, assert_gradients, faulty, random_batch
model, batch = faulty("timesteps")(3, 2, 3), random_batch(4, 2, inputs=3, outputs=3)
grads = model.loss_and_grads(batch)[1]


def test_the_gradient():
    assert_gradients(model.params, grads, lambda: model.loss(batch), constants={"timesteps": 4})
"""


@pytest.fixture
def batch() -> Batch:
    """A small batch."""
    return random_batch(4, 2, inputs=3, outputs=3)


def asserted(model: LSTM, batch: Batch, **options: Any) -> Report:
    """The assertion on a model's own gradients."""
    return assert_gradients(model.params, model.loss_and_grads(batch)[1], lambda: model.loss(batch), **options)


def unclear(**options: Any) -> Report:
    """The assertion on a loss all of whose entries sit at a kink."""
    x = {"x": np.zeros(5)}
    return assert_gradients(x, {"x": np.ones(5)}, lambda: float(np.abs(x["x"]).sum()), **options)


def test_a_right_gradient_passes_with_the_report(batch: Batch) -> None:
    """The report of the check comes back, for who wants to assert more."""
    report = asserted(LSTM(3, 2, 3), batch)
    assert report.verdict.is_bug is False
    assert set(report.tensors) == set(LSTM().params)


def test_a_wrong_gradient_fails_with_the_report(batch: Batch) -> None:
    """The message names the tensors that are wrong, and holds the report with the factor and its name."""
    with pytest.raises(AssertionError) as raised:
        asserted(faulty("timesteps")(3, 2, 3), batch, constants={"timesteps": 4})
    first, report = str(raised.value).split("\n", 1)
    assert first == "the gradient of Wx, Wh, b is wrong"
    assert "BUG: scale" in report
    assert "`timesteps`" in report
    assert "step 0  V " in report


def test_a_check_that_cannot_tell_fails_unless_that_is_allowed() -> None:
    """A test that passes because nothing could be measured would be no test."""
    with pytest.raises(AssertionError, match=r"cannot tell .*allow_inconclusive=True"):
        unclear()
    assert unclear(allow_inconclusive=True).verdict.is_bug is None


@pytest.mark.parametrize("allowed", [False, True])
def test_a_loss_that_does_not_repeat_always_fails(allowed: bool, batch: Batch) -> None:
    """Nothing is checked where the loss is another one at each call, and that is never what a test means."""
    model, rng = LSTM(3, 2, 3), np.random.default_rng(0)
    _, grads = model.loss_and_grads(batch)
    with pytest.raises(AssertionError, match=r"is not deterministic(.|\n)*snapshot="):
        assert_gradients(model.params, grads, lambda: model.loss(batch) * rng.random(), allow_inconclusive=allowed)


def test_a_bug_is_told_even_where_the_rest_is_unclear(batch: Batch) -> None:
    """What is allowed to be unclear does not cover what is wrong."""
    model = LSTM(3, 2, 3)
    _, grads = model.loss_and_grads(batch)
    with pytest.raises(AssertionError, match="the gradient of V is wrong"):
        assert_gradients(model.params, grads | {"V": -grads["V"]}, lambda: model.loss(batch), allow_inconclusive=True)


def test_a_mistake_in_the_arguments_is_no_failed_assertion(batch: Batch) -> None:
    """Wrong arguments are the same errors as those of `check`."""
    model = LSTM(3, 2, 3)
    with pytest.raises(ValueError, match="grads has no entry 'Wx'"):
        assert_gradients(model.params, {}, lambda: model.loss(batch))


def test_it_takes_every_argument_of_check() -> None:
    """The assertion and `check` have the same parameters, with the same defaults, but for what it allows."""
    wanted = dict(inspect.signature(check).parameters)
    given = dict(inspect.signature(assert_gradients).parameters)
    assert given.pop("allow_inconclusive").default is False
    assert given == wanted


def test_its_arguments_reach_the_check() -> None:
    """The report is the one that `check` makes of the same arguments."""
    model, batch = LSTM(), random_batch(3, 2)
    options: dict[str, Any] = {
        "value": model.loss(batch),
        "constants": {"timesteps": 3},
        "blocks": {"b": gates("ifog", axis=0)},
        "reduction": "mean",
        "precision": "native",
        "snapshot": snapshot_rng(np.random.default_rng()),
        "entries": 3,
        "expected": {"V": "on purpose"},
        "seed": 5,
    }
    assert set(options) == set(inspect.signature(check).parameters) - {"params", "grads", "loss"}
    _, grads = model.loss_and_grads(batch)
    reports = [
        call(model.params, grads, lambda: model.losses(batch), **options).to_dict()
        for call in (check, assert_gradients)
    ]
    assert [report.pop("seconds") for report in reports]
    assert reports[0] == reports[1]


def test_pytest_shows_the_line_of_the_test(tmp_path: Path) -> None:
    """A failure is shown at the assertion in the user's test, with the report and without the insides of gradguard."""
    (tmp_path / "test_user.py").write_text(USER_TEST)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_user.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(gradguard.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert ">       assert_gradients(model.params" in done.stdout
    assert "E       AssertionError: the gradient of Wx, Wh, b is wrong" in done.stdout
    assert "`timesteps`" in done.stdout
    assert "assertions.py" not in done.stdout
