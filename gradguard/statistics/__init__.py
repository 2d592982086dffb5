"""Statistics of numerical and backprop derivatives: pure functions over arrays."""
