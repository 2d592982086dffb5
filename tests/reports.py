"""What the fixtures of `conftest` are: makers of reports, and a script that runs beside them."""

import subprocess
from collections.abc import Callable
from typing import TypeAlias

from gradguard import Report, TensorReport

MakeTensor: TypeAlias = Callable[..., TensorReport]
MakeReport: TypeAlias = Callable[..., Report]
RunScript: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]
