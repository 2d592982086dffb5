"""What the tests of the Transformers callback train."""

from collections import deque
from pathlib import Path
from typing import Any

import torch
from busy_network import BATCH, Network, left_on, samples, seed
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

BATCHES = 7
"""Of an epoch: accumulated by three, the last window has one."""


class Model(nn.Module):
    """A network that computes its own loss, as models of Transformers do."""

    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.network = Network(**options)

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        """The mean over its batch."""
        logits = self.network(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class PerItem(Model):
    """A model whose loss is a sum, divided by the items of the window."""

    def forward(self, x: Tensor, labels: Tensor, num_items_in_batch: Any = None, **_: Any) -> Any:
        """The part of this batch in the mean over the window."""
        logits = self.network(x)
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        return {"loss": loss / (len(x) if num_items_in_batch is None else num_items_in_batch), "logits": logits}


class Noting(Trainer):
    """A trainer that takes its batch apart, counts, keeps and logs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.losses: list[Tensor] = []
        self.latest: deque[float] = deque(maxlen=2)
        self.calls = 0

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss on a batch that is centred in place."""
        x = inputs.pop("x")
        loss = super().compute_loss(model, {"x": x.sub_(x.mean()), **inputs}, *args, **kwargs)
        self.losses.append(loss.detach())
        self.latest.append(self.calls)
        self.calls += 1
        self.log({"own": float(len(self.losses))})
        return loss


def trainer_of(
    folder: Path, kind: type[Trainer] = Trainer, model: type[Model] = Model, *, network: Any = None, **options: Any
) -> Any:
    """A trainer of seven batches an epoch."""
    seed()
    x, y = samples(BATCH * BATCHES)
    data = [{"x": x[i].clone(), "labels": y[i]} for i in range(len(x))]
    quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "logging_steps": 2, "learning_rate": 1e-2}
    device = {"use_cpu": True, "dataloader_pin_memory": False, "per_device_train_batch_size": BATCH}
    arguments = TrainingArguments(str(folder), **{**quiet, **device, "num_train_epochs": 1, **options})
    return kind(model=model(**network or {}), args=arguments, train_dataset=data)


def left_by(trainer: Any) -> list[Any]:
    """All that a training has left on the trainer, on the model and in the logs."""
    timed = ("train_runtime", "train_samples_per_second", "train_steps_per_second")
    logged = [{name: value for name, value in row.items() if name not in timed} for row in trainer.state.log_history]
    noted = [getattr(trainer, name, None) for name in ("losses", "latest", "calls")]
    names = [sorted(vars(each)) for each in (trainer, trainer.accelerator, trainer.model)]
    optimizer = list(trainer.optimizer.state_dict()["state"].values())
    return [*left_on(trainer.model.network), logged, noted, names, optimizer, torch.get_default_dtype()]
