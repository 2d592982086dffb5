"""What the last checks of a run looked at, and of which tensors they cannot tell."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from gradguard.report import Verdict
from gradguard.screening.reports import SUSPECTED, UNSCREENED
from gradguard.writers.record import LAST_CHECKS, Record


@dataclass(frozen=True, slots=True)
class Coverage:
    """The tensors of the last check of a run, by what the last checks say of them.

    Attributes:
        last: The steps of the last checks, `LAST_CHECKS` of them at most.
        tensors: All tensors.
        suspected: Tensors whose probe alarmed at the last check, which had no time to look at them more closely.
        unseen: Tensors that none of the last checks screened or measured.
        unjudged: Other tensors that none of the last checks found right or wrong.
        expected: Tensors that differ as the user declared.
    """

    last: tuple[int, ...] = ()
    tensors: tuple[str, ...] = ()
    suspected: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether the last checks found every tensor right, or wrong."""
        return not (self.suspected or self.unseen or self.unjudged)


def coverage_of(records: Sequence[Record], wrong: Collection[str]) -> Coverage:
    """What the last checks of a run say.

    Args:
        records: The checks as `read_check` returns them, with rising steps, the last one of the run among them.
        wrong: The tensors that are known to be wrong: their verdict stands until a check finds them right.
    """
    last = last_steps(records)
    right = last_right(records)
    tensors = records[-1]["tensors"]
    told = {*wrong, *(name for name, tensor in tensors.items() if is_as_declared(tensor))}
    in_doubt = {name: tensor for name, tensor in tensors.items() if name not in told}
    suspected = [name for name, tensor in in_doubt.items() if tensor["cause_key"] == SUSPECTED]
    left = [name for name in in_doubt if name not in suspected and right.get(name) not in last]
    unseen = [name for name in left if not _was_seen(name, records, last)]
    unjudged = [name for name in left if name not in unseen]
    expected = [name for name in tensors if name not in wrong and tensors[name]["verdict"] == Verdict.expected]
    return Coverage(last, tuple(tensors), tuple(suspected), tuple(unseen), tuple(unjudged), tuple(expected))


def last_steps(records: Sequence[Record]) -> tuple[int, ...]:
    """The steps of the last checks of a run."""
    steps = records[-1]["last"] or [record["step"] for record in records]
    return tuple(steps[-LAST_CHECKS:])


def last_right(records: Sequence[Record]) -> dict[str, int]:
    """The step of the last check that found each tensor right; without those that none did."""
    right: dict[str, int] = {}
    for record in records:
        right |= record["right"]
        if record["checks"] is None:  # a record without the history of its run
            right |= {name: record["step"] for name, one in record["tensors"].items() if _is_right(one, record["step"])}
    return right


def looked_at(tensor: Mapping[str, object], step: int) -> bool:
    """Whether a check at this step screened or measured the tensor, from the record of it."""
    return step in (tensor["measured_at"], tensor["screened_at"])


def has_verdict_of(tensor: Mapping[str, object], step: int) -> bool:
    """Whether the verdict is of this step, as `TensorReport.has_verdict_of` says."""
    return looked_at(tensor, step) or _is_undated(tensor)


def is_as_declared(tensor: Mapping[str, object]) -> bool:
    """Whether a tensor may differ and is no bug: it is looked at in turn only, and nothing is promised of it."""
    known = Verdict.of(str(tensor["verdict"]))
    return bool(tensor["expected"]) and known is not None and known.is_bug is False


def _is_undated(tensor: Mapping[str, object]) -> bool:
    return tensor["measured_at"] is None and tensor["screened_at"] is None


def _is_right(tensor: Mapping[str, object], step: int) -> bool:
    known = Verdict.of(str(tensor["verdict"]))
    return known is not None and known.is_bug is False and has_verdict_of(tensor, step)


def _was_seen(name: str, records: Sequence[Record], last: Collection[int]) -> bool:
    """Whether one of the last checks looked at a tensor, if only to say that it cannot be measured."""
    tensors = [record["tensors"][name] for record in records if record["step"] in last and name in record["tensors"]]
    dated = any(looked_at(tensor, step) for tensor in tensors for step in last)
    return dated or any(_is_undated(tensor) and tensor["cause_key"] != UNSCREENED for tensor in tensors)
