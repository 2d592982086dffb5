"""The processes of a training while they check together: what they tell each other, and which of them is missing.

Everything goes through one small exchange, in which each rank tells where it is and a few numbers. A rank that fails
tells so in the same place, one that is somewhere else is seen, and one that does not come is named after a timeout.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from enum import IntEnum

import numpy as np
import torch
from torch import distributed
from torch.distributed import distributed_c10d

from gradguard.arrays.types import Float64

ANSWER_SECONDS = 10.0  # for a roll call, after a timeout
SAME_POINT = 1e-6  # relative distance of two moves that are meant to be one: ranks of different make round differently
WORDS = 2000  # characters of an error that other ranks are told
NOWHERE = (0.0, 0.0, 0.0)
ANYWHERE, ALONG = -1.0, -2.0  # what of a tensor is moved, where it is no single entry
_numbers = itertools.count()  # of the guards of a process; the same on all ranks

Rows = Float64
Point = tuple[float, float, float]


class Kind(IntEnum):
    """What is exchanged."""

    OPTIONS = 1
    TIME = 2
    CHECKSUMS = 3
    LOSS = 4
    PRODUCTS = 5
    SUM = 6


class Status(IntEnum):
    """How a rank is."""

    FINE = 0
    FAILED = 1
    LEAVING = 2


PLACES = {
    Kind.OPTIONS: "where the guard is made",
    Kind.TIME: "between its measurements",
    Kind.CHECKSUMS: "where gradients are compared",
    Kind.LOSS: "at a loss",
    Kind.PRODUCTS: "at a move",
    Kind.SUM: "at a sum",
}


class RankError(RuntimeError):
    """Another rank failed, went another way or did not come; the message names it and says what to do."""


class RankExchange:
    """The processes that check one training: `gradguard.training.ranks.Ranks`.

    Args:
        ranks: The global ranks of all of them, in the order of their group.
        timeout: Seconds to wait for the slowest.

    Attributes:
        ranks: As given.
        rank: The global rank of this process.
        is_first: Whether it is the first, which writes.
        point: Where this rank has moved to: which tensor, what of it, how far.
        before_check: What must hold on this rank before it checks; it raises what does not.

    Raises:
        RuntimeError: Not all of them have made theirs in that time.
    """

    def __init__(self, ranks: Sequence[int], timeout: float) -> None:
        self.ranks = tuple(ranks)
        self.rank = distributed.get_rank()
        self.is_first = self.rank == self.ranks[0]
        self._timeout = timeout
        self._store = distributed_c10d.PrefixStore(f"gradguard/{next(_numbers)}", distributed_c10d._get_default_store())
        self._group = self._made()
        self._origin, self._reading = time.perf_counter(), 0.0
        self.point = NOWHERE
        self._step = -1
        self._checks = self._exchanges = 0
        self._is_checking = False
        self._told: BaseException | None = None
        self._last_rows: tuple[torch.Tensor, ...] = ()
        self._lost = ""
        self.before_check: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self.ranks)

    def clock(self) -> float:
        """Seconds by the clock of the first rank: during a check it tells them, else as it told last."""
        if self._is_checking:
            self._reading = float(self.exchange(Kind.TIME, time.perf_counter() - self._origin)[0, 0])
        return self._reading

    @contextmanager
    def checking(self, step: int) -> Iterator[None]:
        """While all ranks check this step; an error that ends it on one of them ends it on all."""
        self._step, self._told = step, None
        self._checks += 1
        try:
            self.before_check()
        except BaseException as error:  # the others may not come here at all, and are not waited for
            self._leave_word(error)
            raise
        self._is_checking = True
        try:
            yield
        except BaseException as error:
            if error is not self._told and not isinstance(error, RankError):
                self.announce_failure(error)
            raise
        finally:
            self._is_checking = False

    def announce_failure(self, error: BaseException) -> None:
        """Tell the others that this rank has failed; it goes on to raise the error.

        They may wait for it elsewhere, in a forward pass that gathers parameters, and are not waited for as long.
        """
        self._told = error
        self._leave_word(error)
        status = Status.FAILED if isinstance(error, Exception) else Status.LEAVING
        with suppress(RankError, RuntimeError):
            _, work = self._begun(status, Kind.LOSS, NOWHERE, (0.0, 0.0))
            work.wait(timedelta(seconds=min(ANSWER_SECONDS, self._timeout)))

    def failed_elsewhere(self) -> "RankError | None":
        """What another rank has left word of in this check, as an error."""
        failed = [rank for rank in self.ranks if rank != self.rank and self._word_of(rank)]
        return RankError(self._failure(failed)) if failed else None

    def exchange(self, kind: Kind, *values: float, point: Point = NOWHERE) -> Rows:
        """Two numbers of each rank, shape (ranks, 2): the same on all of them, to the bit.

        Args:
            kind: What they are.
            *values: This rank's.
            point: Where this rank has moved to.

        Raises:
            PeerError: A rank has failed, is somewhere else, or does not come.
        """
        rows = self._gathered(Status.FINE, kind, point, (*values, 0.0, 0.0)[:2])
        failed = np.flatnonzero(rows[:, 0] != Status.FINE)
        if failed.size:
            says = self._failure([self.ranks[i] for i in failed])
            if (rows[failed, 0] == Status.LEAVING).any():
                self._lost = says
            raise RankError(says)
        astray = ~np.isclose(rows[:, 1:6], rows[0, 1:6], rtol=SAME_POINT, atol=0).all(axis=1)
        if astray.any():
            self._lost = self._divergence(rows, int(np.flatnonzero(astray)[0]))
            raise RankError(self._lost)
        return np.asarray(rows[:, 6:])

    def sum(self, values: Float64) -> Float64:
        """The sums over the ranks, shape as given, the same on all of them to the bit."""
        if values.size <= 2:
            rows = self.exchange(Kind.SUM, *(float(value) for value in values.flat), point=self.point)
            return np.asarray(rows[:, : values.size].sum(axis=0).reshape(values.shape))
        self.exchange(Kind.SUM, values.size)
        total = torch.as_tensor(values).clone()
        self._transferred(lambda: distributed.all_reduce(total, group=self._group), Kind.SUM)
        return np.asarray(total.numpy())

    def gather(self, values: Float64) -> Float64:
        """The numbers of each rank, shape (ranks, n)."""
        self.exchange(Kind.SUM, values.size)
        row = torch.as_tensor(values).clone()
        rows = [torch.empty_like(row) for _ in self.ranks]
        self._transferred(lambda: distributed.all_gather(rows, row, group=self._group), Kind.SUM)
        return np.asarray(torch.stack(rows).numpy())

    def differing(self, kind: Kind, value: float) -> list[int]:
        """The ranks whose number is another than that of most; all of them, where no number is that of most."""
        values = self.exchange(kind, value)[:, 0]
        found, places, counts = np.unique(values, return_inverse=True, return_counts=True)
        if found.size == 1:
            return []
        usual = np.flatnonzero(counts == counts.max())
        return [rank for rank, place in zip(self.ranks, places, strict=True) if usual.size > 1 or place != usual[0]]

    def _made(self) -> distributed.ProcessGroup:
        """A group of the same processes for what they tell each other: on the host, with a timeout of its own."""
        wait = timedelta(seconds=self._timeout)
        try:
            group: distributed.ProcessGroup = distributed.new_group(
                list(self.ranks), timeout=wait, backend="gloo", use_local_synchronization=True
            )
        except RuntimeError as error:
            raise RuntimeError(
                f"not all of {named(self.ranks)} made their TorchGuard within {self._timeout:g} s; make it on every "
                "rank, not on the first alone: it writes there alone by itself"
            ) from error
        return group

    def _gathered(self, status: Status, kind: Kind, point: Point, values: Sequence[float]) -> Rows:
        """What each rank tells: status, kind, step, point, values; shape (ranks, 8)."""
        rows: list[torch.Tensor] = []

        def transfer() -> None:
            told, work = self._begun(status, kind, point, values)
            work.wait()
            rows.extend(told)

        self._transferred(transfer, kind)
        return np.asarray(torch.stack(rows).numpy())

    def _begun(
        self, status: Status, kind: Kind, point: Point, values: Sequence[float]
    ) -> tuple[list[torch.Tensor], distributed.Work]:
        """The rows of all ranks, once the work is done."""
        if self._lost:
            raise RankError(self._lost)
        self._exchanges += 1
        row = torch.tensor([status, kind, self._step, *point, *values], dtype=torch.float64)
        rows = [torch.empty_like(row) for _ in self.ranks]
        # Gloo's thread lets go of tensors a moment after they are told: were it the last to hold one, it would want
        # the interpreter for that, and at a program's end there is none.
        self._last_rows = (row, *rows)
        return rows, distributed.all_gather(rows, row, group=self._group, async_op=True)

    def _transferred(self, transfer: Callable[[], object], kind: Kind) -> None:
        try:
            transfer()
        except RankError:
            raise
        except RuntimeError as error:  # a timeout, or a connection that was closed
            self._lost = self._absence(kind)
            raise RankError(self._lost) from error

    def _leave_word(self, error: BaseException) -> None:
        """Write down what is wrong with this rank, for the others to read."""
        with suppress(RuntimeError):
            self._store.set(f"failed/{self._checks}/{self.rank}", f"{type(error).__name__}: {error}"[:WORDS])

    def _word_of(self, rank: int) -> str:
        key = f"failed/{self._checks}/{rank}"
        with suppress(RuntimeError):
            if self._store.check([key]):
                return str(self._store.get(key).decode())
        return ""

    def _failure(self, failed: Sequence[int]) -> str:
        words = next((word for word in map(self._word_of, failed) if word), "see its log")
        return (
            f"{named(failed)} failed in the check of step {self._step}: {words}; the parameters of this rank "
            f"({self.rank}) are as they were"
        )

    def _divergence(self, rows: Rows, astray: int) -> str:
        where, first = (
            f"{PLACES[Kind(int(row[1]))]} of step {int(row[2])}, moved by {row[5]:.6g}" for row in rows[[astray, 0]]
        )
        return (
            f"rank {self.ranks[astray]} and rank {self.ranks[0]} do not check alike: one is {where}, the other {first};"
            " call after_backward on every rank at the same steps and with the same options, on the same software"
        )

    def _absence(self, kind: Kind) -> str:
        """Who does not come, in words; whoever waits here answers a roll call, by way of the store."""
        absent, words = self._absent(), ""
        for rank in absent or self.ranks:
            words = words or self._word_of(rank)
        if words:
            return self._failure([rank for rank in absent or self.ranks if self._word_of(rank)])
        who = named(absent) if absent else f"one of {named(self.ranks)}"
        return (
            f"{who} did not come within {self._timeout:g} s in the check of step {self._step}, where this rank "
            f"({self.rank}) was {PLACES[kind]}; it has ended, hangs, or does not call after_backward at this step; "
            "look at its log, and give TorchGuard a longer timeout= if it only takes long; the parameters here are as "
            "they were"
        )

    def _absent(self) -> list[int]:
        keys = {rank: f"here/{self._exchanges}/{rank}" for rank in self.ranks}
        with suppress(RuntimeError):
            self._store.set(keys[self.rank], "")
            with suppress(RuntimeError):
                self._store.wait(list(keys.values()), timedelta(seconds=min(ANSWER_SECONDS, self._timeout)))
            return [rank for rank, key in keys.items() if not self._store.check([key])]
        return []


def named(ranks: Sequence[int]) -> str:
    """Some ranks in words: rank 1, or ranks 0, 1 and 2."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def among(differing: Sequence[int], ranks: Sequence[int]) -> str:
    """What it is that differs among ranks, in words that go after its name."""
    if len(differing) == len(ranks):
        return f"of {named(ranks)} differ from each other"
    return f"of {named(differing)} are not those of the other ranks"
