"""Runs as they were recorded: read back from their logs, told as a story, and laid out to be drawn."""
