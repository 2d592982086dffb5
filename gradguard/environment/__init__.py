"""What the user's code runs in and can reach: NumPy's error settings, interruptions, state beside the parameters."""

from gradguard.environment.held import HeldArray, HeldDict, Restorable, checksum, held_container
from gradguard.environment.interruptions import SignalHandlers, is_interruption, on_exception
from gradguard.environment.numpy_errors import own_numerics, user_settings
from gradguard.environment.reach import Place
from gradguard.environment.state import NotPutBackError, ReachedState
from gradguard.environment.tracebacks import with_short_traceback

__all__ = [
    "HeldArray",
    "HeldDict",
    "NotPutBackError",
    "Place",
    "ReachedState",
    "Restorable",
    "SignalHandlers",
    "checksum",
    "held_container",
    "is_interruption",
    "on_exception",
    "own_numerics",
    "user_settings",
    "with_short_traceback",
]
