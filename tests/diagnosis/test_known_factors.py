import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gradguard.arrays.validation import require_constants
from gradguard.diagnosis.known_factors import History, Observation

TRAINING = {"timesteps": 39.0, "batch": 16.0}


def labels(ratio: float, error: float = 1e-4, **constants: float) -> list[str]:
    """What a ratio n / g is called, given the constants of the training."""
    return [name.label for name in History(constants or TRAINING).names_of(ratio, error)]


@pytest.mark.parametrize(
    ("ratio", "label", "meaning"),
    [
        (39.01, "`timesteps`", "the backward pass divides by the number of timesteps and the loss does not"),
        (1 / 16, "1/`batch`", "the loss divides by the batch size and the backward pass does not"),
        (39 * 16, "`batch` x `timesteps`", "divides by the batch size times the number of timesteps"),
        (39 / 16, "`timesteps`/`batch`", "divides by the number of timesteps where the loss divides by the batch"),
        (39 * 39, "`timesteps` x `timesteps`", "the number of timesteps times the number of timesteps"),
        (2 * 39, "2 x `timesteps`", "divides by twice the number of timesteps"),
        (2 / 39, "2/`timesteps`", "the loss divides by half of the number of timesteps"),
        (2.0, "2", "the backward pass lost a factor of 2"),
        (0.5, "1/2", "the backward pass is too large by a factor of 2"),
        (2.0**12, "2^12", "the backward pass lost a factor of 2^12"),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_ratio_is_named_and_explained(ratio: float, label: str, meaning: str, sign: int) -> None:
    """Constants, their products, quotients and doubles, whatever the sign, with what they say of the backward pass."""
    found = History(TRAINING).names_of(sign * ratio, 0.005 * ratio)
    assert label in [name.label for name in found]
    assert meaning in next(name for name in found if name.label == label).meaning


def test_a_constant_of_the_user_s_own_is_called_what_they_call_it() -> None:
    """A name that is not known is quoted."""
    name = History({"heads": 12.0}).names_of(12.0, 1e-3)[0]
    assert name.label == "`heads`"
    assert name.meaning == "the backward pass divides by `heads` and the loss does not"


@pytest.mark.parametrize(
    ("ratio", "label", "meaning"),
    [
        (1 / 0.05, "1/`lr`", "backprop is already multiplied by the learning rate `lr`"),
        (1 / 0.7, "1/(1 - `dropout`)", "the loss divides by the share that dropout keeps, 1 - `dropout`,"),
        (1 / 0.8, "1/`keep`", "the loss divides by `keep` and the backward pass does not"),
        (1 / math.log(2), "1/ln(2)", "the loss is in bits (log2)"),
        (math.log(2), "ln(2)", "the gradient that of a loss in bits"),
        (15 / 16, "(`batch` - 1)/`batch`", "divides by the batch size less one where the loss divides by the batch"),
        (39 / 40, "`timesteps`/(`timesteps` + 1)", "loss divides by the number of timesteps plus one"),
        (39 * 16 / 601, "`batch` x `timesteps`/`tokens`", "the batch size times the number of timesteps where"),
    ],
)
def test_a_factor_that_no_constant_is_alone_is_named_where_the_ratio_is_precise(
    ratio: float, label: str, meaning: str
) -> None:
    """The numbers that a training makes of its constants, and logarithms; each is the only name."""
    constants = TRAINING | {"lr": 0.05, "dropout": 0.3, "keep": 0.8, "tokens": 601.0}
    (found,) = History(constants).names_of(ratio, 1e-6 * ratio)
    assert (found.label, meaning in found.meaning) == (label, True)


def test_a_mean_over_one_too_few_needs_a_ratio_that_tells_it_from_the_next() -> None:
    """16/15 and 17/16 differ by 0.4 %."""
    assert labels(16 / 15, error=1e-4) == ["`batch`/(`batch` - 1)"]
    assert labels(16 / 15, error=1e-3) == []


@pytest.mark.parametrize("ratio", [1.0, 1.0004, 17.0, 38.9, 0.4])
def test_a_ratio_that_is_nothing_known_has_no_name(ratio: float) -> None:
    """Three errors decide; and nothing is called after 1, which is no error at all."""
    assert labels(ratio, error=2e-4) == []


@pytest.mark.parametrize("error", [math.inf, math.nan, 2.0, 40.0])
def test_a_vague_ratio_is_not_named(error: float) -> None:
    """With an error bar that anything would fit, a name would be a guess."""
    assert labels(39.0, error) == []


def test_the_simplest_name_wins_and_equals_are_all_told() -> None:
    """A constant before a plain 2, that before products; and two constants of one value are both suspects."""
    assert labels(2.0, timesteps=2.0, batch=16.0) == ["`timesteps`"]
    assert labels(2.0, timesteps=32.0, batch=16.0) == ["2"]
    assert labels(39.0, timesteps=39.0, batch=39.0) == ["`timesteps`", "`batch`"]
    assert labels(64.0, batch=64.0) == ["`batch`"]


def test_a_constant_of_one_names_nothing() -> None:
    """With a batch of one, dividing by the batch is no error, and a product with it is not told."""
    assert labels(39.0, timesteps=39.0, batch=1.0) == ["`timesteps`"]
    assert labels(3.0, batch=1.0) == []


def test_where_constants_change_the_ratio_follows_the_right_one() -> None:
    """A ratio of 16 may be two things; when the next sequence is longer, only one of them still fits."""
    first = Observation(16.0, 1e-3, {"timesteps": 16.0, "batch": 16.0})
    now = {"timesteps": 20.0, "batch": 16.0}
    assert [name.label for name in History(now, (first,)).names_of(20.0, 1e-3)] == ["`timesteps`"]
    assert [name.label for name in History(now, (first,)).names_of(16.0, 1e-3)] == ["`batch`"]
    assert History(now, (first,)).names_of(17.0, 1e-3) == []


def test_one_earlier_ratio_that_was_off_does_not_take_the_name_away() -> None:
    """Of many measurements a few lie beyond four of their errors."""
    constants = {"timesteps": 5.0, "batch": 2.0}
    before = [Observation(5.0 + pull * 1e-4, 1e-4, constants) for pull in (0.3, -1.1, 4.4, 0.8, -0.2, 1.9)]
    assert [name.label for name in History(constants, tuple(before)).names_of(5.0001, 1e-4)] == ["`timesteps`"]


def test_a_ratio_a_little_beyond_three_errors_keeps_its_name() -> None:
    """Of the ratios of a float32 training some lie 3.6 errors away, and then few earlier ones speak for the name."""
    constants = {"timesteps": 39.0, "batch": 16.0}
    before = (Observation(39.0 + 0.8e-3, 1e-3, constants), Observation(39.0 - 3.6e-3, 1e-3, constants))
    for ratio in (39.0 + 0.3e-3, 39.0 - 3.6e-3):
        assert [name.label for name in History(constants, before).names_of(ratio, 1e-3)] == ["`timesteps`"]


@given(a=st.integers(2, 300), b=st.integers(2, 300), error=st.floats(0, 1e-3))
def test_every_named_number_is_within_four_errors_of_the_ratio(a: int, b: int, error: float) -> None:
    """Whatever is named is what the ratio is, and the right name is among those found."""
    assume(a != b)
    ratio = a / b
    found = History({"a": float(a), "b": float(b)}).names_of(ratio, error * ratio)
    assert all(abs(name.value - ratio) <= max(4 * error * ratio, 1.01e-6 * ratio) for name in found)
    assert found or abs(ratio - 1) <= 4 * error * ratio


@pytest.mark.parametrize("value", [0, -3, math.nan, math.inf, "39 steps", None, [39]])
def test_a_constant_that_is_no_positive_number_is_refused(value: Any) -> None:
    """The message says which one and what it is."""
    with pytest.raises(ValueError, match=r"constant 'timesteps' is .*expected a positive number") as raised:
        require_constants({"batch": 16, "timesteps": value})
    assert repr(value) in str(raised.value)


def test_constants_may_be_any_positive_numbers() -> None:
    """Integers, floats, and none at all."""
    assert require_constants({"timesteps": 39, "loss_scale": 0.5}) == {"timesteps": 39.0, "loss_scale": 0.5}
    assert require_constants(None) == {}


def test_constants_that_are_no_mapping_are_told() -> None:
    """The message speaks of the constants, and shows how they are given."""
    constants: Any = [39]
    with pytest.raises((TypeError, ValueError), match="constants"):
        require_constants(constants)


@pytest.mark.parametrize(
    ("ratio", "label", "meaning"),
    [
        (7.0, "the length of axis 0", "divides by the length of axis 0 of this tensor and the loss does not"),
        (1 / 12, "1 / the length of axis 1", "the loss divides by the length of axis 1 of this tensor"),
        (84.0, "the number of entries", "divides by the number of entries of this tensor"),
    ],
)
def test_a_ratio_may_be_a_size_of_the_tensor(ratio: float, label: str, meaning: str) -> None:
    """A mean over an axis, or over everything, where the loss sums; a constant of that value goes before."""
    found = History({"timesteps": 39.0}).names_of(ratio, 1e-4 * ratio, (7, 12))
    assert [name.label for name in found] == [label]
    assert meaning in found[0].meaning
    assert [name.label for name in History({"batch": 7.0}).names_of(7.0, 1e-3, (7, 12))] == ["`batch`"]


def test_the_sizes_of_the_layer_come_after_what_was_given() -> None:
    """The bias of a layer shows neither its inputs nor its cells, but the weights beside it do."""
    shapes = {"Wx": (11, 64), "Wh": (16, 64), "b": (64,)}

    def named(ratio: float, **constants: float) -> list[str]:
        history = History(constants, shapes=shapes)
        return [name.meaning for name in history.names_of(ratio, 1e-4 * ratio, shapes["b"])]

    divides = "the backward pass divides by the length of axis 0 of"
    assert named(11.0) == [f"{divides} `Wx` and the loss does not"]
    assert named(1 / 16) == ["the loss divides by the length of axis 0 of `Wh` and the backward pass does not"]
    assert named(64.0) == [f"{divides} this tensor and the loss does not"]
    assert named(11.0, rows=22.0) == [
        "the backward pass divides by half of `rows` and the loss does not",
        f"{divides} `Wx` and the loss does not",
    ]
    assert named(11.0, rows=11.0) == ["the backward pass divides by `rows` and the loss does not"]
    assert named(13.0) == []


@pytest.mark.parametrize(
    ("ratio", "error", "shape", "constants", "is_sure"),
    [
        (39.0, 0.2, (39, 5), TRAINING, True),
        (39.0, 1.2, (), TRAINING, False),
        (2.0, 0.01, (2,), TRAINING, True),
        (39 * 16, 0.5, (), TRAINING, True),
        (39 * 16, 15.0, (), TRAINING, False),
        (32.0, 1e-3, (32,), TRAINING, False),
        (39.0, 1e-3, (), {"a": 39.0, "b": 39.0, "c": 39.0}, False),
        (7.0, 1e-3, (7,), TRAINING, False),
        (65536.0, 1.0, (), TRAINING, True),
    ],
    ids=["given", "vague", "two", "product", "vague product", "product or length", "three", "length", "loss scale"],
)
def test_a_name_is_sure_only_where_it_is_by_far_the_simplest(
    ratio: float, error: float, shape: tuple[int, ...], constants: dict[str, float], is_sure: bool
) -> None:
    """A constant that was given, before all lengths, unless the ratio is so vague that some number had to fit."""
    found = History(constants).names_of(ratio, error, shape)
    assert [name.is_sure for name in found] == ([True] if is_sure else [False] * len(found))
    assert 1 <= len(found) <= 2
