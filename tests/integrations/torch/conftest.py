from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Small tensors gain nothing from several."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def torch_as_it_was() -> Iterator[None]:
    """Whatever a check does, none of what it puts in PyTorch's way is left there."""
    from torch.autograd import Function, forward_ad
    from torch.overrides import _get_current_function_mode_stack

    before = Function.__dict__["apply"]
    yield
    assert Function.__dict__["apply"] is before
    assert "apply" not in Function.__mro__[1].__dict__
    assert not _get_current_function_mode_stack()
    with forward_ad.dual_level():  # none was left open
        pass
