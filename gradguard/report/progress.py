"""A bar for what takes long."""

import time
from collections.abc import Iterator, Sequence

SLOW = 1.5  # seconds, from which a person wonders


def with_bar(groups: Sequence[Sequence[str]], title: str, *, shown: bool = True) -> Iterator[Sequence[str]]:
    """Groups of tensors in their order, with a bar on a terminal once they take longer than a second or two."""
    started, bar, done = time.perf_counter(), None, 0
    for names in groups:
        if shown and bar is None and done and time.perf_counter() - started > SLOW:
            from tqdm import tqdm  # type: ignore[import-untyped]  # no types; not imported where all goes fast

            total = sum(map(len, groups))
            bar = tqdm(total=total, initial=done, desc=title, unit="tensor", leave=False, disable=None)
        yield names
        done += len(names)
        if bar is not None:
            bar.update(len(names))
    if bar is not None:
        bar.close()
