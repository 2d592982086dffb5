"""torchmetrics within a training step: each of their calls returns in a replay what it returned in the training.

A replay that updated them would cost more than the loss, and `torch.func.vmap` refuses most of them.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

METHODS = ("forward", "update", "compute")
"""The methods by which a training step uses a metric."""

Results = dict[tuple[int, str], list[Any]]
"""What the calls of each method of each metric returned, in order."""


class MetricCalls:
    """The calls of the metrics of a module, recorded and repeated.

    A metric whose result has a graph may be part of the loss: it is called in a replay too.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._in_loss: set[int] = set()

    @contextmanager
    def recording(self) -> Iterator[Results]:
        """Context of a training step, which fills in the results of its calls."""
        results: Results = {}

        def recorded(metric: nn.Module, method: str, call: Callable[..., Any]) -> Callable[..., Any]:
            def call_and_record(*args: Any, **kwargs: Any) -> Any:
                result = call(*args, **kwargs)
                if _has_graph(result):
                    self._in_loss.add(id(metric))
                else:
                    results.setdefault((id(metric), method), []).append(result)
                return result

            return call_and_record

        with self._replaced(self._metrics(), recorded):
            yield results

    @contextmanager
    def repeating(self, results: Results) -> Iterator[None]:
        """Context of a replay, in which the calls return what was recorded."""
        remaining = {key: iter(returned) for key, returned in results.items()}

        def repeated(metric: nn.Module, method: str, _call: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *_args, **_kwargs: next(remaining.get((id(metric), method), iter(())), None)

        with self._replaced([metric for metric in self._metrics() if id(metric) not in self._in_loss], repeated):
            yield

    def _metrics(self) -> list[nn.Module]:
        torchmetrics = sys.modules.get("torchmetrics")
        if torchmetrics is None:
            return []
        kinds = (torchmetrics.Metric, torchmetrics.MetricCollection)
        return [part for part in self._module.modules() if isinstance(part, kinds)]

    @contextmanager
    def _replaced(
        self, metrics: list[nn.Module], make: Callable[[nn.Module, str, Callable[..., Any]], Callable[..., Any]]
    ) -> Iterator[None]:
        with ExitStack() as replaced:
            for metric in metrics:
                for method in METHODS:
                    if callable(getattr(metric, method, None)):
                        replacement = make(metric, method, getattr(metric, method))
                        replaced.enter_context(replaced_attribute(metric, method, replacement))
            yield


@contextmanager
def replaced_attribute(owner: object, name: str, value: object) -> Iterator[None]:
    """Context in which an object has an attribute of its own instead of that of its class, or of its earlier one."""
    attributes = vars(owner)
    before = [attributes[name]] if name in attributes else []
    attributes[name] = value
    try:
        yield
    finally:
        if before:
            attributes[name] = before[0]
        else:
            attributes.pop(name, None)


def _has_graph(result: Any) -> bool:
    items = result.values() if isinstance(result, dict) else result if isinstance(result, tuple | list) else [result]
    return any(isinstance(item, Tensor) and item.requires_grad for item in items)
