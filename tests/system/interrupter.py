"""Interrupts at chosen places.

A signal is handled where CPython looks for one: at the beginning of a function, after a call, and where a loop goes
back. A trace function sees all these places, and can raise there what a handler would.
"""

import contextlib
import dis
import itertools
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

from disturbed_model import Model
from signal_storm import StopError

from gradguard.loss import objective, signature
from gradguard.perturbation import journal, protocols, rollback, snapshots, spaces
from gradguard.writers import dispatch

# Where something is moved, swapped or put back.
MODULES = (dispatch, journal, objective, protocols, rollback, signature, snapshots, spaces)
FILES = {module.__file__ for module in MODULES}
MACHINERY = ("contextlib.py",)


class Interrupter:
    """Raises, once, at the n-th visit of one place; without a place it lists all of them.

    Args:
        place: Where.
        visit: n.
        armed: Whether visits count yet.
    """

    def __init__(
        self, place: tuple[CodeType, int] | None = None, visit: int = 1, armed: Callable[[], bool] = lambda: True
    ) -> None:
        self.place = place
        self.visit = visit
        self.armed = armed
        self.visits: dict[tuple[CodeType, int], int] = {}
        self._after_call: dict[CodeType, set[int]] = {}

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """While it may strike."""
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)

    def _called(self, frame: FrameType, event: str, _: object) -> Any:
        if event != "call" or not self._concerns(frame.f_code):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self._visit(frame.f_code, -1)
        return self._stepped

    def _stepped(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "opcode" and frame.f_lasti in self._looked_at(frame.f_code):
            self._visit(frame.f_code, frame.f_lasti)
        return self._stepped

    def _concerns(self, code: CodeType) -> bool:
        """Whether the place may lie in this code; where all are listed, whether it is code that is interrupted."""
        if self.place is not None:
            return code is self.place[0]
        return code.co_filename in FILES or code.co_filename.endswith(MACHINERY)

    def _looked_at(self, code: CodeType) -> set[int]:
        """The offsets before which CPython handles signals."""
        if code not in self._after_call:
            instructions = list(dis.get_instructions(code))
            after = {
                following.offset
                for this, following in itertools.pairwise(instructions)
                if this.opname.startswith("CALL")
            }
            back = {int(this.argval) for this in instructions if this.opname.startswith("JUMP_BACKWARD")}
            self._after_call[code] = after | back
        return self._after_call[code]

    def _visit(self, code: CodeType, offset: int) -> None:
        if not self.armed():
            return
        place = (code, offset)
        self.visits[place] = self.visits.get(place, 0) + 1
        if place == self.place and self.visits[place] == self.visit:
            raise StopError


def strike(model: Model, act: Callable[[], object], interrupter: Interrupter) -> bool:
    """Whether the act was interrupted; either way nothing that training goes on with may have changed."""
    before = model.everything()
    try:
        with interrupter.active():
            act()
    except StopError:  # here, while its traceback still holds every frame: nothing was collected that would put back
        try:
            assert model.everything() == before
        except AssertionError as error:
            error.add_note(f"interrupted at {interrupter.place}, visit {interrupter.visit}")
            raise
        return True
    assert model.everything() == before
    return False
