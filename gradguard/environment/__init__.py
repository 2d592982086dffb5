"""What the user's code runs in: NumPy's error settings, and what may interrupt it."""

from gradguard.environment.interruptions import SignalHandlers, is_interruption
from gradguard.environment.numpy_errors import own_numerics, user_settings

__all__ = ["SignalHandlers", "is_interruption", "own_numerics", "user_settings"]
