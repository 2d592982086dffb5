import copy
import pickle

import pytest

from gradguard import Verdict
from gradguard.report.verdict import Level


@pytest.mark.parametrize(
    ("level", "verdicts", "is_bug"),
    [
        (Level.ok, {"ok"}, False),
        (Level.explained, {"float_precision", "expected"}, False),
        (Level.unclear, {"inconclusive", "kink", "nondeterministic", "other_loss"}, None),
        (Level.bug, {"scale", "sign", "missing", "spurious", "clipped", "structure", "nonfinite"}, True),
    ],
)
def test_a_level_says_how_grave_a_verdict_is(level: Level, verdicts: set[str], is_bug: bool | None) -> None:
    """And with that whether it is a bug."""
    assert {str(verdict) for verdict in Verdict if verdict.level is level} == verdicts
    assert {Verdict(name).is_bug for name in verdicts} == {is_bug}


def test_a_verdict_is_its_name() -> None:
    """It compares, hashes, prints and travels as the string does."""
    assert Verdict("scale") is Verdict.scale == "scale"
    assert f"{Verdict.scale}" == str(Verdict.scale) == Verdict.scale.value == "scale"
    assert {"scale": 1}[Verdict.scale] == 1
    assert pickle.loads(pickle.dumps(Verdict.scale)) is Verdict.scale  # noqa: S301 - our own bytes
    assert copy.deepcopy(Verdict.scale) is Verdict.scale


def test_a_label_marks_a_bug() -> None:
    """In words, without underscores."""
    assert (Verdict.float_precision.label, Verdict.scale.label) == ("float precision", "BUG: scale")
    assert (Verdict.float_precision.words, Verdict.scale.words) == ("float precision", "scale")


def test_a_name_that_is_no_verdict_is_none() -> None:
    """A log may be of another version."""
    assert Verdict.of("kink") is Verdict.kink
    assert Verdict.of("warped") is Verdict.of("") is None


def test_only_what_can_be_mended_has_advice() -> None:
    """The cause of a clip says what to do; where nothing is known to be wrong there is nothing to do."""
    assert all(verdict.is_bug for verdict in Verdict if verdict.advice)
    assert {verdict for verdict in Verdict if verdict.is_bug and not verdict.advice} == {Verdict.clipped}
