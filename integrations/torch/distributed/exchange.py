"""The exchange of numbers between the ranks of one check, and errors that name the rank that failed or is missing.

Everything goes through one small all-gather, in which each rank sends its status, its place in the check and two
numbers. So every rank sees at once that another has failed or is at a different place; one that does not come is named
after a timeout.
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

from gradguard.arrays import Float64
from gradguard.integrations.torch.distributed.points import UNPERTURBED, Perturbations, Point

ANSWER_SECONDS = 10.0
"""Time for an answer once something is wrong: to a failure that is announced, and to the roll call after a timeout."""
POINT_TOLERANCE = 1e-6
"""Relative distance of two displacements that should be equal: different processors round differently."""
MAX_ERROR_CHARACTERS = 2000
"""Length to which an error is cut for the other ranks."""

Rows = Float64
"""Numbers of each rank, shape (ranks, n)."""

_guard_numbers = itertools.count()  # of the guards in a process: the same on all ranks


class ExchangeKind(IntEnum):
    """The purpose of an exchange."""

    OPTIONS = 1
    TIME = 2
    CHECKSUMS = 3
    LOSS = 4
    SUM = 5


class RankStatus(IntEnum):
    """Whether a rank continues with the check."""

    OK = 0
    FAILED = 1
    LEAVING = 2  # a failure by an interrupt, after which the rank takes part in no further check


PLACES = {
    ExchangeKind.OPTIONS: "where the guard is made",
    ExchangeKind.TIME: "between its measurements",
    ExchangeKind.CHECKSUMS: "where gradients are compared",
    ExchangeKind.LOSS: "at a loss",
    ExchangeKind.SUM: "at a sum",
}
"""Where in a check each kind of exchange takes place, for messages."""


class RankError(RuntimeError):
    """Another rank failed, is at a different place in the check or did not come; the message says which and why."""


class RankExchange:
    """The processes of one training: `gradguard.training.ranks.Ranks`.

    Args:
        ranks: The global ranks of all processes, in the order of their group.
        timeout: Seconds to wait for the slowest rank.

    Attributes:
        ranks: As given.
        rank: The global rank of this process.
        is_first: Whether it is the first rank, which writes.
        perturbations: The tensors that this rank has perturbed.
        before_check: Called before each check; it raises where this rank cannot take part.

    Raises:
        RuntimeError: Not every rank has made its exchange within the timeout.
    """

    def __init__(self, ranks: Sequence[int], timeout: float) -> None:
        self.ranks = tuple(ranks)
        self.rank = distributed.get_rank()
        self.is_first = self.rank == self.ranks[0]
        self._timeout = timeout
        self._store = distributed_c10d.PrefixStore(
            f"gradguard/{next(_guard_numbers)}", distributed_c10d._get_default_store()
        )
        self._group = self._make_group()
        self._origin, self._reading = time.perf_counter(), 0.0
        self.perturbations = Perturbations()
        self._step = -1
        self._checks = self._exchanges = 0
        self._is_checking = False
        self._announced: BaseException | None = None
        self._last_rows: tuple[torch.Tensor, ...] = ()
        self._broken = ""  # why no further exchange is possible
        self.before_check: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self.ranks)

    def clock(self) -> float:
        """Seconds by the clock of the first rank; between checks, the last reading."""
        if self._is_checking:
            self._reading = float(self.exchange(ExchangeKind.TIME, time.perf_counter() - self._origin)[0, 0])
        return self._reading

    @contextmanager
    def checking(self, step: int) -> Iterator[None]:
        """The context in which all ranks check this step; an error that ends it on one rank ends it on all."""
        self._step, self._announced = step, None
        self.perturbations.clear()
        self._checks += 1
        try:
            self.before_check()
        except BaseException as error:  # no exchange: the other ranks may not check at this step
            self._store_failure(error)
            raise
        self._is_checking = True
        try:
            yield
        except BaseException as error:
            if error is not self._announced and not isinstance(error, RankError):
                self.announce_failure(error)
            raise
        finally:
            self._is_checking = False

    def announce_failure(self, error: BaseException) -> None:
        """Send the other ranks the failure of this one, which then raises the error.

        It waits for them only a little: they may be waiting for this rank in a forward pass that gathers parameters.
        """
        self._announced = error
        self._store_failure(error)
        status = RankStatus.FAILED if isinstance(error, Exception) else RankStatus.LEAVING
        with suppress(RankError, RuntimeError):
            _, work = self._start_gather(status, ExchangeKind.LOSS, UNPERTURBED, (0.0, 0.0))
            work.wait(timedelta(seconds=min(ANSWER_SECONDS, self._timeout)))

    def failure_of_another_rank(self) -> "RankError | None":
        """The error that another rank has stored in this check; None where none has."""
        failed = [rank for rank in self.ranks if rank != self.rank and self._stored_failure(rank)]
        return RankError(self._failure_message(failed)) if failed else None

    def exchange(self, kind: ExchangeKind, *values: float, point: Point = UNPERTURBED) -> Rows:
        """Up to two numbers of each rank, shape (ranks, 2): the same on all ranks, bit for bit.

        Args:
            kind: What the numbers are.
            *values: The numbers of this rank.
            point: Where this rank has perturbed the parameters.

        Raises:
            RankError: A rank has failed, is at a different place in the check, or does not come.
        """
        rows = self._gather_rows(RankStatus.OK, kind, point, (*values, 0.0, 0.0)[:2])
        failed = np.flatnonzero(rows[:, 0] != RankStatus.OK)
        if failed.size:
            message = self._failure_message([self.ranks[i] for i in failed])
            if (rows[failed, 0] == RankStatus.LEAVING).any():
                self._broken = message
            raise RankError(message)
        differs = ~np.isclose(rows[:, 1:6], rows[0, 1:6], rtol=POINT_TOLERANCE, atol=0).all(axis=1)
        if differs.any():
            self._broken = self._divergence_message(rows, int(np.flatnonzero(differs)[0]))
            raise RankError(self._broken)
        return np.asarray(rows[:, 6:])

    def sum(self, values: Float64) -> Float64:
        """The sums over the ranks, of the shape of `values`: the same on all ranks, bit for bit."""
        if values.size <= 2:
            numbers = (float(value) for value in values.flat)
            rows = self.exchange(ExchangeKind.SUM, *numbers, point=self.perturbations.point)
            return np.asarray(rows[:, : values.size].sum(axis=0).reshape(values.shape))
        self.exchange(ExchangeKind.SUM, values.size, point=self.perturbations.point)
        total = torch.as_tensor(values).clone()
        self._transfer(lambda: distributed.all_reduce(total, group=self._group), ExchangeKind.SUM)
        return np.asarray(total.numpy())

    def gather(self, values: Float64) -> Float64:
        """The numbers of each rank, shape (ranks, n), from this rank's, shape (n,)."""
        self.exchange(ExchangeKind.SUM, values.size)
        row = torch.as_tensor(values).clone()
        rows = [torch.empty_like(row) for _ in self.ranks]
        self._transfer(lambda: distributed.all_gather(rows, row, group=self._group), ExchangeKind.SUM)
        return np.asarray(torch.stack(rows).numpy())

    def differing(self, kind: ExchangeKind, value: float) -> list[int]:
        """The ranks whose number is not the most common one; all ranks where no number is more common than others."""
        values = self.exchange(kind, value)[:, 0]
        distinct, indices, counts = np.unique(values, return_inverse=True, return_counts=True)
        if distinct.size == 1:
            return []
        usual = np.flatnonzero(counts == counts.max())
        return [rank for rank, index in zip(self.ranks, indices, strict=True) if usual.size > 1 or index != usual[0]]

    def _make_group(self) -> distributed.ProcessGroup:
        """A gloo group of the same processes: its transfers stay on the hosts and have a timeout of their own."""
        wait = timedelta(seconds=self._timeout)
        try:
            group: distributed.ProcessGroup = distributed.new_group(
                list(self.ranks), timeout=wait, backend="gloo", use_local_synchronization=True
            )
        except RuntimeError as error:
            raise RuntimeError(
                f"not all of {join_ranks(self.ranks)} made their TorchGuard within {self._timeout:g} s; make it on "
                "every rank, not on the first alone: it writes there alone by itself"
            ) from error
        return group

    def _gather_rows(self, status: RankStatus, kind: ExchangeKind, point: Point, values: Sequence[float]) -> Rows:
        """Status, kind, step, point (3) and values (2) of each rank, shape (ranks, 8)."""
        rows: list[torch.Tensor] = []

        def gather() -> None:
            gathered, work = self._start_gather(status, kind, point, values)
            work.wait()
            rows.extend(gathered)

        self._transfer(gather, kind)
        return np.asarray(torch.stack(rows).numpy())

    def _start_gather(
        self, status: RankStatus, kind: ExchangeKind, point: Point, values: Sequence[float]
    ) -> tuple[list[torch.Tensor], distributed.Work]:
        """The rows of all ranks, which are filled in once the returned work is done."""
        if self._broken:
            raise RankError(self._broken)
        self._exchanges += 1
        row = torch.tensor([status, kind, self._step, *point, *values], dtype=torch.float64)
        rows = [torch.empty_like(row) for _ in self.ranks]
        # Kept, since gloo's thread drops its references a moment after the transfer: dropping the last one needs the
        # interpreter, which is gone at the end of a program.
        self._last_rows = (row, *rows)
        return rows, distributed.all_gather(rows, row, group=self._group, async_op=True)

    def _transfer(self, transfer: Callable[[], object], kind: ExchangeKind) -> None:
        """Run a transfer.

        Raises:
            RankError: It failed; the message names the ranks that are missing.
        """
        try:
            transfer()
        except RankError:
            raise
        except RuntimeError as error:  # a timeout, or a connection that was closed
            self._broken = self._absence_message(kind)
            raise RankError(self._broken) from error

    def _store_failure(self, error: BaseException) -> None:
        """Write the error of this rank to the store, for the other ranks to read."""
        with suppress(RuntimeError):
            self._store.set(
                f"failed/{self._checks}/{self.rank}", f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARACTERS]
            )

    def _stored_failure(self, rank: int) -> str:
        """The error that a rank has stored in this check, or ""."""
        key = f"failed/{self._checks}/{rank}"
        with suppress(RuntimeError):
            if self._store.check([key]):
                return str(self._store.get(key).decode())
        return ""

    def _failure_message(self, failed: Sequence[int]) -> str:
        reason = next((stored for stored in map(self._stored_failure, failed) if stored), "see its log")
        return (
            f"{join_ranks(failed)} failed in the check of step {self._step}: {reason}; the parameters of this rank "
            f"({self.rank}) are as they were"
        )

    def _divergence_message(self, rows: Rows, differing: int) -> str:
        where, first = (
            f"{PLACES[ExchangeKind(int(row[1]))]} of step {int(row[2])}, moved by {row[5]:.6g}"
            for row in rows[[differing, 0]]
        )
        return (
            f"rank {self.ranks[differing]} and rank {self.ranks[0]} do not check alike: one is {where}, the other "
            f"{first}; call after_backward on every rank at the same steps and with the same options, on the same "
            "software"
        )

    def _absence_message(self, kind: ExchangeKind) -> str:
        """Why a transfer failed: the ranks that have stored an error, or else those that do not answer a roll call."""
        absent = self._absent_ranks()
        failed = [rank for rank in absent or self.ranks if self._stored_failure(rank)]
        if failed:
            return self._failure_message(failed)
        who = join_ranks(absent) if absent else f"one of {join_ranks(self.ranks)}"
        return (
            f"{who} did not come within {self._timeout:g} s in the check of step {self._step}, where this rank "
            f"({self.rank}) was {PLACES[kind]}.\n"
            "It has ended, hangs, or does not call after_backward at this step: look at its log, and pass TorchGuard "
            "a longer timeout= if it is only slow; the parameters here are restored"
        )

    def _absent_ranks(self) -> list[int]:
        """The ranks that do not answer a roll call through the store."""
        keys = {rank: f"here/{self._exchanges}/{rank}" for rank in self.ranks}
        with suppress(RuntimeError):
            self._store.set(keys[self.rank], "")
            with suppress(RuntimeError):
                self._store.wait(list(keys.values()), timedelta(seconds=min(ANSWER_SECONDS, self._timeout)))
            return [rank for rank, key in keys.items() if not self._store.check([key])]
        return []


def join_ranks(ranks: Sequence[int]) -> str:
    """Ranks in words, such as "rank 1" or "ranks 0, 1 and 2"."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def describe_difference(differing: Sequence[int], ranks: Sequence[int]) -> str:
    """How something differs between ranks, to follow its name, such as "of rank 1 are not those of the other ranks".

    Args:
        differing: What `RankExchange.differing` returned.
        ranks: All ranks.
    """
    if len(differing) == len(ranks):
        return f"of {join_ranks(ranks)} differ from each other"
    return f"of {join_ranks(differing)} are not those of the other ranks"
