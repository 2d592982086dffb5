"""The time that a loss takes, recorded where no check puts it back."""

from recorder import Recorder


class Spent:
    """The seconds of the evaluations of a loss."""

    def __init__(self) -> None:
        self._seconds = Recorder()

    def add(self, seconds: float) -> None:
        """Record one evaluation."""
        self._seconds.append(seconds)

    def taken(self) -> float:
        """The seconds since this was last asked."""
        seconds = sum(self._seconds)
        self._seconds.clear()
        return seconds
