"""A progress bar for checks that take long."""

import sys
from threading import Lock, Timer
from types import TracebackType
from typing import Any, Self

BAR_AFTER = 0.7  # seconds: a bar that flashes by helps nobody, and without one a longer wait looks like a hang


class EvaluationBar:
    """Counts evaluations of the loss, with a bar on a terminal once a check takes longer than `BAR_AFTER`.

    A timer draws the bar, since the first evaluation of a slow loss may take longer than that.

    Args:
        title: The text before the bar.
        shown: Whether a bar may be drawn.
    """

    def __init__(self, title: str, *, shown: bool = True) -> None:
        self._title = title
        self._timer = Timer(BAR_AFTER, self._draw) if shown and sys.stderr.isatty() else None
        self._lock = Lock()
        self._done = 0
        self._is_over = False
        self._bar: Any = None

    def add(self, evaluations: int) -> None:
        """Count some evaluations."""
        self._done += evaluations
        if self._bar is not None:
            self._bar.update(evaluations)

    def _draw(self) -> None:
        from tqdm import tqdm  # type: ignore[import-untyped]  # no types; not imported where all goes fast

        with self._lock:
            if not self._is_over:
                self._bar = tqdm(initial=self._done, desc=self._title, unit=" evaluations", leave=False)

    def __enter__(self) -> Self:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is None:
            return
        self._timer.cancel()
        with self._lock:
            self._is_over = True
            if self._bar is not None:
                self._bar.close()
