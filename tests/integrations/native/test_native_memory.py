"""What Python sees of the program's memory."""

import ctypes

import numpy as np
import pytest
from native_programs import TIMESTEPS, Spoilt, prepared, symbols

from gradguard import GradGuard, check
from gradguard.integrations.native import Program, load
from gradguard.testing import LSTM, Batch


def test_memory_is_seen_in_place(program: Program) -> None:
    """What C++ writes shows in the arrays, and what is written to them shows in the loss; nothing is copied."""
    values, gradients, before = program.params["Wx"], program.grads["Wx"], program.loss()
    assert values.shape == (5, 20)
    assert values.dtype == np.float32
    assert not gradients.any()
    program.library.backward()
    assert gradients.any()
    kept = values.copy()
    values[...] = 0
    assert program.loss() != before
    values[...] = kept
    assert program.loss() == before
    assert np.shares_memory(values, program.params["Wx"])


def test_the_network_is_the_one_in_numpy(program: Program) -> None:
    """Its loss and gradients are those of `gradguard.testing.LSTM` at the same weights, on the same batch."""
    prepared(program)
    twin = LSTM()
    assert {name: array.shape for name, array in program.params.items()} == {
        name: array.shape for name, array in twin.params.items()
    }
    twin.params.update({name: array.copy() for name, array in program.params.items()})
    x, y = symbols(program)
    loss, grads = twin.loss_and_grads(Batch(np.eye(5, dtype=np.float32)[x][:, None], y[:, None]))
    assert program.loss() == pytest.approx(float(loss), rel=1e-6)
    for name, gradient in program.grads.items():
        np.testing.assert_allclose(gradient, grads[name], rtol=1e-4, atol=1e-7)


def test_memory_that_the_trainer_moves_is_followed(spoilt: Spoilt) -> None:
    """A guard sees the arrays where they are now, and a null pointer by name."""
    program = load(spoilt.library)
    guard = GradGuard(program.params, program.loss, every_n_steps=1, max_overhead=None)
    elsewhere, theirs = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
    spoilt.rows[0].values, spoilt.rows[0].gradients = elsewhere.ctypes.data, theirs.ctypes.data
    report = guard.after_backward(0, program.grads)
    assert report is not None
    assert report.verdict.is_bug is False
    theirs /= TIMESTEPS
    report = guard.after_backward(1, program.grads, constants=program.constants)
    assert report is not None
    assert "`timesteps`" in report.tensors["w"].explanation + report.tensors["w"].cause
    assert (elsewhere == 1).all()
    spoilt.rows[0].gradients = None
    with pytest.raises(ValueError, match="gradients of tensor 'w' are at a null pointer"):
        guard.after_backward(2, program.grads)


def test_a_scalar_and_an_empty_tensor_have_their_shapes(spoilt: Spoilt) -> None:
    """No dimensions need no shape, and no entries need no memory."""
    lengths = (ctypes.c_size_t * 2)(0, 3)
    spoilt.rows[0].value_count = spoilt.rows[0].gradient_count = 0
    spoilt.rows[0].values = spoilt.rows[0].gradients = None
    spoilt.rows[0].shape = lengths
    spoilt.rows[1].value_count = spoilt.rows[1].gradient_count = 1
    spoilt.rows[1].ndim, spoilt.rows[1].shape = 0, None
    program = load(spoilt.library)
    assert {name: array.shape for name, array in program.params.items()} == {"w": (0, 3), "b": ()}
    assert program.params["b"].dtype == np.float64
    assert check(program.params, program.grads, program.loss).verdict.is_bug is False
