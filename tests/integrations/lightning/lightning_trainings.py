"""What the tests of the Lightning callback train."""

from pathlib import Path
from typing import Any

import lightning
import torch
from busy_network import BATCH, CLASSES, Network, left_on, samples, seed
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

QUIET = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False, "logger": False}
EPOCH = 7
"""Batches an epoch: accumulated by three, the last window has one."""


class Module(lightning.LightningModule):
    """A network that logs its loss."""

    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.network = Network(**options)

    def training_step(self, batch: Any, _index: int) -> Any:
        """The loss."""
        loss = nn.functional.cross_entropy(self.network(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """One that remembers."""
        return torch.optim.Adam(self.network.parameters(), 1e-2)


class Logging(Module):
    """A module with metrics, one of them in its loss, that logs wherever it can and keeps what it computed."""

    def __init__(self, **options: bool) -> None:
        super().__init__(**options)
        self.accuracy, self.mean, self.losses = MulticlassAccuracy(CLASSES), MeanMetric(), []

    def training_step(self, batch: Any, _index: int) -> Any:
        """The loss in a dict."""
        x, y = batch
        logits = self.network(x)
        loss = nn.functional.cross_entropy(logits, y) + 0.1 * self.mean(logits.square())
        accuracy = self.accuracy(logits, y)
        self.losses.append(loss.detach())
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log_dict({"accuracy": self.accuracy, "half": accuracy / 2, "noise": x.mean()}, on_step=True)
        for logger in self.loggers:
            logger.log_metrics({"direct": float(loss.detach())}, step=self.global_step)
        return {"loss": loss, "logits": logits.detach()}

    def on_train_epoch_end(self) -> None:
        """What the epoch's steps have left."""
        self.log("kept", float(len(self.losses)))
        self.log("mean", torch.stack(self.losses).mean())
        self.losses.clear()


def fit(module: lightning.LightningModule, *callbacks: Any, ckpt_path: str | None = None, **options: Any) -> Any:
    """A training on seven batches an epoch."""
    given = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, **QUIET, **options}
    trainer = lightning.Trainer(callbacks=list(callbacks), **given)
    loader = DataLoader(TensorDataset(*samples(BATCH * EPOCH)), BATCH, shuffle=True)
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    return trainer


def left_by(folder: Path, *callbacks: Any, faulty: bool = False, **options: Any) -> list[Any]:
    """All that two epochs of a busy training leave: on the module, in the optimizer, in the logs."""
    seed()
    module = Logging(busy=True, faulty=faulty)
    logger = CSVLogger(folder, name="", version="")
    trainer = fit(module, *callbacks, logger=logger, log_every_n_steps=1, max_epochs=2, **options)
    metrics: dict[str, Tensor] = {**trainer.callback_metrics, **trainer.logged_metrics}
    logged = (folder / "metrics.csv").read_text() if trainer.is_global_zero else ""
    return [*left_on(module), *left_on(module.network), trainer.optimizers[0].state_dict()["state"], metrics, logged]
