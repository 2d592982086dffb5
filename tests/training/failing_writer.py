"""A writer that fails."""

from gradguard import Report


class Failing:
    """A writer on a disk that is full for a while."""

    def __init__(self, *failing: int) -> None:
        self.failing, self.written = failing, list[int]()
        self.closed = 0

    def write(self, report: Report) -> None:
        """Record the step, or fail."""
        if report.step in self.failing:
            raise OSError(28, "No space left on device")
        self.written.append(report.step)

    def close(self) -> None:
        """Count."""
        self.closed += 1
