"""Sweeps over step sizes: how well gradients agree with two-point differences of the loss at each step."""
