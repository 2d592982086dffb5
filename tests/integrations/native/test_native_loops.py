"""Loops of the program and loops in Python, under guard; what is raised in them reaches Python."""

import ctypes
import signal
from collections.abc import Callable, Iterator

import pytest
from native_programs import RECURRENT, STEPS, bits, guard_of, loop_in_python

from gradguard import GradGuard, GradientError, Verdict
from gradguard.integrations.native import Program


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises, which a parent in the background may have ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_loop_of_the_program_is_guarded(program: Program) -> None:
    """Through the callback: checks come on schedule, constants are those of the table, the loop ends as it would."""
    program.library.start(0, 1)
    with guard_of(program) as guard:
        assert program.run(guard, program.library.train, STEPS) == STEPS
    assert [row.step for row in guard.history] == [0, 3, 6]
    assert guard.report is not None
    for name in RECURRENT:
        assert "39 is `timesteps`" in guard.report.tensors[name].explanation
    assert program.library.train(STEPS) == STEPS  # no longer under guard
    assert len(guard.history) == 3


def test_a_loop_in_python_is_guarded(program: Program) -> None:
    """With the pieces of the program's own loop."""
    with guard_of(program) as guard:
        loop_in_python(program, guard)
    assert [row.verdict.is_bug for row in guard.history] == [False] * 3


def test_a_loop_may_run_in_a_thread_of_its_own(program: Program) -> None:
    """The callback comes from a thread that Python has not made."""
    program.library.start(0, 1)
    with guard_of(program, on_alert="raise") as guard, pytest.raises(GradientError):
        program.run(guard, program.library.train_in_a_thread, STEPS)
    assert [row.step for row in guard.history] == [0]


def test_constants_that_change_from_step_to_step_are_read_anew(program: Program) -> None:
    """A factor that follows one of them is named after it, although it was 39 at first."""
    with guard_of(program, every_n_steps=1) as guard:
        program.run(guard, program.library.train_with_windows, 3)
    assert guard.report is not None
    wrong = guard.report.tensors["V"]
    assert wrong.verdict is Verdict.scale
    assert "`window`" in wrong.explanation
    assert "`timesteps`" not in wrong.explanation


@pytest.mark.parametrize("averages", [0, 1], ids=["right", "with the fault"])
def test_training_is_bit_for_bit_the_same_with_and_without_a_guard(program: Program, averages: int) -> None:
    """Values, gradients and the random stream, after the program's own loop and after the one in Python."""

    def after(loop: Callable[[], object]) -> list[bytes]:
        program.library.start(0, averages)
        loop()
        return bits(program)

    def under_guard(loop: Callable[[GradGuard], object]) -> list[bytes]:
        guard = guard_of(program)
        trained = after(lambda: loop(guard))
        assert len(guard.history) == 3
        return trained

    alone = after(lambda: program.library.train(STEPS))
    assert under_guard(lambda guard: program.run(guard, program.library.train, STEPS)) == alone
    assert after(lambda: loop_in_python(program, None)) == alone
    assert under_guard(lambda guard: loop_in_python(program, guard)) == alone


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("evaluations", [0, 40, 150])
def test_training_is_the_same_when_the_loss_is_interrupted_in_a_check(program: Program, evaluations: int) -> None:
    """Ctrl-C in the middle of a probe comes out, the program's own loop stops, and every bit is as it would be."""
    program.library.train(STEPS)
    alone = bits(program)

    program.library.start(0, 0)
    program.library.interrupt_after(evaluations)
    guard = guard_of(program)
    loop_in_python(program, guard)
    assert bits(program) == alone
    assert [row.step for row in guard.history] == [3, 6]

    program.library.start(0, 0)
    program.library.interrupt_after(evaluations)
    guard = guard_of(program)
    with pytest.raises(KeyboardInterrupt):
        program.run(guard, program.library.train, STEPS)
    assert not guard.history
    program.library.update()  # the step that the loop has left undone
    program.run(guard, program.library.train, STEPS - 1)
    assert bits(program) == alone


def test_a_confirmed_bug_stops_the_loop_and_is_raised(program: Program) -> None:
    """`on_alert="raise"`: the loop leaves before the update, and the caller has the report."""
    program.library.start(0, 1)
    before = [array.tobytes() for array in program.params.values()]
    with guard_of(program, on_alert="raise") as guard, pytest.raises(GradientError, match="`timesteps`") as raised:
        program.run(guard, program.library.train, STEPS)
    assert raised.value.report is guard.report
    assert [array.tobytes() for array in program.params.values()] == before


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_outside_of_a_check_is_raised(program: Program) -> None:
    """Python notices it on entry to the callback, where ctypes would drop it."""
    taken: list[int] = []
    with guard_of(program) as guard, pytest.raises(KeyboardInterrupt):
        program.run(guard, lambda: taken.append(program.library.train_interrupted_at(STEPS, 4)))
    assert taken == [4]
    assert [row.step for row in guard.history] == [0, 3]


def test_a_loop_that_does_not_stop_is_left_alone_and_then_told(program: Program) -> None:
    """Nothing is checked after what was raised, and it is raised at the end."""
    program.library.start(0, 1)
    taken: list[int] = []
    with guard_of(program, on_alert="raise") as guard, pytest.raises(GradientError):
        program.run(guard, lambda: taken.append(program.library.train_and_ignore_the_answer(STEPS)))
    assert taken == [STEPS]
    assert [row.step for row in guard.history] == [0]


def test_an_error_of_the_function_itself_is_raised(program: Program) -> None:
    """And the loop is no longer under guard."""
    with guard_of(program) as guard:
        with pytest.raises(ctypes.ArgumentError):
            program.run(guard, program.library.train, object())
        program.library.train(STEPS)
    assert not guard.history


def test_a_loop_that_never_calls_is_told(program: Program) -> None:
    """Silence would look like a training without a bug."""
    with guard_of(program) as guard, pytest.warns(RuntimeWarning, match=r"gradguard_after_backward\(&table, step\)"):
        program.run(guard, program.library.train_without_calling, STEPS)
