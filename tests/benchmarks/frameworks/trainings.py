"""One training for each framework, with a guard or without. Its lines that mention the guard are those to attach it."""
# ruff: noqa: B023, D103 - a loss is called before its batch is replaced; the names of the functions say all

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.frameworks.batches import CONSTANTS, Batches


class Nobody:
    """In place of a guard: it does nothing."""

    def after_backward(self, *_args: Any, **_kwargs: Any) -> None:
        """As `TorchGuard`."""

    def before_step(self, *_args: Any) -> None:
        """As `JaxGuard`."""

    @contextmanager
    def micro_batch(self, loss: Callable[[], Any]) -> Iterator[Any]:
        """As `AccelerateGuard`."""
        yield loss()

    def close(self) -> None:
        """As all of them."""


def dataset(batches: Batches) -> Any:
    """The batches as a data set of PyTorch."""
    from torch.utils.data import IterableDataset

    class Data(IterableDataset):  # type: ignore[type-arg]  # of whatever the batches are
        def __iter__(self) -> Iterator[Any]:
            return iter(batches)

    return Data()


def train_torch(network: Any, batches: Batches, *, guarded: bool) -> Any:
    import torch
    from torch.nn.functional import cross_entropy

    from gradguard.integrations.torch import TorchGuard

    optimizer = torch.optim.Adam(network.parameters())
    guard = TorchGuard(network, optimizer, constants=CONSTANTS) if guarded else Nobody()
    for step, (x, y) in enumerate(batches):
        optimizer.zero_grad()
        loss = cross_entropy(network(x), y)
        loss.backward()
        guard.after_backward(step, lambda: cross_entropy(network(x), y), value=loss)
        optimizer.step()
    guard.close()
    return guard


def train_accelerate(network: Any, batches: Batches, *, guarded: bool) -> Any:
    import torch
    from accelerate import Accelerator
    from torch.nn.functional import cross_entropy

    from gradguard.integrations.accelerate import AccelerateGuard

    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(network, torch.optim.Adam(network.parameters()))
    guard = AccelerateGuard(accelerator, model, optimizer, constants=CONSTANTS) if guarded else Nobody()
    for x, y in batches:
        optimizer.zero_grad()
        with guard.micro_batch(lambda: cross_entropy(model(x), y)) as loss:
            accelerator.backward(loss)
        optimizer.step()
    guard.close()
    return guard


def train_lightning(network: Any, batches: Batches, *, guarded: bool) -> Any:
    import lightning
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader

    from gradguard.integrations.lightning import GradGuardCallback

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: Any, _index: int) -> Any:
            return cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.network.parameters())

    shown = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    guard = GradGuardCallback(constants=CONSTANTS) if guarded else lightning.Callback()
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", callbacks=[guard], **shown)
    trainer.fit(Module(), DataLoader(dataset(batches), batch_size=None))
    return guard


def train_transformers(network: Any, batches: Batches, *, guarded: bool) -> Any:
    from tempfile import mkdtemp

    from torch import nn
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from gradguard.integrations.transformers import GradGuardCallback

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Any, labels: Any) -> Any:
            logits = self.network(x)
            return {"loss": cross_entropy(logits, labels), "logits": logits}

    class OnBatches(Trainer):
        def get_train_dataloader(self) -> Any:
            return DataLoader(dataset(batches), batch_size=None)

    arguments = TrainingArguments(
        mkdtemp(), max_steps=batches.count, report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True
    )
    trainer = OnBatches(model=Model(), args=arguments, train_dataset=dataset(batches))
    guard = GradGuardCallback(trainer, constants=CONSTANTS) if guarded else TrainerCallback()
    trainer.add_callback(guard)
    trainer.train()
    return guard


def train_skorch(network: Any, batches: Batches, *, guarded: bool) -> Any:
    import torch
    from skorch import NeuralNet
    from skorch.callbacks import Callback
    from torch import nn

    from gradguard.integrations.skorch import GradGuardCallback

    guard = GradGuardCallback(constants=CONSTANTS) if guarded else Callback()
    options = {"lr": 1e-3, "max_epochs": 1, "batch_size": None, "train_split": None, "verbose": 0}
    net = NeuralNet(network, nn.CrossEntropyLoss, optimizer=torch.optim.Adam, callbacks=[guard], **options)
    net.fit(dataset(batches))
    return guard


def train_keras_on_torch(network: Any, batches: Batches, *, guarded: bool) -> Any:
    import keras

    from gradguard.integrations.keras import GradGuardCallback

    guard = GradGuardCallback(constants=CONSTANTS) if guarded else keras.callbacks.Callback()
    network.fit(iter(batches), verbose=0, callbacks=[guard])
    return guard


def train_keras_on_jax(network: Any, batches: Batches, *, guarded: bool) -> Any:
    import keras

    from gradguard.integrations.keras import GradGuardCallback

    guard = GradGuardCallback(batches.drawn(1), constants=CONSTANTS) if guarded else keras.callbacks.Callback()
    network.fit(iter(batches), verbose=0, callbacks=[guard])
    return guard


def train_jax(network: Any, batches: Batches, *, guarded: bool) -> Any:
    import jax
    import optax

    from gradguard.integrations.jax import JaxGuard

    def loss_fn(params: Any, x: Any, y: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(network.logits(params, x), y).mean()

    @jax.jit
    def train_step(params: Any, state: Any, x: Any, y: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    optimizer = optax.adam(1e-3)
    state = optimizer.init(network.params)
    guard = JaxGuard(loss_fn, constants=CONSTANTS) if guarded else Nobody()
    for step, (x, y) in enumerate(batches):
        guard.before_step(step, network.params, x, y)
        network.params, state, loss = train_step(network.params, state, x, y)
        loss.block_until_ready()  # as a training does that shows its loss
    guard.close()
    return guard
