import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from gradguard import Verdict, diagnose

RNG = np.random.default_rng(0)
G = RNG.standard_normal(40)
SCATTER = RNG.standard_normal(40)


def verdict_of(n: NDArray[np.float64], error: NDArray[np.float64]) -> Verdict:
    """What is said of the numerical derivatives beside G, with their error bars."""
    return diagnose({"W": (G, n)}, error={"W": error}).tensors["W"].verdict


def test_a_factor_is_one_though_the_noise_is_more_than_was_heard() -> None:
    """What it leaves is twice what the bars allow, and nothing beside what it explains."""
    n = 4.57 * G * (1 + 1e-4 * SCATTER)
    assert verdict_of(n, 5e-5 * np.abs(n)) is Verdict.scale


def test_a_factor_near_1_must_fit_the_noise() -> None:
    """The same scatter is much of what a factor of 1.002 explains."""
    n = 1.002 * G * (1 + 1e-4 * SCATTER)
    assert verdict_of(n, 3e-5 * np.abs(n)) is Verdict.structure


@pytest.mark.parametrize("factors", [(2.0, 2.1), (4.0, 4.4)])
def test_two_factors_are_none(factors: tuple[float, float]) -> None:
    """No entry stands out, and what the one in the middle leaves is more than noise and more than next to nothing."""
    n = G * np.where(np.arange(G.size) % 2, *factors)
    assert verdict_of(n, 0.01 * np.abs(n)) is Verdict.structure


def test_an_entry_that_stands_out_is_no_part_of_a_factor() -> None:
    """However small it is beside the others."""
    n = 4.57 * G
    smallest = np.argmin(np.abs(G))
    n[smallest] *= 1.5
    assert verdict_of(n, 1e-3 * np.abs(n)) is Verdict.structure


@pytest.mark.parametrize("shape", [(40,), (8, 5), (2, 4, 5)], ids=str)
@pytest.mark.parametrize("error", [None, 1e-6])
def test_arrays_of_any_shape_are_diagnosed(shape: tuple[int, ...], error: float | None) -> None:
    """With error bars and without; entries are told by their place in the array."""
    g = G[: math.prod(shape)].reshape(shape)
    tensor = diagnose({"W": (g, 39 * g)}, error=error, constants={"timesteps": 39}).tensors["W"]
    assert (tensor.verdict, tensor.shape) == (Verdict.scale, shape)
    assert "39 is `timesteps`" in tensor.explanation
    assert all(g[entry.index] == entry.analytic for entry in tensor.entries)


NUMBERS = [0.12347, 0.2191, -0.30073, 0.0513]
TWICE = [0.24694, 0.4382, -0.60147, 0.1026]


@pytest.mark.parametrize(
    "g",
    [
        tuple(NUMBERS),
        [str(number) for number in NUMBERS],
        ["1.2347D-1", "+0.2191E0", "\u22120.30073", ".0513"],
        [Decimal(str(number)) for number in NUMBERS],
        [Fraction(str(number)) for number in NUMBERS],
        [[number] for number in NUMBERS],
        [np.array([number]) for number in NUMBERS],
        np.array(NUMBERS)[None],
        np.array(NUMBERS, np.float16)[:, None, None],
    ],
    ids=["tuple", "text", "forms of text", "Decimal", "Fraction", "nested", "arrays", "row", "float16"],
)
def test_numbers_in_whatever_holds_them_are_diagnosed(g: object) -> None:
    """Text, exact fractions, lists of lists, and a column beside a row are all numbers."""
    tensor = diagnose({"w": (g, TWICE)}).tensors["w"]
    assert (tensor.verdict, round(tensor.ratio, 2)) == (Verdict.scale, 2)
    assert tensor.shape == np.shape(g)


@pytest.mark.parametrize(
    ("g", "n", "words"),
    [
        (np.ones((2, 3)), np.ones((3, 2)), r"shape \(2, 3\) and numerical \(3, 2\); expected the same: transpose one"),
        (np.ones((2, 3)), np.ones(6), r"in one order, pass numerical.reshape\(\(2, 3\)\)"),
        (np.ones(3), np.ones(4), r"backprop of 'w' has shape \(3,\) and numerical \(4,\); expected the same$"),
        ([1, [2, 3]], [1, 2], "backprop of 'w' holds lists of different lengths"),
        ([1.0, None], [1, 2], "backprop of 'w' holds None, a NoneType; expected numbers"),
        (["0.1", "6.266e-0.6"], [1, 2], "backprop of 'w' holds the text '6.266e-0.6'; expected numbers"),
        ([1j], [1], "backprop of 'w' has dtype complex128; expected real numbers"),
        ([True], [1], "backprop of 'w' has dtype bool; expected real numbers"),
        ([], [], "backprop and numerical of 'w' are empty"),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_it(g: object, n: object, words: str) -> None:
    """The message has the tensor, what was given and what was expected."""
    with pytest.raises((TypeError, ValueError), match=words):
        diagnose({"w": (g, n)})


def test_two_texts_are_no_pair() -> None:
    """A text of two letters is not taken for two gradients."""
    with pytest.raises(TypeError, match="is not a pair"):
        diagnose({"w": "12"})


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("form", ["{:.3f}", "{:.2e}"])
def test_what_printing_rounds_off_is_no_bug(form: str, seed: int) -> None:
    """Whichever of the two was printed with few decimals, as text or as numbers that were typed again."""
    exact = 0.004 * np.random.default_rng(seed).standard_normal(300)
    printed = [form.format(value) for value in exact]
    for pair in [
        (exact, printed),
        (printed, exact),
        (exact, list(map(float, printed))),
        (list(map(float, printed)), exact),
    ]:
        assert diagnose({"w": pair}).tensors["w"].verdict.is_bug is not True


def test_digits_that_were_cut_off_are_no_factor() -> None:
    """All of many numbers then err to the same side, by less than the last decimal."""
    exact = 0.01 * np.random.default_rng(0).standard_normal(4000)
    assert diagnose({"w": (exact, np.trunc(1000 * exact) / 1000)}).tensors["w"].verdict.is_bug is not True
    assert diagnose({"w": (exact, np.trunc(4000 * exact) / 1000)}).tensors["w"].verdict is Verdict.scale


@pytest.mark.parametrize("entries", [100, 1000, 5000])
def test_truncation_of_many_entries_is_no_factor(entries: int) -> None:
    """Central differences of a sine shrink all derivatives by nearly one factor; a true factor of that size is one."""
    x = np.random.default_rng(0).uniform(-1, 1, entries)
    weights = np.random.default_rng(1).uniform(0.5, 1, entries)
    steps = 0.2 * weights
    g, n = weights * np.cos(weights * x), (np.sin(weights * (x + steps)) - np.sin(weights * (x - steps))) / (2 * steps)
    assert 0.002 < 1 - np.median(n / g) < 0.006
    assert diagnose({"w": (g, n)}).tensors["w"].verdict.is_bug is not True
    assert diagnose({"w": (g, g * 64 / 63)}).tensors["w"].verdict is Verdict.scale


@pytest.mark.parametrize("form", ["", ".7f", ".3e", "g"])
@pytest.mark.parametrize("quanta", [0.4, 1.0, 3.0, 30.0])
def test_differences_below_the_quantum_of_the_loss_are_no_bug(quanta: float, form: str) -> None:
    """The quantum shows in n, printed or not, be it that the loss moves by none or one, or by many."""
    quantum = 2.0**-23 / 0.01
    for seed in range(10):
        g = quanta * quantum * np.random.default_rng(seed).standard_normal(40)
        n = [format(value, form) for value in quantum * np.rint(g / quantum)]
        assert diagnose({"w": (g, n)}).tensors["w"].verdict.is_bug is not True
        assert diagnose({"w": (g, list(map(float, n)))}).tensors["w"].verdict.is_bug is not True


def test_gradients_that_repeat_are_no_quanta() -> None:
    """Equal entries of one sign, and ones beside zeros, leave a factor of 2 as clear as it is."""
    for n in ([0.25] * 6 + [0.5] * 6, [1.0, 0.0, 1.0, 1.0, 0.0], [0.1234, 0.1234, 0.5678]):
        assert diagnose({"w": (np.divide(n, 2), n)}).tensors["w"].verdict is Verdict.scale


def test_differences_below_a_given_quantum_are_no_bug() -> None:
    """However many there are, and though all have one sign."""
    g = np.abs(np.random.default_rng(0).standard_normal(2000))
    assert diagnose({"w": (g, g - 0.9e-2)}, quantum=1e-2).tensors["w"].verdict.is_bug is not True


def test_a_gradient_of_zeros_may_be_what_printing_left() -> None:
    """Zeros with four decimals do not contradict 0.00004, and contradict 0.04."""
    assert diagnose({"w": (["0.0000"] * 3, ["0.00004", "0.00003", "-0.00002"])}).verdict.is_bug is not True
    assert diagnose({"w": (["0.0000"] * 3, ["0.04", "0.03", "-0.02"])}).verdict is Verdict.missing


def bfloat16(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The values rounded to 8 significant bits."""
    bits = values.astype(np.float32).view(np.uint32) + np.uint32(0x8000)
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


def test_a_gradient_in_16_bits_has_their_rounding() -> None:
    """What bfloat16 rounds off is no bug; where more is wrong, the format is named."""
    scatter = 0.004 * SCATTER * np.abs(G).max()
    assert diagnose({"w": (bfloat16(G + scatter), G)}, error=1e-9).tensors["w"].verdict.is_bug is not True
    assert diagnose({"w": (G + scatter, G)}, error=1e-9).tensors["w"].verdict is Verdict.structure
    wrong = diagnose({"w": (bfloat16(G * (1 + 0.3 * SCATTER)), G)}).tensors["w"]
    assert wrong.verdict is Verdict.structure
    assert "every backprop value is a bfloat16 number" in wrong.explanation


def test_short_numbers_are_no_16_bit_format() -> None:
    """Quarters and whole numbers fit every format."""
    wrong = diagnose({"w": ([0.25, -0.5, 0.75, 3.0, 97.0], [0.5, -0.5, 0.5, 7.0, 55.0])}).tensors["w"]
    assert "bfloat16" not in wrong.explanation


@pytest.mark.parametrize("seed", range(3))
def test_a_bfloat16_array_of_another_library_is_read(seed: int) -> None:
    """NumPy knows its numbers only through the library."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    g = np.random.default_rng(seed).standard_normal(12)
    assert diagnose({"w": (g.astype(ml_dtypes.bfloat16), g)}).verdict.is_bug is not True
    assert diagnose({"w": (g.astype(ml_dtypes.bfloat16), 3 * g)}).verdict is Verdict.scale


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_tensors_of_pytorch_are_read(dtype: str) -> None:
    """Alone and in a list, as part of a graph, and in a dtype that NumPy does not know."""
    torch = pytest.importorskip("torch")
    g = torch.tensor(NUMBERS, dtype=getattr(torch, dtype), requires_grad=True)
    for given in (g, list(g), 1 * g):
        assert diagnose({"w": (given, TWICE)}).verdict is Verdict.scale


def test_a_step_that_moved_nothing_is_no_spurious_gradient() -> None:
    """N of 0 throughout is a loss that does not depend on the tensor, or a step below the quantum of the loss."""
    for size in (1e-12, 1e-3):
        tensor = diagnose({"w": (size * G, 0 * G)}).tensors["w"]
        assert (tensor.verdict, tensor.cause_key) == (Verdict.inconclusive, "loss_not_moved")
        assert "the step may be too small" in tensor.cause
    large = diagnose({"w": (G, 0 * G)}).tensors["w"]
    assert large.verdict is Verdict.spurious
    assert "the step was too small" in large.cause
    known = diagnose({"w": (1e-3 * G, 0 * G)}, error=1e-6).tensors["w"]
    assert known.verdict is Verdict.spurious


@pytest.mark.parametrize(("n", "verdict"), [(1e-10, Verdict.float_precision), (1e-6, Verdict.structure)])
def test_what_rounding_leaves_of_zero_is_told_by_the_other_tensors(n: float, verdict: Verdict) -> None:
    """In float32 a sum of terms of 25 cancels to 1e-7; where n is not negligible beside g, it is no such sum."""
    tensors = diagnose({"x": (1e-6 * G, n * SCATTER), "beta": (25 + G, 25 + G)}).tensors
    assert tensors["x"].verdict is verdict
    assert tensors["beta"].verdict is Verdict.ok
