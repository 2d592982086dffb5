"""Modes in which every operation of PyTorch receives substitutes for some of its tensors, such as float64 copies."""

from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

NARROW_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32})
"""Floating dtypes narrower than float64."""
DOWNCASTS = frozenset({Tensor.float, Tensor.half, Tensor.bfloat16})
RANDOM_FACTORIES = frozenset(
    {torch.rand, torch.randn, torch.rand_like, torch.randn_like, torch.normal, torch.bernoulli}
)
RANDOM_IN_PLACE = frozenset({Tensor.bernoulli_, Tensor.normal_, Tensor.uniform_, Tensor.exponential_})
DROPOUTS = frozenset(
    {torch.dropout, functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d}
)
SPECIAL_CASES = DOWNCASTS | RANDOM_FACTORIES | RANDOM_IN_PLACE | DROPOUTS
"""Functions that `Float64Mode` does not simply call on float64 arguments."""
DATA_GETTERS = frozenset({Tensor.data.__get__})  # type: ignore[attr-defined]  # a property
DETACHING_FUNCTIONS = frozenset({torch.detach, Tensor.detach}) | DATA_GETTERS
"""Functions whose result autograd does not follow, though the loss does."""
PLAIN_TYPES = frozenset({int, float, bool, str, type(None), slice, torch.Size})
"""Types of arguments that hold neither tensors nor dtypes."""


class SubstitutionMode(TorchFunctionMode):
    """While it is active, every operation of PyTorch in this thread receives substitutes for some tensors.

    A kernel that reads the memory of a live parameter without an operation of PyTorch sees the live parameter.

    Args:
        pairs: Tensors, each with its substitute.

    Attributes:
        dtype: The substitute for floating dtypes; None where they stay as they are.
        is_vectorized: Whether the mode is active within `torch.func.vmap`.
        bytes_returned: Bytes of all tensors that operations have returned within `vmap`.
    """

    dtype: torch.dtype | None = None

    def __init__(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.is_vectorized = False
        self.bytes_returned = 0
        # By id, with the tensor itself, so that no other tensor takes its id.
        self._substitutes = {id(tensor): (tensor, substitute) for tensor, substitute in pairs}

    def add_substitute(self, tensor: Tensor, substitute: Tensor) -> None:
        """Give one more tensor a substitute, or another one."""
        self._substitutes[id(tensor)] = (tensor, substitute)

    def substitute(self, value: Any) -> Any:
        """The substitute for a tensor or a dtype, or a tuple, list or dict of substitutes; any other value itself."""
        if type(value) in PLAIN_TYPES:
            return value
        if isinstance(value, Tensor):
            return self._substitute_tensor(value)
        return _map_nested(self.substitute, self.dtype, value)

    def _substitute_tensor(self, tensor: Tensor) -> Tensor:
        return self._substitutes.get(id(tensor), (tensor, tensor))[1]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an interrupt, a mode may be exited twice, or without having been entered.
        if self in _get_current_function_mode_stack():  # type: ignore[no-untyped-call]  # nor is the next one typed
            super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.is_vectorized and func in DATA_GETTERS:
            return self._data(args[0])
        args = [self.substitute(value) for value in args]
        kwargs = {name: self.substitute(value) for name, value in kwargs.items()} if kwargs else {}
        result = self._call(func, args, kwargs)
        if self.is_vectorized:
            self.bytes_returned += _bytes(result)
        return result

    def _data(self, tensor: Tensor) -> Tensor:
        """`tensor.data` within vmap, which lacks it: that of a copy, so that no write reaches the tensor itself."""
        substitute: Tensor = self.substitute(tensor)
        if substitute is tensor:
            substitute = tensor.clone()
            self.add_substitute(tensor, substitute)
        return substitute.detach()

    def _call(self, func: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs)

    def result_of(self, losses: object) -> object:
        """What an evaluation in this mode returns, from what the user's loss returned."""
        return losses


class Float64Mode(SubstitutionMode):
    """While it is active, operations receive float64 copies instead of all tensors of a narrower floating dtype.

    Random numbers are still drawn in the dtype of the training: PyTorch draws other numbers for float64.

    Args:
        pairs: Tensors, each with its substitute; the mode makes the float64 copies of all other tensors.
        training_dtype: The dtype of the training.
    """

    dtype = torch.float64

    def __init__(self, pairs: Iterable[tuple[Tensor, Tensor]], training_dtype: torch.dtype) -> None:
        super().__init__(pairs)
        self._training_dtype = training_dtype

    def _call(self, func: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if func in SPECIAL_CASES:
            return self._call_special(func, args, kwargs)
        return _to_float64(func(*args, **kwargs))

    def _call_special(self, func: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Downcasts, which stay float64; dropout and random numbers, which are drawn in the dtype of the training."""
        if func in DOWNCASTS:
            return args[0].double()
        if func in DROPOUTS:
            return self._dropout(func, *args, **kwargs)
        narrow_args = self._to_training_dtype(args)
        narrow_kwargs = {name: self._to_training_dtype(value) for name, value in kwargs.items()}
        if func in RANDOM_FACTORIES:
            return _to_float64(func(*narrow_args, **narrow_kwargs))
        drawn = func(torch.empty_like(args[0], dtype=self._training_dtype), *narrow_args[1:], **narrow_kwargs)
        return args[0].copy_(drawn)

    def _dropout(self, func: Any, input: Tensor, *args: Any, inplace: bool = False, **kwargs: Any) -> Tensor:  # noqa: A002 - PyTorch's name
        mask = func(torch.ones_like(input, dtype=self._training_dtype), *args[:2], **kwargs)
        return input.mul_(mask) if inplace or args[2:] == (True,) else input * mask

    def _substitute_tensor(self, tensor: Tensor) -> Tensor:
        known = self._substitutes.get(id(tensor))
        if known is not None:
            return known[1]
        if tensor.dtype not in NARROW_DTYPES:
            return tensor
        # Kept, so that what one operation writes to the tensor, a later operation reads.
        substitute = tensor.double()
        self.add_substitute(tensor, substitute)
        return substitute

    def _to_training_dtype(self, value: Any) -> Any:
        """The same value with tensors and dtypes of float64 converted to the dtype of the training."""
        if isinstance(value, Tensor):
            return value.to(self._training_dtype) if value.dtype is torch.float64 else value
        return _map_nested(self._to_training_dtype, self._training_dtype, value)


def result_in_active_mode(losses: object) -> object:
    """What an evaluation of the loss returns in the mode that is active, if any, from what the user's loss returned.

    Raises:
        TypeError: The mode needs a tensor, and the loss did not return one.
    """
    modes = [mode for mode in _get_current_function_mode_stack() if isinstance(mode, SubstitutionMode)]  # type: ignore[no-untyped-call]
    return modes[-1].result_of(losses) if modes else losses


def _to_float64(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.dtype in NARROW_DTYPES else value
    return value if type(value) in PLAIN_TYPES else _map_nested(_to_float64, torch.float64, value)


def _bytes(result: Any) -> int:
    if isinstance(result, Tensor):
        return result.numel() * result.element_size()
    return sum(map(_bytes, result)) if isinstance(result, tuple | list) else 0


def _map_nested(convert: Any, dtype: torch.dtype | None, value: Any) -> Any:
    """`dtype` instead of a floating dtype; a container with its items converted, or itself where no item changes."""
    if isinstance(value, torch.dtype):
        return dtype if dtype is not None and value.is_floating_point else value
    if isinstance(value, dict):
        return {key: convert(item) for key, item in value.items()}
    if not isinstance(value, tuple | list):
        return value
    items = [convert(item) for item in value]
    if all(item is before for item, before in zip(items, value, strict=True)):
        return value
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
