"""Recorded runs, read back from event files and JSON lines and summarized."""
