"""The named causes of a wrong gradient, one family a file, and the registry that asks them in order."""
