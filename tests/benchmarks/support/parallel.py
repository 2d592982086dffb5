"""Work that several processes share."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(work: Callable[[Item], Result], items: Sequence[Item], processes: int, title: str) -> Iterator[Result]:
    """The results in the order of the items, with a progress bar.

    Args:
        work: A function that a new process can import.
        items: Its arguments, one a call.
        processes: How many share the calls; 1 makes the calls in this process.
        title: Of the progress bar.
    """
    with tqdm(total=len(items), desc=title, leave=False) as bar:
        for result in _mapped(work, items, processes):
            bar.update()
            yield result


def _mapped(work: Callable[[Item], Result], items: Sequence[Item], processes: int) -> Iterator[Result]:
    if min(processes, len(items)) <= 1:
        yield from map(work, items)
    else:
        # spawn, not fork: the threads of NumPy and PyTorch do not survive a fork
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            yield from pool.imap(work, items)
            pool.close()
            pool.join()  # workers that are terminated at once leave semaphores behind, with a warning
