"""The callback in trainings of a Trainer: it finds the fault, and changes nothing."""

import copy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from busy_network import OPTIONS, TENSORS, WRONG, bugs, names_the_factor, same
from trainer_trainings import Model, Noting, PerItem, left_by, trainer_of

from gradguard.integrations.transformers import GradGuardCallback

pytestmark = pytest.mark.usefixtures("quiet")

PREFIX = "network."
IN_MODEL = {PREFIX + name for name in WRONG}


def trained(trainer: Any, **options: Any) -> GradGuardCallback:
    """The callback after a training."""
    callback = GradGuardCallback(trainer, **{**OPTIONS, **options})
    trainer.add_callback(callback)
    trainer.train()
    return callback


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (Model, {"max_grad_norm": 1e-3}),
        (Model, {"max_grad_norm": 0.0, "gradient_accumulation_steps": 3}),
        (PerItem, {"max_grad_norm": 1e-3, "gradient_accumulation_steps": 3}),
    ],
)
def test_a_factor_is_named_at_the_first_check(model: type[Model], options: dict[str, Any], tmp_path: Path) -> None:
    """Before clipping, and of the whole window, whoever divides by its length."""
    callback = trained(trainer_of(tmp_path, model=model, network={"faulty": True}, **options), every_n_steps=100)
    assert [row.step for row in callback.history] == [0]
    assert callback.history[0].verdicts.keys() == {PREFIX + name for name in TENSORS}
    assert names_the_factor(callback.report, PREFIX), str(callback.report)


@pytest.mark.parametrize(
    "options",
    [{"gradient_accumulation_steps": 3, "max_grad_norm": 0.1}, {"bf16": True}, {"max_grad_norm": 0.0}],
    ids=str,
)
def test_a_training_is_the_same_with_the_callback(options: dict[str, Any], tmp_path: Path) -> None:
    """Weights, statistics, containers of model and trainer, optimizer, logs and streams, bit for bit."""
    options = {"network": {"busy": True}, "num_train_epochs": 2, **options}
    plain, guarded = trainer_of(tmp_path, Noting, **options), None
    plain.train()
    without = left_by(plain)
    guarded = trainer_of(tmp_path, Noting, **options)
    callback = trained(guarded, every_n_steps=3)
    assert [same(*pair) for pair in zip(without, left_by(guarded), strict=True)] == [True] * len(without)
    assert [row.step for row in callback.history][:2] == [0, 3]
    assert {str(row.verdict) for row in callback.history} <= {"ok", "float_precision", "inconclusive"}


def test_what_was_told_is_not_told_again_after_a_checkpoint(tmp_path: Path) -> None:
    """The state of the checks is in `trainer_state.json`."""
    alerts: list[Any] = []
    options = {"network": {"faulty": True}, "save_strategy": "steps", "save_steps": 2, "num_train_epochs": 1}
    trained(trainer_of(tmp_path, max_steps=2, **options), every_n_steps=2, on_alert=alerts.append)
    assert {alert.tensor for alert in alerts} == IN_MODEL
    told = len(alerts)
    trainer = trainer_of(tmp_path, max_steps=4, **options)
    callback = GradGuardCallback(trainer, every_n_steps=2, on_alert=alerts.append, **OPTIONS)
    trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [row.step for row in callback.history] == [2]
    assert bugs(callback.history[0]) == IN_MODEL
    assert len(alerts) == told


def test_events_are_beside_those_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a logdir of its own."""
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trained(trainer_of(tmp_path / "out", report_to=["tensorboard"]), every_n_steps=5)
    assert len(list((tmp_path / "events").glob("events.out.tfevents.*"))) == 2


def test_an_exception_in_a_replay_leaves_the_trainer_as_it_was(tmp_path: Path) -> None:
    """Its methods, and those of its accelerator, are their own again."""
    calls = []

    class Stopping(Noting):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            if len(calls) == 15:
                raise KeyboardInterrupt
            return super().compute_loss(*args, **kwargs)

    trainer = trainer_of(tmp_path, Stopping, network={"busy": True})
    before = [parameter.detach().clone() for parameter in trainer.model.parameters() if parameter.requires_grad]
    with pytest.raises(KeyboardInterrupt):
        trained(trainer, every_n_steps=1)
    assert same(before, [parameter.detach() for parameter in trainer.model.parameters() if parameter.requires_grad])
    assert (len(trainer.losses), trainer.calls, list(trainer.latest)) == (1, 1, [0])
    assert not {"training_step", "log"} & vars(trainer).keys()
    assert not {"backward", "clip_grad_norm_"} & vars(trainer.accelerator).keys()


def test_another_trainer_is_refused(tmp_path: Path) -> None:
    """Before its first step; a model in its place, and an unknown option, where the callback is made."""
    trainer, other = trainer_of(tmp_path), trainer_of(tmp_path)
    before = copy.deepcopy(other.model.state_dict())
    other.add_callback(GradGuardCallback(trainer))
    with pytest.raises(ValueError, match="another Trainer than it was made with"):
        other.train()
    assert same(before, other.model.state_dict())
    with pytest.raises(TypeError, match=r"trainer is a Model; expected the transformers\.Trainer"):
        GradGuardCallback(trainer.model)
    with pytest.raises(TypeError, match="no option 'logging_dir'"):
        GradGuardCallback(trainer, logging_dir="runs")
