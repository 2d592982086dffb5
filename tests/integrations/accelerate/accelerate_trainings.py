"""What the tests of the Accelerate guard train: a loop of one's own."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from busy_network import BATCH, Network, left_on, samples, seed
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradguard.integrations.accelerate import AccelerateGuard

BATCHES = 7
"""Of an epoch: accumulated by three, the last window has one."""


class Loop:
    """An accelerator, and what it has prepared."""

    def __init__(self, *, accumulation: int = 1, mixed_precision: str = "no", **network: bool) -> None:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        seed()
        self.accelerator = Accelerator(
            cpu=True, gradient_accumulation_steps=accumulation, mixed_precision=mixed_precision
        )
        model = Network(**network)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        loader = DataLoader(TensorDataset(*samples(BATCH * BATCHES)), BATCH, shuffle=True)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(model, optimizer, loader)
        self.seen: list[Tensor] = []

    def train(self, guard: AccelerateGuard | None = None, epochs: int = 1) -> None:
        """Some epochs, whose losses and norms are kept."""
        for _ in range(epochs):
            for x, y in self.loader:
                self.step(x, y, lambda loss: nullcontext(loss()) if guard is None else guard.micro_batch(loss))

    def step(self, x: Tensor, y: Tensor, block: Callable[..., Any]) -> None:
        """One batch."""
        with self.accelerator.accumulate(self.model):
            with block(lambda: nn.functional.cross_entropy(self.model(x), y)) as loss:
                self.accelerator.backward(loss)
            self.seen.append(loss.detach())
            if self.accelerator.sync_gradients:
                self.seen.append(self.accelerator.clip_grad_norm_(self.model.parameters(), 1e-2))
            self.optimizer.step()
            self.optimizer.zero_grad()

    def left(self) -> list[Any]:
        """All that the training has left."""
        network = self.accelerator.unwrap_model(self.model)
        names = [sorted(vars(each)) for each in (self.model, self.optimizer, self.accelerator)]
        return [*left_on(network), self.optimizer.state_dict()["state"], self.seen, names]
