"""A progress bar for checks that take long."""

import time
from collections.abc import Iterator, Sequence

BAR_AFTER = 1.5  # seconds: a bar that flashes by helps nobody, and without one a longer wait looks like a hang


def with_bar(groups: Sequence[Sequence[str]], title: str, *, shown: bool = True) -> Iterator[Sequence[str]]:
    """Yields groups of tensors in their order, with a bar on a terminal once they take longer than BAR_AFTER.

    Args:
        groups: Names of tensors, one group after the other.
        title: What stands before the bar.
        shown: Whether a bar may be drawn.
    """
    started, bar, done = time.perf_counter(), None, 0
    for names in groups:
        if shown and bar is None and done and time.perf_counter() - started > BAR_AFTER:
            from tqdm import tqdm  # type: ignore[import-untyped]  # no types; not imported where all goes fast

            total = sum(map(len, groups))
            bar = tqdm(total=total, initial=done, desc=title, unit="tensor", leave=False, disable=None)
        yield names
        done += len(names)
        if bar is not None:
            bar.update(len(names))
    if bar is not None:
        bar.close()
