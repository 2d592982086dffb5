"""PyTorch 2.6 or newer: `TorchGuard` checks the gradients of a module, hand-written backward passes included."""

from gradguard.integrations.torch.guard import TorchGuard

__all__ = ["TorchGuard"]
