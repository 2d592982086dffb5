"""The callback in trainings of Lightning: it finds the fault, and changes nothing."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning")

import torch
from busy_network import OPTIONS, TENSORS, WRONG, bugs, names_the_factor, same, seed
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning_trainings import Module, fit, left_by

from gradguard.integrations.lightning import GradGuardCallback

pytestmark = pytest.mark.usefixtures("quiet")

PREFIX = "network."
IN_MODULE = {PREFIX + name for name in WRONG}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_clip_val": 1e-3, "accumulate_grad_batches": 3},
        {"precision": "64-true", "gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"},
    ],
    ids=str,
)
def test_a_factor_is_named_at_the_first_check(options: dict[str, Any]) -> None:
    """Before clipping, and of the whole window."""
    seed()
    callback = GradGuardCallback(every_n_steps=100, **OPTIONS)
    fit(Module(faulty=True), callback, **options)
    assert [row.step for row in callback.history] == [0]
    assert callback.history[0].verdicts.keys() == {PREFIX + name for name in TENSORS}
    assert names_the_factor(callback.report, PREFIX), str(callback.report)


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1},
        {"precision": "bf16-mixed"},
        {"precision": "16-mixed", "accumulate_grad_batches": 2},
        {"precision": "64-true", "gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    ],
    ids=str,
)
def test_a_training_is_the_same_with_the_callback(options: dict[str, Any], tmp_path: Path) -> None:
    """Weights, statistics, averages, containers, metrics, optimizer, logs and streams, bit for bit; no bug is seen."""
    callback = GradGuardCallback(every_n_steps=3, **OPTIONS)
    without, under_guard = left_by(tmp_path / "without", **options), left_by(tmp_path / "with", callback, **options)
    assert [same(*pair) for pair in zip(without, under_guard, strict=True)] == [True] * len(without)
    assert [row.step for row in callback.history][:2] == [0, 3]
    assert [bugs(row) for row in callback.history] == [set()] * len(callback.history)
    assert all(row.verdict != "other_loss" for row in callback.history)


def test_what_was_told_is_not_told_again_after_a_checkpoint(tmp_path: Path) -> None:
    """The state of the checks is in the checkpoint, with weights alone."""
    alerts: list[Any] = []
    first, second = (GradGuardCallback(every_n_steps=2, on_alert=alerts.append, **OPTIONS) for _ in range(2))
    seed()
    fit(Module(faulty=True), first, max_steps=3).save_checkpoint(tmp_path / "last.ckpt")
    told = [alert.tensor for alert in alerts]
    assert set(told) == IN_MODULE
    assert "GradGuardCallback" in torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    fit(Module(faulty=True), second, ckpt_path=str(tmp_path / "last.ckpt"), max_steps=6, max_epochs=2)
    assert [row.step for row in second.history] == [4]
    assert bugs(second.history[0]) == IN_MODULE
    assert [alert.tensor for alert in alerts] == told


def test_events_are_in_the_run_of_the_logger(tmp_path: Path) -> None:
    """Without a logdir of its own."""
    seed()
    logger = TensorBoardLogger(tmp_path)
    fit(Module(), GradGuardCallback(every_n_steps=5, **OPTIONS), logger=logger)
    assert len(list(Path(logger.log_dir).glob("events.out.tfevents.*"))) == 2


def test_an_optimizer_that_evaluates_several_times_is_checked_once_an_update() -> None:
    """At the parameters that the update starts from."""

    class Searching(Module):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)

    seed()
    callback = GradGuardCallback(every_n_steps=1, **OPTIONS)
    fit(Searching(), callback, max_steps=2)
    assert [row.step for row in callback.history] == [0, 1]
    assert not any(map(bugs, callback.history))


def test_a_step_without_a_loss_is_no_part_of_the_window() -> None:
    """Lightning skips its backward pass."""

    class Skipping(Module):
        def training_step(self, batch: Any, index: int) -> Any:
            return super().training_step(batch, index) if index % 2 else None

    seed()
    callback = GradGuardCallback(every_n_steps=1, **OPTIONS)
    fit(Skipping(), callback, accumulate_grad_batches=2)
    assert len(callback.history) == 3
    assert not any(map(bugs, callback.history))


def test_a_batch_that_the_step_changes_is_replayed_as_it_was() -> None:
    """Normalized in place, and emptied."""

    class Normalizing(Module):
        def training_step(self, batch: Any, index: int) -> Any:
            x, y = batch.pop(0), batch.pop(0)
            x.sub_(x.mean()).mul_(3)
            return super().training_step((x, y), index)

    seed()
    callback = GradGuardCallback(every_n_steps=3, **OPTIONS)
    fit(Normalizing(), callback)
    assert [row.verdict.is_bug for row in callback.history] == [False] * 3


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_under_a_scaler_are_no_bug(fused: bool) -> None:
    """Those of a fused optimizer still have its factor at the check; it is not taken for one of the network."""

    class Scaled(Module):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-2, fused=fused)

    seed()
    callback = GradGuardCallback(every_n_steps=3, **OPTIONS)
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    fit(Scaled(), callback, plugins=[plugin], accumulate_grad_batches=2)
    assert plugin.scaler.get_scale() == 1024
    assert [row.step for row in callback.history] == [0, 3]
    assert {str(row.verdict) for row in callback.history} <= {"ok", "float_precision", "inconclusive"}
    assert all(tensor.ratio != tensor.ratio or 0.5 < tensor.ratio < 2 for tensor in callback.report.tensors.values())
