"""Gradient checkers other than gradguard, each given a NumPy loss and a gradient written by hand."""

import importlib.util
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.networks import Float64
from gradguard.testing import LSTM, Batch

Grads = Mapping[str, NDArray[Any]]
INSTALL = {"torch": "torch==2.13.0", "jax": "jax", "scipy": "scipy"}


@dataclass(frozen=True, slots=True)
class Case:
    """What a checker gets.

    Attributes:
        model: The parameters, and the loss.
        batch: The data of the loss.
        grads: The handwritten gradient, right or wrong.
    """

    model: LSTM
    batch: Batch
    grads: Grads

    def loss(self, params: Grads) -> np.floating[Any]:
        """The loss at some parameters."""
        return self.model.loss(self.batch, params)


def installed(module: str) -> bool:
    """Whether a module can be imported."""
    return importlib.util.find_spec(module) is not None


def print_missing(modules: Iterable[str]) -> None:
    """Print how to install those of the modules that are not installed."""
    for module in dict.fromkeys(modules):
        if not installed(module):
            print(f"{module} is not installed: pip install {INSTALL[module]}, or gradguard[benchmarks] for all peers")


def torch_gradcheck(case: Case, **settings: float) -> bool:
    """Whether torch.autograd.gradcheck fails."""
    import torch

    inputs = [torch.tensor(param, requires_grad=True) for param in case.model.params.values()]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Input #")  # gradcheck warns of float32, which is what is measured here
        return not torch.autograd.gradcheck(torch_function(case), inputs, raise_exception=False, **settings)


def torch_function(case: Case) -> Callable[..., Any]:
    """The loss as an `autograd.Function` of the tensors, with the handwritten gradient."""
    import torch

    names = list(case.model.params)

    class Handwritten(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: object, *tensors: torch.Tensor) -> torch.Tensor:
            params = [tensor.detach().numpy() for tensor in tensors]
            return torch.tensor(case.loss(dict(zip(names, params, strict=True))))

        @staticmethod
        def backward(_ctx: object, upstream: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(upstream * torch.tensor(case.grads[name]) for name in names)

    return Handwritten.apply


def jax_check_grads(case: Case) -> bool:
    """Whether jax.test_util.check_grads fails."""
    from jax.test_util import check_grads

    try:
        check_grads(jax_function(case), (case.model.params,), order=1, modes="rev")
    except AssertionError:
        return True
    return False


def jax_function(case: Case) -> Callable[..., Any]:
    """The loss as a `custom_vjp` of the mapping, with the handwritten gradient."""
    import jax

    def outside(params: Mapping[str, object]) -> np.floating[Any]:
        return case.loss({name: np.asarray(param) for name, param in params.items()})

    @jax.custom_vjp
    def loss(params: Mapping[str, object]) -> jax.Array:
        return jax.pure_callback(outside, jax.ShapeDtypeStruct((), np.float32), params)

    def backward(_residuals: None, upstream: jax.Array) -> tuple[dict[str, jax.Array]]:
        return ({name: upstream * grad for name, grad in case.grads.items()},)

    loss.defvjp(lambda params: (loss(params), None), backward)
    return loss


def scipy_check_grad(case: Case, threshold: float, **settings: float) -> bool:
    """Whether scipy.optimize.check_grad returns an error as large as the threshold."""
    from scipy.optimize import check_grad

    params, names = case.model.params, list(case.model.params)
    ends, dtype = np.cumsum([param.size for param in params.values()])[:-1], np.result_type(*params.values())

    def loss(vector: Float64) -> float:
        parts = zip(params.items(), np.split(vector.astype(dtype), ends), strict=True)
        return float(case.loss({name: part.reshape(param.shape) for (name, param), part in parts}))

    error = check_grad(loss, lambda _: joined(case.grads, names), joined(params, names), **settings)
    return not error < threshold


def differences(model: LSTM, batch: Batch, step: float) -> dict[str, Float64]:
    """(L(x + step) - L(x - step)) / (2 step) along every parameter, by name."""
    return {name: differences_of(param, model, batch, step) for name, param in model.params.items()}


def differences_of(param: NDArray[Any], model: LSTM, batch: Batch, step: float) -> Float64:
    """The differences along the entries of one tensor, in its shape; the tensor is changed and restored."""
    n = np.empty(param.shape)
    for index in np.ndindex(param.shape):
        start = param[index]
        losses = []
        for sign in (1, -1):
            param[index] = start + sign * step
            losses.append(model.loss(batch))
        param[index] = start
        n[index] = float(losses[0] - losses[1]) / (2 * step)
    return n


def joined(tensors: Mapping[str, NDArray[Any]], names: Sequence[str]) -> Float64:
    """Some tensors as one vector."""
    return np.concatenate([tensors[name].astype(np.float64).reshape(-1) for name in names])


def discrepancy(g: Float64, n: Float64) -> float:
    """||g - n|| / (||g|| + ||n||)."""
    return float(np.linalg.norm(g - n) / (np.linalg.norm(g) + np.linalg.norm(n)))
