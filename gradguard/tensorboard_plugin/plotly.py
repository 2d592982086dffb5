"""The plotly library that draws the charts, if it is installed; this package contains no part of it."""

import importlib.util
from pathlib import Path

INSTALL = "pip install 'gradguard[tab]'"


def script() -> Path | None:
    """The path of the script in the installed plotly package; None if there is none."""
    try:
        spec = importlib.util.find_spec("plotly")
    except (ImportError, ValueError):  # a broken installation
        return None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "package_data" / "plotly.min.js"
    return path if path.is_file() else None
