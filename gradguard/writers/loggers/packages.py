"""The packages of experiment trackers, which are extras of gradguard."""

import importlib
from typing import Any


def tracker_package(name: str, extra: str) -> Any:
    """The package of a tracker.

    Args:
        name: The name that it is imported by.
        extra: The extra of gradguard that installs it.

    Raises:
        ImportError: It is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:  # it is installed, and lacks a package of its own
            raise
        raise ImportError(f"the package {name} is not installed; pip install 'gradguard[{extra}]'") from error
