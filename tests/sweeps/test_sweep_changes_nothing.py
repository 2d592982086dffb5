"""Law 1: a sweep leaves everything as it was."""

import pytest

from gradguard import sweep
from gradguard.testing import LSTM, Batch


def test_parameters_are_put_back_when_the_loss_raises(model: LSTM, batch: Batch) -> None:
    """An error of the loss comes through, whenever it comes, and leaves every bit of the parameters."""
    before = {name: param.tobytes() for name, param in model.params.items()}
    _, grads = model.loss_and_grads(batch)
    for last in (3, 40, 200, 1000):
        remaining = list(range(last))

        def loss(remaining: list[int] = remaining) -> object:
            remaining.pop()
            return model.loss(batch)

        with pytest.raises(IndexError):
            sweep(model.params, grads, loss)
        assert {name: param.tobytes() for name, param in model.params.items()} == before


@pytest.mark.parametrize("precision", ["native", "float64"])
@pytest.mark.parametrize("takes_parameters", [False, True])
def test_nothing_of_the_model_is_changed(precision: str, takes_parameters: bool, model: LSTM, batch: Batch) -> None:
    """Parameters and gradients are bit for bit what they were, and the very same arrays."""
    _, grads = model.loss_and_grads(batch)
    held = dict(model.params)
    before = [array.tobytes() for arrays in (model.params, grads) for array in arrays.values()]
    loss = (lambda params: model.loss(batch, params)) if takes_parameters else (lambda: model.loss(batch))
    assert sweep(model.params, grads, loss, precision=precision, entries=2).precision == precision
    assert [array.tobytes() for arrays in (model.params, grads) for array in arrays.values()] == before
    assert all(model.params[name] is array for name, array in held.items())
