"""What a check returns: verdicts and results as values, and how they become text and plain data."""
