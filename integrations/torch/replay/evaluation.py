"""The training's loss as the core evaluates it: without a graph, from where the training's forward passes started."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from gradguard.integrations.torch.overrides import forward_mode
from gradguard.integrations.torch.overrides.vectorized import Vectorized
from gradguard.integrations.torch.parameters import host
from gradguard.integrations.torch.replay.forwards import Forwards, Replay

Around = Callable[[], AbstractContextManager[object]]


class Evaluation:
    """The loss of one check; it evaluates anew at each call.

    Args:
        loss: The user's `loss()`.
        forwards: The forward passes of the training that its gradient is of.
        around: What holds while it is evaluated.
    """

    def __init__(self, loss: Callable[[], object], forwards: Forwards, around: Around = nullcontext) -> None:
        self._loss = loss
        self._forwards = forwards
        self._around = around
        self._skipped: int | None = None

    def __call__(self, copies: Vectorized | None = None) -> object:
        """The loss as a number, or an array of unreduced losses.

        Args:
            copies: Many copies of a parameter, each with a loss of its own, on a leading axis of the array.

        Raises:
            ValueError: It cannot be the loss that the gradient is of.
        """
        if self._skipped is None:
            self._skipped = self._aligned()
        return self._evaluated(self._skipped, copies)[0]

    def _aligned(self) -> int:
        """How many of the training's forward passes the loss leaves out: it may be that of the last batch alone."""
        _, replay = self._evaluated(0, closely=True)
        if replay.draws_elsewhere:
            raise ValueError(
                "the loss draws random numbers before it calls the module, or without calling it, and they are not "
                "those of the training step; draw them once, outside of the loss, or give the guard the module that "
                "the loss calls"
            )
        skipped = max(0, self._forwards.count - replay.calls)
        if replay.differing and not skipped:
            raise ValueError(
                f"the loss calls the module with other inputs than the training did ({', '.join(replay.differing)}): "
                "another batch, or a hidden state from after the step; keep what the step began with, such as "
                "h0 = h before out, h = model(x, h), and use that in the loss"
            )
        if replay.astray and not skipped:
            raise ValueError(
                "the loss does not repeat the training's forward pass: the module returns something else for the same "
                f"inputs (off by {replay.astray:.0%}); give the guard a snapshot= of what it draws from or carries "
                "over, such as a torch.Generator of its own; where it is compiled and has dropout, set "
                "torch._inductor.config.fallback_random = True before"
            )
        return skipped

    def _evaluated(
        self, skipped: int, copies: Vectorized | None = None, *, closely: bool = False
    ) -> tuple[object, Replay]:
        again = self._forwards.again(skipped, closely=closely)
        with self._around(), torch.no_grad(), self._autocast(), _eager(), again as replay:
            losses = self._loss() if copies is None else copies.losses(self._loss)
            return _numbers(forward_mode.told(losses)), replay

    def _autocast(self) -> AbstractContextManager[object]:
        return nullcontext() if self._forwards.autocast is None else self._forwards.autocast.again()


def _eager() -> AbstractContextManager[object]:
    """Compiled modules run as they are written: to compile them once more, for float64, would take minutes."""
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


def _numbers(result: object) -> object:
    return host(result) if isinstance(result, Tensor) else result
