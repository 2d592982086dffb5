"""A loss in float64, whatever its author wrote: every operation of PyTorch is handed float64 tensors."""

from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

NARROW = frozenset({torch.float16, torch.bfloat16, torch.float32})
LOWERING = frozenset({Tensor.float, Tensor.half, Tensor.bfloat16})
DRAWING = frozenset({torch.rand, torch.randn, torch.rand_like, torch.randn_like, torch.normal, torch.bernoulli})
DRAWING_IN_PLACE = frozenset({Tensor.bernoulli_, Tensor.normal_, Tensor.uniform_, Tensor.exponential_})
DROPOUT = frozenset(
    {torch.dropout, functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d}
)
OTHERWISE = LOWERING | DRAWING | DRAWING_IN_PLACE | DROPOUT
INERT = frozenset({int, float, bool, str, type(None), slice, torch.Size})


class InDouble(TorchFunctionMode):
    """While it is entered, float64 copies stand in for some tensors, and for all others of a narrower dtype.

    It acts on what this thread calls of PyTorch; a kernel of somebody's own that is handed a live parameter reads that.
    Random numbers are drawn in the dtype of the training: in float64 they would be others.

    Args:
        pairs: Tensors, and what stands in for each.
        usual: The dtype of the training.
    """

    def __init__(self, pairs: Iterable[tuple[Tensor, Tensor]], usual: torch.dtype) -> None:
        super().__init__()
        self._twins = {id(tensor): (tensor, twin) for tensor, twin in pairs}
        self._usual = usual

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An interrupt may have it left twice, or before it was entered.
        if self in _get_current_function_mode_stack():  # type: ignore[no-untyped-call]  # nor is the next one typed
            super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = [self.exact(value) for value in args]
        kwargs = {name: self.exact(value) for name, value in kwargs.items()} if kwargs else {}
        return self._otherwise(func, args, kwargs) if func in OTHERWISE else _widened(func(*args, **kwargs))

    def _otherwise(self, func: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """What must not become the same operation in float64."""
        if func in LOWERING:
            return args[0].double()
        if func in DROPOUT:
            return self._dropped(func, *args, **kwargs)
        usual, usually = self._usually(args), {name: self._usually(value) for name, value in kwargs.items()}
        if func in DRAWING:
            return _widened(func(*usual, **usually))
        return args[0].copy_(func(torch.empty_like(args[0], dtype=self._usual), *usual[1:], **usually))

    def _dropped(self, func: Any, input: Tensor, *args: Any, inplace: bool = False, **kwargs: Any) -> Tensor:  # noqa: A002 - PyTorch's name
        mask = func(torch.ones_like(input, dtype=self._usual), *args[:2], **kwargs)
        return input.mul_(mask) if inplace or args[2:] == (True,) else input * mask

    def exact(self, value: Any) -> Any:
        """What stands in for a tensor or a dtype, also within a tuple, a list or a dict."""
        if type(value) in INERT:
            return value
        return self._twin(value) if isinstance(value, Tensor) else _mapped(self.exact, torch.float64, value)

    def _twin(self, tensor: Tensor) -> Tensor:
        found = self._twins.get(id(tensor))
        if found is None and tensor.dtype in NARROW:
            # Kept, so that what is written to one is read from the other; and so that no other takes its id.
            found = self._twins[id(tensor)] = (tensor, tensor.double())
        return tensor if found is None else found[1]

    def _usually(self, value: Any) -> Any:
        """The same in the dtype of the training."""
        if isinstance(value, Tensor):
            return value.to(self._usual) if value.dtype is torch.float64 else value
        return _mapped(self._usually, self._usual, value)


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.dtype in NARROW else value
    return value if type(value) in INERT else _mapped(_widened, torch.float64, value)


def _mapped(change: Any, dtype: torch.dtype, value: Any) -> Any:
    """A floating dtype replaced, or the items of a container changed; the very same where nothing of it does."""
    if isinstance(value, torch.dtype):
        return dtype if value.is_floating_point else value
    if isinstance(value, dict):
        return {key: change(item) for key, item in value.items()}
    if not isinstance(value, tuple | list):
        return value
    items = [change(item) for item in value]
    if all(item is before for item, before in zip(items, value, strict=True)):
        return value
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
