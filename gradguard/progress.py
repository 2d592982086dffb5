"""A bar for what takes long."""

import time
from collections.abc import Iterator, Sequence

SLOW = 1.5  # seconds, from which a person wonders


def with_bar(names: Sequence[str], title: str, *, shown: bool = True) -> Iterator[str]:
    """The names of tensors in their order, with a bar on a terminal once they take longer than a second or two."""
    started, bar = time.perf_counter(), None
    for done, name in enumerate(names):
        if shown and bar is None and done and time.perf_counter() - started > SLOW:
            from tqdm import tqdm  # type: ignore[import-untyped]  # no types; not imported where all goes fast

            bar = tqdm(total=len(names), initial=done, desc=title, unit="tensor", leave=False, disable=None)
        yield name
        if bar is not None:
            bar.update()
    if bar is not None:
        bar.close()
