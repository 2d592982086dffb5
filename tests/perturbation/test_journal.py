import numpy as np

from gradguard.perturbation.journal import UndoLog
from gradguard.perturbation.spaces import Moved, PerturbedArray


def test_what_is_still_open_is_undone_the_last_first() -> None:
    """A tensor that was moved twice is where it was before the first move."""
    array, log = np.ones(2), UndoLog()
    for value in (2.0, 3.0, 4.0):
        log.recorded(Moved(PerturbedArray(array, array.copy()))).__enter__().write(np.full(2, value))
    assert log.is_open
    assert array.tolist() == [4, 4]
    log.restore()
    assert array.tolist() == [1, 1]
    assert not log.is_open


def test_a_move_that_has_ended_is_not_undone_once_more() -> None:
    """The training may have gone on since then."""
    array, log = np.ones(2), UndoLog()
    with log.recorded(Moved(PerturbedArray(array, array.copy()))) as moved:
        moved.write(np.zeros(2))
        assert log.is_open
    assert not log.is_open
    assert array.tolist() == [1, 1]
    array += 1
    log.restore()
    assert array.tolist() == [2, 2]
