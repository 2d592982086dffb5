import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Small tensors gain nothing from several threads; what the framework warns of is not asked."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("skorch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(before)
