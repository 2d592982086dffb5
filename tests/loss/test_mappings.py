"""Mappings of any kind hold the parameters, and the loss may read them past the mapping."""

from collections import UserDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_lstm import Params, agrees, refusing, small

from gradguard import check


def test_a_mapping_that_cannot_be_changed_is_native() -> None:
    """Its entries cannot be swapped: an error by name, native with "auto", and no matter with loss(params)."""
    model, batch, grads = small()
    fixed = MappingProxyType(model.params)
    with pytest.raises(ValueError, match=r"mappingproxy.*cannot be swapped.*loss\(params\)"):
        check(fixed, grads, lambda: model.loss(batch), precision="float64")
    assert check(fixed, grads, lambda: model.loss(batch)).precision == "native"
    assert check(fixed, grads, lambda params: model.loss(batch, params)).precision == "float64"


def test_any_mutable_mapping_can_be_swapped() -> None:
    """It need not be a dict."""
    model, batch, grads = small()
    own: UserDict[str, NDArray[Any]] = UserDict(model.params)
    report = check(own, grads, lambda: model.loss(batch, own))
    assert report.precision == "float64"
    assert agrees(report)


@pytest.mark.parametrize("precision", ["native", "float64", "auto"])
def test_a_read_only_array_needs_a_loss_that_takes_the_parameters(precision: str) -> None:
    """Loss() cannot see it moved, which is told; loss(params) is handed copies, and it is never written."""
    model, batch, grads = small()
    model.params["V"].flags.writeable = False
    before = model.params["V"].tobytes()
    with pytest.raises(ValueError, match=r"'V' is read-only.*loss\(params\)"):
        check(model.params, grads, lambda: model.loss(batch), precision=precision)
    report = check(model.params, grads, lambda params: model.loss(batch, params), precision=precision)
    assert agrees(report)
    assert model.params["V"].tobytes() == before


def test_a_mapping_of_the_arrays_that_the_model_holds_elsewhere_is_checked_natively() -> None:
    """`{"W": model.W}` is how models without a dict are attached: swapping its entries does not reach the model."""
    model, batch, grads = small()
    held = dict(model.params)
    report = check(held, grads, lambda: model.loss(batch))
    assert report.precision == "native"
    assert agrees(report)


def test_a_loss_that_reads_one_array_past_the_mapping_is_checked_natively() -> None:
    """A correct gradient is no bug because its array is read under another name."""
    model, batch, grads = small()
    bias, held = model.params["b"], dict(model.params)
    report = check(held, grads, lambda: model.loss(batch, held | {"b": bias}))
    assert not any(tensor.verdict.is_bug for tensor in report.tensors.values())
    assert report.precision == "native"


@pytest.mark.parametrize("size", [1e-2, 1e-4])
def test_a_small_gradient_read_past_the_mapping_is_no_bug(size: float) -> None:
    """The loss hangs a little on an array that it reads under another name: its gradient is right."""
    main, other = np.array([0.3, 0.7], np.float32), np.array([0.4, 0.9], np.float32)
    params, share = {"main": main, "other": other}, np.float32(size)
    grads = {"main": np.cos(main), "other": share * np.cos(other)}
    report = check(params, grads, lambda: np.sin(params["main"]).sum() + share * np.sin(other).sum())
    assert not any(tensor.verdict.is_bug for tensor in report.tensors.values())


def test_float64_by_name_is_refused_where_the_loss_reads_other_arrays() -> None:
    """The loss does not follow its moves, and that is what the message says."""
    model, batch, grads = small()
    with pytest.raises(ValueError, match="does not work"):
        check(dict(model.params), grads, lambda: model.loss(batch), precision="float64")


class Flat(dict[str, NDArray[Any]]):
    """Parameters in memory of their own: assigning to a name writes into its array."""

    def __setitem__(self, name: str, value: NDArray[Any]) -> None:
        self[name][...] = value

    def update(self, other: Mapping[str, NDArray[Any]]) -> None:  # type: ignore[override]
        """Assigns each."""
        for name, value in other.items():
            self[name] = value


@pytest.mark.parametrize("precision", ["auto", "float64"])
def test_a_mapping_that_copies_what_is_assigned_is_not_swapped(precision: str) -> None:
    """The parameters are as they were, whatever is made of float64 (law 1)."""
    model, batch, grads = small()
    model.params = Flat(model.params)
    before = {name: param.tobytes() for name, param in model.params.items()}
    try:
        report = check(model.params, grads, lambda: model.loss(batch), precision=precision)
    except ValueError:
        assert precision == "float64"
    else:
        assert agrees(report)
    assert before == {name: param.tobytes() for name, param in model.params.items()}


class Guarded(dict[str, NDArray[Any]]):
    """Parameters that must be float32."""

    def __setitem__(self, name: str, value: NDArray[Any]) -> None:
        refusing({name: value})
        super().__setitem__(name, value)

    def update(self, other: Mapping[str, NDArray[Any]]) -> None:  # type: ignore[override]
        """Assigns each."""
        for name, value in other.items():
            self[name] = value


def test_a_mapping_that_refuses_float64_is_native() -> None:
    """An assignment that raises is a refusal like that of the loss."""
    model, batch, grads = small()
    model.params = Guarded(model.params)
    report = check(model.params, grads, lambda: model.loss(batch))
    assert report.precision == "native"
    assert agrees(report)


class Owning(Guarded):
    """Parameters that are copied when they are assigned."""

    def __setitem__(self, name: str, value: NDArray[Any]) -> None:
        dict.__setitem__(self, name, value.astype(np.float32))


def test_a_mapping_that_owns_what_it_holds_keeps_its_arrays() -> None:
    """The optimizer may hold the same arrays under other names: they must stay the ones that the model reads."""
    model, batch, grads = small()
    objects = dict(model.params)
    model.params = Owning(model.params)
    report = check(model.params, grads, lambda: model.loss(batch))
    assert all(model.params[name] is array for name, array in objects.items())
    assert agrees(report)


@pytest.mark.parametrize("precision", ["native", "auto"])
def test_a_loss_may_rebind_entries_of_the_mapping_it_is_handed(precision: str) -> None:
    """A pruning mask applied inside the loss is no bug of the gradient."""
    model, batch, _ = small()
    mask = (np.arange(model.params["Wx"].size).reshape(model.params["Wx"].shape) % 3 > 0).astype(np.float32)

    def pruned(params: Params) -> object:
        params["Wx"] = params["Wx"] * mask
        return model.loss(batch, params)

    model.params["Wx"] *= mask
    grads = model.loss_and_grads(batch)[1]
    grads["Wx"] *= mask
    assert agrees(check(model.params, grads, pruned, precision=precision))
