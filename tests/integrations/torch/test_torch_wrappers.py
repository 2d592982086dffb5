"""Modules that are copied, saved, compiled or wrapped for several processes."""

import copy
import io
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402 - torch may not be there
from torch_checks import bugs, checked, guard_of, same, seeded  # noqa: E402
from torch_models import Perceptron, batches, cross_entropy  # noqa: E402


def test_a_copy_and_a_saved_module_are_free_of_the_guard() -> None:
    """An average of the weights, or a whole module in a file, does not take the guard along."""
    module = seeded(Perceptron)
    with guard_of(module) as guard:
        copied, file = copy.deepcopy(module), io.BytesIO()
        torch.save(module, file)
        assert b"gradguard" not in file.getvalue()
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        x = batches(1)[0][0]
        for other in (copied, loaded):
            assert torch.equal(other(x), module(x))
        assert guard._forwards.count == 2
    module(x)
    assert guard._forwards.count == 2


@pytest.mark.parametrize("attached", ["compiled", "inner"])
def test_a_compiled_module_is_checked_as_it_is_written(attached: str) -> None:
    """Its parameters keep their names, nothing is compiled for the check, and training is bit for bit the same."""
    compilations = []

    def backend(graph: Any, inputs: Any) -> Any:
        compilations.append(len(inputs))
        return graph.forward

    def left(*, guarded: bool) -> dict[str, Tensor]:
        torch.compiler.reset()
        module = seeded(Perceptron)
        compiled = torch.compile(module, backend=backend)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        guard = guard_of(compiled if attached == "compiled" else module, optimizer) if guarded else None
        for step, (x, y) in enumerate(batches(2)):
            optimizer.zero_grad()
            cross_entropy(compiled(x), y).backward()
            if guard is not None:
                report = guard.after_backward(step, lambda x=x, y=y: cross_entropy(compiled(x), y))
                assert report is not None
                assert set(report.tensors) == {"inner.weight", "inner.bias", "out.weight", "out.bias"}
                assert report.verdict.is_bug is False
                assert report.precision == "float64"
            optimizer.step()
        return module.state_dict()

    without, count = left(guarded=False), len(compilations)
    assert same(without, left(guarded=True))
    assert len(compilations) == 2 * count


def test_a_distributed_module_of_one_process_is_checked() -> None:
    """Its parameters keep the names that they have without."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        report = checked(nn.parallel.DistributedDataParallel(seeded(Perceptron)))
    finally:
        torch.distributed.destroy_process_group()
    assert set(report.tensors) == {"inner.weight", "inner.bias", "out.weight", "out.bias"}
    assert bugs(report) == {}
