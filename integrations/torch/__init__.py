"""PyTorch 2.6 or newer: `TorchGuard` checks the gradients of a module, hand-written backward passes included."""

from gradguard.integrations.torch.guard import TorchGuard
from gradguard.integrations.torch.module_check import check_module

__all__ = ["TorchGuard", "check_module"]
