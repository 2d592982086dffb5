"""What gradguard says of the network of the question in C++."""

import numpy as np
import pytest
from native_programs import EXAMPLES, LIBRARY, RECURRENT, TIMESTEPS, Compile, prepared

from gradguard import Verdict, check, gates, sweep
from gradguard.integrations.native import Program, load

BLOCKS = {"Wx": gates("ifog", axis=1), "Wh": gates("ifog", axis=1), "b": gates("ifog", axis=0)}


def test_the_fault_of_the_question_is_named(program: Program) -> None:
    """The LSTM's tensors are 39 times too small, on every gate, and 39 is `timesteps`; the softmax layer is right."""
    prepared(program, averages=True)
    report = check(program.params, program.grads, program.loss, constants=program.constants, blocks=BLOCKS)
    assert report.verdict is Verdict.scale
    assert {name for name, tensor in report.tensors.items() if tensor.verdict.is_bug} == RECURRENT
    for name in RECURRENT:
        tensor = report.tensors[name]
        assert tensor.verdict is Verdict.scale
        assert tensor.ratio == pytest.approx(TIMESTEPS, rel=1e-2)
        assert tensor.discrepancy == pytest.approx(0.95, abs=1e-3)
        assert "39 is `timesteps`" in tensor.explanation
        assert len(tensor.blocks) == 4
        # Two entries of a gate may be small: each ratio is judged by its own error bar.
        assert all(abs(block.ratio - TIMESTEPS) <= 4 * block.ratio_error for block in tensor.blocks.values())
    assert report.loss == program.loss()


def test_the_network_as_it_is_right_is_no_bug(program: Program) -> None:
    """In float32: float precision explains what is left, on every tensor."""
    prepared(program)
    report = check(program.params, program.grads, program.loss, constants=program.constants)
    assert all(tensor.verdict.is_bug is False for tensor in report.tensors.values())
    assert report.precision == "native"


def test_float64_copies_are_refused_with_the_reason(program: Program) -> None:
    """The library reads its own memory: that cannot be swapped."""
    prepared(program)
    with pytest.raises(ValueError, match=r"does not work: loss\(\) reads the live arrays, .*NativeArrays"):
        check(program.params, program.grads, program.loss, precision="float64")


def test_the_same_network_built_in_double_agrees_to_many_digits(compiled: Compile) -> None:
    """The way to see smaller mistakes in C++: d is below 1e-8, where float32 leaves 1e-4."""
    program = prepared(load(compiled(EXAMPLES / "trainer.cpp", "libdouble.so", *LIBRARY, "-DREAL=double")))
    assert {array.dtype for array in program.params.values()} == {np.dtype(np.float64)}
    report = check(program.params, program.grads, program.loss)
    assert report.verdict is Verdict.ok
    assert max(tensor.discrepancy for tensor in report.tensors.values()) < 1e-8


def test_the_sweep_shows_the_sweet_spot(program: Program) -> None:
    """The loss has float32's quantum although C hands over a double; it stops moving at short steps."""
    prepared(program)
    assert 1 < program.loss() < 2
    swept = sweep(program.params, program.grads, program.loss)
    assert swept.quantum == pytest.approx(2.0**-23)
    assert swept.explained is True
    assert 0.005 <= swept.best_step <= 0.05
    assert swept.discrepancy[swept.steps == swept.best_step].item() < 1e-3
    assert swept.discrepancy[0] > 0.1
    assert swept.discrepancy[-1] > 0.01
    assert "the loss does not change for most entries" in swept.explanation


def test_the_sweep_of_the_fault_is_wrong_at_every_step(program: Program) -> None:
    """No step size makes 0.95 small."""
    prepared(program, averages=True)
    swept = sweep(program.params, program.grads, program.loss, constants=program.constants)
    assert swept.tensors["Wh"].discrepancy[-8:-3] == pytest.approx(0.95, abs=0.01)
    assert swept.explained is False
