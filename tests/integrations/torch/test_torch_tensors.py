from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402 - torch may not be there
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from gradguard.integrations.torch.tensors import BLOCK_SIZE, PerturbedTorchTensor, spacing  # noqa: E402

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
AMOUNT = 0.01


def drawn(*shape: int) -> Tensor:
    """Normal numbers, always the same."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "several blocks": lambda: drawn(3 * BLOCK_SIZE + 5),
    "transposed": lambda: drawn(300, 400).t(),
    "every other column": lambda: drawn(300, 800)[:, ::2],
    "a row": lambda: drawn(1, 70_000),
    "a number": lambda: drawn(),
    "nothing": lambda: drawn(0, 3),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tensor_is_moved_along_a_vector_and_put_back_bit_for_bit(layout: str, dtype: Any) -> None:
    """Whatever its layout, it moves as its dtype rounds that, and the products are those of the realised move."""
    tensor = LAYOUTS[layout]().to(dtype)
    before = tensor.clone()
    rng = np.random.default_rng(0)
    vector, gradient = (np.asarray(rng.standard_normal(tuple(tensor.shape))) for _ in range(2))
    place = PerturbedTorchTensor(tensor)
    along, against = place.displace(vector, AMOUNT, gradient)
    moved = (tensor.double() - before.double()).numpy()
    unit = torch.finfo(dtype).eps * before.abs().double().numpy() + 1e-9
    assert np.all(np.abs(moved - AMOUNT * vector) <= unit + 1e-2 * AMOUNT * np.abs(vector))
    scale = float(np.abs(vector * moved).sum() + np.abs(gradient * moved).sum())
    assert along == pytest.approx(float((vector * moved).sum()), abs=1e-8 * scale)
    assert against == pytest.approx(float((gradient * moved).sum()), abs=1e-8 * scale)
    place.restore()
    assert torch.equal(tensor, before)


def test_entries_that_are_no_numbers_stay_and_count_for_nothing() -> None:
    """The others are moved, and the products are theirs."""
    tensor = torch.tensor([1.0, float("nan"), float("inf"), 2.0])
    place = PerturbedTorchTensor(tensor)
    along, against = place.displace(np.full(4, 0.5), 0.25, np.array([1.0, 1.0, 1.0, 3.0]))
    assert (along, against) == (0.125, 0.5)
    assert torch.equal(tensor[[0, 3]], torch.tensor([1.125, 2.125]))
    place.restore()
    assert torch.equal(tensor.nan_to_num(7.0), torch.tensor([1.0, 7.0, torch.finfo(torch.float32).max, 2.0]))


def test_autocast_around_a_check_does_not_round_the_products() -> None:
    """As where the whole loop is under it."""
    vector, gradient = drawn(1000).float().numpy(), drawn(1000).float().numpy() ** 2
    plain = PerturbedTorchTensor(torch.ones(1000)).displace(vector, AMOUNT, gradient)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert PerturbedTorchTensor(torch.ones(1000)).displace(vector, AMOUNT, gradient) == plain


class Allocated(TorchDispatchMode):
    """The largest tensor that any operation of PyTorch makes, in numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and all(
            made.data_ptr() != one.data_ptr() for one in args if isinstance(one, Tensor)
        ):
            self.largest = max(self.largest, made.numel() if made._base is None else 0)
        return made


def test_a_move_makes_no_temporary_as_large_as_the_tensor() -> None:
    """It works in blocks; one copy is kept, once."""
    place = PerturbedTorchTensor(torch.zeros(8 * BLOCK_SIZE))
    vector = np.ones(8 * BLOCK_SIZE, np.float32)
    with Allocated() as first:
        place.displace(vector, AMOUNT, vector)
    with Allocated() as second:
        place.displace(vector, -AMOUNT, vector)
    assert first.largest == 8 * BLOCK_SIZE
    assert 0 < second.largest <= BLOCK_SIZE


def test_an_entry_is_moved_without_a_copy_of_its_tensor() -> None:
    """Also among moves of the whole, and all is put back."""
    tensor = torch.arange(4.0 * BLOCK_SIZE)
    before, place = tensor.clone(), PerturbedTorchTensor(tensor)
    with Allocated() as made:
        assert place.displace_entry((3,), 0.5) == 0.5
        place.restore((3,))
        assert torch.equal(tensor[3], before[3])
        place.displace_entry((5,), 0.5)
    assert made.largest <= 1
    place.displace(np.ones(4 * BLOCK_SIZE), 1.0, np.ones(4 * BLOCK_SIZE))
    assert torch.equal(tensor, before + 1)
    place.displace_entry((7,), 0.25)
    place.restore()
    assert torch.equal(tensor, before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "values", [[3.0, -5.0], [0.0, 0.0], [float("nan"), 1.5], [float("inf"), -float("inf"), 0.75], [-9.0]], ids=str
)
def test_the_spacing_is_that_of_the_largest_finite_entry(values: list[float], dtype: Any) -> None:
    """The distance to the next number of the dtype, whatever else is among the entries."""
    tensor = torch.tensor(values, dtype=dtype)
    largest = torch.tensor(max([abs(value) for value in values if np.isfinite(value)]), dtype=dtype)
    following = torch.nextafter(largest, torch.tensor(float("inf"), dtype=dtype)) if dtype != torch.float16 else None
    expected = float(np.spacing(np.float16(largest))) if following is None else float(following) - float(largest)
    assert spacing(tensor) == expected
    assert spacing(torch.cat([torch.zeros(2 * BLOCK_SIZE, dtype=dtype), tensor])) == expected
