"""A loss with its graph, apart from the training's: no gradient and no hook of the training takes part."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from gradguard.integrations.torch.overrides.reverse_mode import GRAPH_NODE
from gradguard.integrations.torch.overrides.substitution import SubstitutionMode
from gradguard.integrations.torch.replay.saved import LIBRARIES


class LeavesMode(SubstitutionMode):
    """While it is active, operations receive other leaves on the same memory, and no hooks on gradients are registered.

    Attributes:
        leaves: The leaves that require a gradient and that an operation has received.
        hooks: The user's hooks that change gradients in the training, as in "`scale` (model.py:31)".
    """

    def __init__(self) -> None:
        super().__init__(())
        self.leaves: list[Tensor] = []
        self.hooks: dict[str, None] = {}
        self._modules = _no_hook()

    def __enter__(self) -> Self:
        thread = threading.get_ident()

        def before_forward(module: nn.Module, _args: object) -> None:
            if threading.get_ident() == thread:
                self._note((*module._backward_hooks.values(), *module._backward_pre_hooks.values()))

        self._modules = register_module_forward_pre_hook(before_forward)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._modules.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.register_hook, Tensor.register_post_accumulate_grad_hook):
            self._note(args[1:])
            return _no_hook()
        result = super().__torch_function__(func, types, args, kwargs)
        # Modules register the hooks of their backward pass at nodes of the graph.
        return _NodeWithoutHooks(result) if func == GRAPH_NODE and result is not None else result

    def _substitute_tensor(self, tensor: Tensor) -> Tensor:
        known = self._substitutes.get(id(tensor))
        if known is not None:
            return known[1]
        with torch._C.DisableTorchFunction():
            # Within a transform of torch.func, PyTorch makes no leaves.
            if not tensor.requires_grad or not tensor.is_leaf or torch._C._are_functorch_transforms_active():
                return tensor
            self._note([*(tensor._backward_hooks or {}).values()])
            self._note([*(tensor._post_accumulate_grad_hooks or {}).values()])
            leaf = tensor.detach().requires_grad_()
        self.leaves.append(leaf)
        self.add_substitute(leaf, leaf)
        self.add_substitute(tensor, leaf)
        return leaf

    def _note(self, hooks: Iterable[Callable[..., object]]) -> None:
        for hook in hooks:
            code = getattr(hook, "__code__", None)
            if code is not None and (hook.__module__ or "").partition(".")[0] not in LIBRARIES:
                self.hooks[f"`{hook.__name__}` ({Path(code.co_filename).name}:{code.co_firstlineno})"] = None


class _NodeWithoutHooks:
    """A node of the graph at which no hook is registered."""

    def __init__(self, node: Any) -> None:
        self._node = node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def register_hook(self, _hook: object) -> RemovableHandle:
        """Nothing."""
        return _no_hook()

    register_prehook = register_hook


def _no_hook() -> RemovableHandle:
    return RemovableHandle(OrderedDict())
