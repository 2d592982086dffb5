"""A loss on other tensors than its author wrote: every operation of PyTorch is handed those that stand in for them."""

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
DATA = frozenset({Tensor.data.__get__})  # type: ignore[attr-defined]  # a property
OTHERWISE = LOWERING | DRAWING | DRAWING_IN_PLACE | DROPOUT
INERT = frozenset({int, float, bool, str, type(None), slice, torch.Size})


class StandingIn(TorchFunctionMode):
    """While it is entered, some tensors stand in for others.

    It acts on what this thread calls of PyTorch; a kernel of somebody's own that is handed a live parameter reads that.

    Args:
        pairs: Tensors, and what stands in for each.

    Attributes:
        dtype: What stands in for floating dtypes; None where they stay what they are.
        is_vectorised: Whether it runs within vmap.
        returned: Bytes of all that the operations have returned there.
    """

    dtype: torch.dtype | None = None

    def __init__(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.is_vectorised = False
        self.returned = 0
        self._twins = {id(tensor): (tensor, twin) for tensor, twin in pairs}

    def stand_in(self, tensor: Tensor, twin: Tensor) -> None:
        """Have `twin` stand in for one more tensor."""
        self._twins[id(tensor)] = (tensor, twin)

    def exact(self, value: Any) -> Any:
        """What stands in for a tensor or a dtype, also within a tuple, a list or a dict."""
        if type(value) in INERT:
            return value
        return self._twin(value) if isinstance(value, Tensor) else _mapped(self.exact, self.dtype, value)

    def _twin(self, tensor: Tensor) -> Tensor:
        return self._twins.get(id(tensor), (tensor, tensor))[1]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An interrupt may have it left twice, or before it was entered.
        if self in _get_current_function_mode_stack():  # type: ignore[no-untyped-call]  # nor is the next one typed
            super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.is_vectorised and func in DATA:
            return self._data(args[0])
        args = [self.exact(value) for value in args]
        kwargs = {name: self.exact(value) for name, value in kwargs.items()} if kwargs else {}
        result = self._called(func, args, kwargs)
        if self.is_vectorised:
            self.returned += _bytes(result)
        return result

    def _data(self, tensor: Tensor) -> Tensor:
        """What `tensor.data` is within vmap, which has none: of a copy, so that nothing live is written to."""
        twin: Tensor = self.exact(tensor)
        if twin is tensor:
            twin = tensor.clone()
            self.stand_in(tensor, twin)
        return twin.detach()

    def _called(self, func: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs)


class InDouble(StandingIn):
    """While it is entered, float64 copies stand in for some tensors, and for all others of a narrower dtype.

    Random numbers are drawn in the dtype of the training: in float64 they would be others.

    Args:
        pairs: Tensors, and what stands in for each.
        usual: The dtype of the training.
    """

    dtype = torch.float64

    def __init__(self, pairs: Iterable[tuple[Tensor, Tensor]], usual: torch.dtype) -> None:
        super().__init__(pairs)
        self._usual = usual

    def _called(self, func: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
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


def _bytes(result: Any) -> int:
    if isinstance(result, Tensor):
        return result.numel() * result.element_size()
    return sum(map(_bytes, result)) if isinstance(result, tuple | list) else 0


def _mapped(change: Any, dtype: torch.dtype | None, value: Any) -> Any:
    """A floating dtype replaced, or the items of a container changed; the very same where nothing of it does."""
    if isinstance(value, torch.dtype):
        return dtype if dtype is not None and value.is_floating_point else value
    if isinstance(value, dict):
        return {key: change(item) for key, item in value.items()}
    if not isinstance(value, tuple | list):
        return value
    items = [change(item) for item in value]
    if all(item is before for item, before in zip(items, value, strict=True)):
        return value
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
