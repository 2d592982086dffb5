"""The checks of a training in a row each: what a guard keeps in memory of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

from gradguard.report.results import Report
from gradguard.report.verdict import Verdict

Value = TypeVar("Value")

MAX_ROWS = 10_000
"""Rows of a history: those of a million steps at the default `every_n_steps=100`."""
MAX_CELLS = 2_000_000
"""Rows times tensors, about 32 megabytes."""


class Column(Mapping[str, Value], Generic[Value]):
    """A value for each tensor; the names are shared by all rows of a history."""

    __slots__ = ("_places", "_values")

    def __init__(self, places: Mapping[str, int], values: Sequence[Value]) -> None:
        self._places, self._values = places, values

    def __getitem__(self, name: str) -> Value:
        return self._values[self._places[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return repr(dict(self))


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """The summary of one check.

    Attributes:
        step: The training step.
        verdict: The gravest verdict of any tensor.
        verdicts: The verdict of each tensor.
        ratios: The ratio n/g of each tensor (n: numerical derivative, g: backprop).
        alarms: The tensors that a probe or the evidence accused at this check; those already known to be wrong are left
            out.
        evaluations: How often the check evaluated the loss.
        seconds: How long it took.
        is_change: Whether it has alerts, or finds other tensors wrong than the check before.
    """

    step: int
    verdict: Verdict
    verdicts: Mapping[str, Verdict]
    ratios: Mapping[str, float]
    alarms: tuple[str, ...]
    evaluations: int
    seconds: float
    is_change: bool = False


class Changes:
    """Tells the checks of a run that begin or end something from those that go on as before."""

    def __init__(self) -> None:
        self._wrong: set[str] | None = None  # None before the first check

    def is_change(self, report: Report) -> bool:
        """Whether the next check of the run has alerts, or finds other tensors wrong than the check before."""
        wrong = {name for name, tensor in report.tensors.items() if tensor.verdict.is_bug}
        before, self._wrong = self._wrong, wrong
        return bool(report.alerts) or wrong != before


class CheckHistory(Sequence[HistoryRow]):
    """A row for each check, oldest first.

    It is bounded: above `MAX_ROWS` rows, or `MAX_CELLS` rows times tensors, every second row of the older half is
    dropped, first of those without a change.
    """

    def __init__(self) -> None:
        self._rows: list[HistoryRow] = []
        self._places: dict[str, int] = {}
        self._changes = Changes()

    def add(self, report: Report, alarms: tuple[str, ...]) -> None:
        """Add the row of a check."""
        if list(self._places) != list(report.tensors):
            self._places = {name: place for place, name in enumerate(report.tensors)}
        tensors = report.tensors.values()
        self._rows.append(
            HistoryRow(
                step=report.step,
                verdict=report.verdict,
                verdicts=Column(self._places, tuple(tensor.verdict for tensor in tensors)),
                ratios=Column(self._places, tuple(tensor.ratio for tensor in tensors)),
                alarms=alarms,
                evaluations=report.evaluations,
                seconds=report.seconds,
                is_change=self._changes.is_change(report),
            )
        )
        if len(self._rows) > min(MAX_ROWS, max(2, MAX_CELLS // max(1, len(self._places)))):
            self._thin()

    def to_records(self) -> list[dict[str, Any]]:
        """The rows as flat dicts, for `pandas.DataFrame`: a column for the verdict and the ratio of each tensor."""
        return [
            {"step": row.step, "verdict": str(row.verdict), "evaluations": row.evaluations, "seconds": row.seconds}
            | {"alarms": ", ".join(row.alarms)}
            | {f"verdict/{name}": str(verdict) for name, verdict in row.verdicts.items()}
            | {f"ratio/{name}": ratio for name, ratio in row.ratios.items()}
            for row in self._rows
        ]

    def _thin(self) -> None:
        half = len(self._rows) // 2
        older = self._rows[:half]
        droppable = [row for row in older if not row.is_change]
        # Where nearly all rows are changes, they are dropped too, or the history would grow without end.
        dropped = droppable[1::2] if len(droppable) > half // 2 else older[1::2]
        ids = {id(row) for row in dropped}
        self._rows = [row for row in older if id(row) not in ids] + self._rows[half:]

    @overload
    def __getitem__(self, place: int) -> HistoryRow: ...
    @overload
    def __getitem__(self, place: slice) -> list[HistoryRow]: ...
    def __getitem__(self, place: int | slice) -> HistoryRow | list[HistoryRow]:
        return self._rows[place]

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"CheckHistory({self._rows!r})"
