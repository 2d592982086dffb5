"""What the checks of a training take over from the checks before, and what that tells of the next one."""

from gradguard.training.memory.declared import Followed
from gradguard.training.memory.rebinding import checksums, rebound_since
from gradguard.training.memory.state import CheckRequest, MonitorState

__all__ = ["CheckRequest", "Followed", "MonitorState", "checksums", "rebound_since"]
