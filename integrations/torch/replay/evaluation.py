"""The training's loss as the core evaluates it: without a graph, repeating the training's forward passes."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from gradguard.integrations.torch.functions.check import FunctionChecks
from gradguard.integrations.torch.functions.recorder import CallRecorder
from gradguard.integrations.torch.overrides.substitution import result_in_active_mode
from gradguard.integrations.torch.overrides.vectorized import VectorizedCopies
from gradguard.integrations.torch.replay.forwards import ForwardRecorder, Replay
from gradguard.integrations.torch.tensors import to_host
from gradguard.report import FunctionReport

Context = Callable[[], AbstractContextManager[object]]


class NotRepeatedError(ValueError):
    """A forward pass of the loss is not that of the training."""


class ReplayedLoss:
    """The loss of one check; each call evaluates it again.

    Args:
        loss: The user's `loss()`.
        forwards: The recorded forward passes of the training that the gradient is of.
        evaluating: Makes the context of an evaluation.
    """

    def __init__(
        self, loss: Callable[[], object], forwards: ForwardRecorder, evaluating: Context = nullcontext
    ) -> None:
        self._loss = loss
        self._forwards = forwards
        self._evaluating = evaluating
        self._functions = FunctionChecks()
        self._skipped: int | None = None  # None before the first evaluation

    def __call__(self, copies: VectorizedCopies | None = None) -> object:
        """The loss as a number, or an array of unreduced losses; in forward mode, its tangent.

        Args:
            copies: K copies of the parameters, for an array of K losses, or of shape (K, ...) where these are
                unreduced; None for the loss at the parameters themselves.

        Raises:
            ValueError: The loss cannot be the one that the gradient is of.
        """
        if self._skipped is None:
            self._skipped = self._count_skipped()
        return self._evaluate(self._skipped, copies)[0]

    def check_functions(self) -> Sequence[FunctionReport]:
        """The check of each Function that the loss calls, on the inputs and upstream gradients of this step."""

        def record(recorder: CallRecorder) -> None:
            with self._evaluating(), self._autocast(), eager(), self._forwards.replaying(self._skipped or 0):
                recorder.record(self._loss)

        return self._functions.check(record)

    @property
    def gradient_hooks(self) -> Sequence[str]:
        """The user's hooks that may change the gradients, once the Functions are checked."""
        return self._functions.hooks

    def _count_skipped(self) -> int:
        """How many of the training's first forward passes the loss leaves out: it may be that of the last batch alone.

        Raises:
            NotRepeatedError: It does not repeat the forward passes of the training.
            ValueError: The loss cannot be the one that the gradient is of.
        """
        if self._forwards.is_outdated:
            raise ValueError(
                "the optimizer has updated the parameters since the forward pass that the gradient is of; call "
                "after_backward between loss.backward() and optimizer.step()"
            )
        _, replay = self._evaluate(0, compare=True)
        if replay.draws_outside_module:
            raise ValueError(
                "the loss draws random numbers before it calls the module, or without calling it, and they differ from "
                "those of the training step; draw them once, outside of the loss, or guard the module that it calls"
            )
        skipped = max(0, self._forwards.count - replay.calls)
        if replay.differing_inputs and not skipped:
            raise NotRepeatedError(
                "the loss calls the module with other inputs than the training did "
                f"({', '.join(replay.differing_inputs)}): another batch, a hidden state after the step, or a batch "
                "normalized in place.\n"
                "Use the inputs of the step in the loss, such as h0 = h before out, h = model(x, h), and make new "
                "tensors where the batch is changed"
            )
        if replay.output_distance and not skipped:
            raise NotRepeatedError(
                "the loss does not repeat the training's forward pass: the module returns something else for the same "
                f"inputs (off by {replay.output_distance:.0%}).\n"
                "Call after_backward before the parameters are updated, and pass a snapshot= of what the module draws "
                "from or carries over, such as its torch.Generator.\n"
                "For a compiled module with dropout, set torch._inductor.config.fallback_random = True first"
            )
        return skipped

    def _evaluate(
        self, skipped: int, copies: VectorizedCopies | None = None, *, compare: bool = False
    ) -> tuple[object, Replay]:
        replaying = self._forwards.replaying(skipped, compare=compare)
        with self._evaluating(), torch.no_grad(), self._autocast(), eager(), replaying as replay:
            losses = self._loss() if copies is None else copies.losses(self._loss)
            return to_host(result_in_active_mode(losses)), replay

    def _autocast(self) -> AbstractContextManager[object]:
        return nullcontext() if self._forwards.autocast is None else self._forwards.autocast.enter_again()


def eager() -> AbstractContextManager[object]:
    """Compiled modules run uncompiled: compiling them again, for float64, would take minutes."""
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
