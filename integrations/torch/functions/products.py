"""The check of one call of a Function: what its backward pass returns, against differences of its forward pass."""

import torch
from torch import Tensor

from gradguard.checks.check import CheckOptions, checked
from gradguard.integrations.torch.functions.calls import FunctionCall
from gradguard.integrations.torch.overrides.substitution import result_in_active_mode
from gradguard.integrations.torch.overrides.vectorized import VectorizedCopies
from gradguard.integrations.torch.parameters import Parameters
from gradguard.integrations.torch.tensors import HostArrays, coarsest, to_host
from gradguard.report import Report

ENTRIES = 4
"""Entries of each input to measure, beside directions: a call is one of several that are checked."""


class CallProducts:
    """The products of the upstream gradients of a call and its outputs: a loss with the gradients of the call.

    Args:
        call: The call.
    """

    def __init__(self, call: FunctionCall) -> None:
        self._call = call

    def __call__(self, copies: VectorizedCopies | None = None) -> object:
        """The products, unreduced; in forward mode, their tangents.

        Args:
            copies: K copies of the inputs, for products of shape (K, ...); None for those of the inputs themselves.
        """
        with torch.no_grad(), self._call.autocast.enter_again():
            products = self._products() if copies is None else copies.losses(self._products)
            return to_host(result_in_active_mode(products))

    def _products(self) -> Tensor:
        pairs = self._call.with_cotangents(self._call.outputs())
        return torch.cat([product(output, cotangent) for output, cotangent in pairs])


def check_call(call: FunctionCall, seed: int = 0) -> Report:
    """The check of the gradients that the backward pass of a call returns; the tensors of the report are its inputs.

    Args:
        call: The call, with its upstream gradients.
        seed: Seed of the random directions and entries.
    """
    apart, gradients = call.apart(), call.gradients()
    params = Parameters({call.names[i]: leaf for i, leaf in apart.leaves.items()})
    # Whatever the inputs are, the gradients are rounded as the upstream gradients and within an autocast.
    params.autocast = coarsest([call.autocast.dtype, *(it.dtype for it in call.cotangents if it is not None)])
    grads = HostArrays({call.names[i]: gradient for i, gradient in gradients.items()})
    options = CheckOptions(reduction="sum", entries=ENTRIES, seed=seed)
    return checked(params, grads, CallProducts(apart), options)


def product(output: Tensor, cotangent: Tensor) -> Tensor:
    """The products of the entries, in float32 at least: 16 bits would round them too coarsely to be differenced."""
    wide = torch.promote_types(output.dtype, torch.float32)
    return (output.to(wide) * cotangent.to(wide)).reshape(-1)
