"""The guard in a loop of one's own with Accelerate: it finds the fault, and changes nothing."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("accelerate")

from accelerate_trainings import Loop
from busy_network import OPTIONS, TENSORS, WRONG, bugs, names_the_factor, same
from torch import amp, nn

from gradguard.integrations.accelerate import AccelerateGuard

pytestmark = pytest.mark.usefixtures("quiet")

AT_THE_TOP = """
for x, y in loader:
    with accelerator.accumulate(model):
        with guard.micro_batch(lambda: criterion(model(x), y)) as loss:
            accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
guard.close()
"""


def guard_of(loop: Loop, **options: Any) -> AccelerateGuard:
    """A guard that checks at every update."""
    return AccelerateGuard(loop.accelerator, loop.model, loop.optimizer, **{"every_n_steps": 1, **OPTIONS, **options})


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_factor_is_named_at_the_first_check(accumulation: int) -> None:
    """Before clipping, and of the whole window, whose losses read names that are bound anew."""
    loop = Loop(accumulation=accumulation, faulty=True)
    with guard_of(loop, every_n_steps=100) as guard:
        loop.train(guard)
    assert [row.step for row in guard.history] == [0]
    assert guard.history[0].verdicts.keys() == TENSORS
    assert names_the_factor(guard.report), str(guard.report)


def test_the_names_of_a_script_may_be_bound_anew_within_a_window() -> None:
    """The lambda of the first batch reads globals that are those of the last batch when the window is checked."""
    loop = Loop(accumulation=3)
    names = {"loader": loop.loader, "model": loop.model, "optimizer": loop.optimizer, "guard": guard_of(loop)}
    exec(AT_THE_TOP, {**names, "accelerator": loop.accelerator, "criterion": nn.CrossEntropyLoss()})  # noqa: S102
    assert [str(row.verdict) for row in names["guard"].history] == ["ok"] * 3


def test_a_helper_that_reads_what_has_changed_is_no_bug() -> None:
    """The guard cannot hold its names, and the loss is not that of the training."""
    loop = Loop(accumulation=3)
    batch: list[Any] = []

    def helper() -> Any:
        return nn.functional.cross_entropy(loop.model(batch[-1][0]), batch[-1][1])

    with guard_of(loop) as guard:
        for x, y in loop.loader:
            batch.append((x, y))
            loop.step(x, y, lambda _loss: guard.micro_batch(lambda: helper()))
    assert [str(row.verdict) for row in guard.history][:2] == ["other_loss"] * 2


def test_the_arguments_of_a_loss_may_be_given() -> None:
    """They are those of their batch."""
    loop = Loop(accumulation=3)
    with guard_of(loop) as guard:
        for x, y in loop.loader:
            loop.step(
                x,
                y,
                lambda _loss, x=x, y=y: guard.micro_batch(
                    lambda x, y: nn.functional.cross_entropy(loop.model(x), y), x, y
                ),
            )
    assert [str(row.verdict) for row in guard.history] == ["ok"] * 3


@pytest.mark.parametrize("options", [{"accumulation": 3}, {"mixed_precision": "bf16"}], ids=str)
def test_a_training_is_the_same_with_the_guard(options: dict[str, Any]) -> None:
    """Weights, statistics, containers, optimizer, losses, norms and streams, bit for bit."""
    without = Loop(busy=True, **options)
    without.train(epochs=2)
    want = without.left()
    under_guard = Loop(busy=True, **options)
    with guard_of(under_guard, every_n_steps=2) as guard:
        under_guard.train(guard, epochs=2)
    assert [same(*pair) for pair in zip(want, under_guard.left(), strict=True)] == [True] * len(want)
    assert [row.step for row in guard.history][:3] == [0, 2, 4]
    assert {str(row.verdict) for row in guard.history} <= {"ok", "float_precision", "inconclusive"}


def test_gradients_from_outside_of_its_blocks_are_refused() -> None:
    """Before the first block of a window, and between two."""
    loop = Loop(accumulation=3)
    guard = guard_of(loop)
    (x, y), *_ = loop.loader
    nn.functional.cross_entropy(loop.model(x), y).backward()
    with pytest.raises(ValueError, match="each backward pass of a window in micro_batch"):
        loop.step(x, y, guard.micro_batch)
    loop.model.zero_grad()
    loop.step(x, y, guard.micro_batch)
    nn.functional.cross_entropy(loop.model(x), y).backward()
    with pytest.raises(ValueError, match="each backward pass of a window in micro_batch"):
        loop.step(x, y, guard.micro_batch)
    assert guard.report is None


def test_the_guard_is_in_a_checkpoint_of_the_accelerator(tmp_path: Path) -> None:
    """A training that resumes counts on, and does not report again."""
    alerts: list[Any] = []
    for _ in range(2):
        loop = Loop(faulty=True)
        guard = guard_of(loop, every_n_steps=5, on_alert=alerts.append)
        loop.accelerator.register_for_checkpointing(guard)
        if (tmp_path / "state").exists():
            loop.accelerator.load_state(str(tmp_path / "state"))
        loop.train(guard)
        loop.accelerator.save_state(str(tmp_path / "state"))
        told = [alert.tensor for alert in alerts]
    assert [row.step for row in guard.history] == [10]
    assert bugs(guard.history[0]) == WRONG
    assert sorted(told) == sorted(WRONG)


def test_what_is_no_accelerator_or_no_tensor_is_refused() -> None:
    """The messages say what was expected."""
    loop = Loop()
    with pytest.raises(TypeError, match=r"accelerator is a Network; expected an accelerate\.Accelerator"):
        AccelerateGuard(loop.model, loop.model, loop.optimizer)
    with (
        pytest.raises(TypeError, match="loss of a micro-batch is a float; expected the tensor"),
        guard_of(loop).micro_batch(lambda: 1.0),
    ):
        pass


def test_gradients_under_a_scaler_are_no_bug() -> None:
    """They still have its factor at the check."""
    loop = Loop(accumulation=2)
    loop.accelerator.scaler = amp.GradScaler("cpu", init_scale=1024.0)
    with guard_of(loop) as guard:
        for x, y in list(loop.loader)[:2]:
            block = guard.micro_batch(lambda x=x, y=y: nn.functional.cross_entropy(loop.model(x), y))
            with loop.accelerator.accumulate(loop.model), block as loss:
                loop.accelerator.backward(loss)
    assert [str(row.verdict) for row in guard.history] == ["ok"]
