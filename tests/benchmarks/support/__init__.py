"""Helpers that several benchmarks share; no benchmark lives here."""
