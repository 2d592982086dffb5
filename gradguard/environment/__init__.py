"""What the user's code runs in and can reach: NumPy's error settings, interruptions, state beside the parameters."""

from gradguard.environment.held import checksum
from gradguard.environment.interruptions import SignalHandlers, is_interruption, on_exception
from gradguard.environment.numpy_errors import own_numerics, user_settings
from gradguard.environment.reach import Place
from gradguard.environment.state import NotPutBackError, ReachedState
from gradguard.environment.tracebacks import with_short_traceback

__all__ = [
    "NotPutBackError",
    "Place",
    "ReachedState",
    "SignalHandlers",
    "checksum",
    "is_interruption",
    "on_exception",
    "own_numerics",
    "user_settings",
    "with_short_traceback",
]
