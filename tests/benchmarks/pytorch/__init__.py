"""PyTorch: the same questions for TorchGuard."""
