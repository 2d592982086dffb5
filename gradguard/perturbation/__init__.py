"""Moving parameters while the loss is evaluated, and putting back all that a check disturbs, bit for bit."""
