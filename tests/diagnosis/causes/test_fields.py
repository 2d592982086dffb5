"""Causes that predict n from the weights and the gradients: each is named on its own kind, and on nothing else."""

from collections.abc import Callable

import numpy as np
import pytest

from gradguard import Report, Verdict, check, diagnose
from gradguard.testing import FAULTS as LSTM_FAULTS
from gradguard.testing import faulty, random_batch

Arrays = dict[str, np.ndarray]
SHAPES = {"W": (6, 8), "U": (8, 6), "S": (7, 7), "T": (7, 7), "b": (8,), "K": (3, 4, 3)}


def arrays(dtype: type = np.float64, seed: int = 0) -> tuple[Arrays, Arrays, Callable[[Arrays], float]]:
    """Parameters, and the gradient and the value of a loss that is a sum of sines with a random weight each."""
    rng = np.random.default_rng(seed)
    params = {name: rng.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}
    weights = {name: rng.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}
    grads = {name: weights[name] * np.cos(params[name]) for name in params}

    def loss(moved: Arrays) -> float:
        return float(sum((weights[name] * np.sin(moved[name])).sum() for name in moved))

    return params, grads, loss


def checked(change: Callable[[Arrays, Arrays], Arrays], **options: object) -> Report:
    """The check of a gradient in which a fault has replaced some tensors."""
    params, grads, loss = arrays()
    return check(params, grads | change(params, grads), loss, **options)  # type: ignore[arg-type]


FAULTS: dict[str, tuple[str, Callable[[Arrays, Arrays], Arrays]]] = {
    "decay in the gradient": ("weight_decay", lambda w, g: {"W": g["W"] + 0.03 * w["W"]}),
    "decay with the wrong sign": ("weight_decay", lambda w, g: {"b": g["b"] - 2e-4 * w["b"]}),
    "decay and a factor": ("weight_decay", lambda w, g: {"W": 0.1 * (g["W"] + 0.03 * w["W"])}),
    "L1": ("l1_penalty", lambda w, g: {"W": g["W"] + 0.03 * np.sign(w["W"])}),
    "square, transposed": ("transposed", lambda _, g: {"S": g["S"].T.copy()}),
    "oblong, transposed and reshaped": ("transposed", lambda _, g: {"W": g["W"].T.reshape(6, 8).copy()}),
    "oblong, reshaped and transposed": ("transposed", lambda _, g: {"W": g["W"].reshape(8, 6).T.copy()}),
    "three axes, two exchanged": ("transposed", lambda _, g: {"K": g["K"].transpose(2, 1, 0).copy()}),
    "reversed": ("reversed", lambda _, g: {"K": g["K"][::-1, :, ::-1].copy()}),
    "off by one": ("shifted", lambda _, g: {"b": np.roll(g["b"], 1)}),
    "interleaved": ("interleaved", lambda _, g: {"W": g["W"].reshape(6, 4, 2).transpose(0, 2, 1).reshape(6, 8)}),
    "gates exchanged": ("permuted", lambda _, g: {"W": g["W"][:, [0, 1, 4, 5, 2, 3, 6, 7]]}),
    "rows permuted": ("permuted", lambda _, g: {"W": g["W"][[0, 3, 5, 1, 4, 2]]}),
    "swapped": ("of_another_tensor", lambda _, g: {"S": g["T"], "T": g["S"]}),
    "written twice": ("written_twice", lambda _, g: {"S": g["T"].copy()}),
}


@pytest.mark.parametrize(("key", "change"), FAULTS.values(), ids=FAULTS)
def test_each_fault_is_named(key: str, change: Callable[[Arrays, Arrays], Arrays]) -> None:
    """Whatever the tensor's shape; the tensors that agree are not blamed, and the summary speaks of the cause."""
    params, grads, _ = arrays()
    report = checked(change)
    wrong = {name for name, tensor in report.tensors.items() if tensor.verdict.is_bug}
    assert wrong == set(change(params, grads))
    for name in wrong:
        assert report.tensors[name].cause_key.split(":")[0] == key
        assert report.tensors[name].cause in report.explanation


NO_NAME: dict[str, Callable[[Arrays, Arrays], Arrays]] = {
    "random": lambda _, g: {"W": g["W"] * np.random.default_rng(1).uniform(0.5, 2, (6, 8))},
    "the cube": lambda w, g: {"S": g["S"] + 0.05 * w["S"] ** 3},
    "almost transposed": lambda _, g: {"S": g["S"].T * np.random.default_rng(1).uniform(0.9, 1.1, (7, 7))},
    "almost decay": lambda w, g: {"W": g["W"] + 0.03 * w["W"] * np.random.default_rng(1).uniform(0.9, 1.1, (6, 8))},
    "a derivative left out": lambda w, g: {"b": g["b"] / np.cos(w["b"])},
}


@pytest.mark.parametrize("change", NO_NAME.values(), ids=NO_NAME)
def test_what_only_resembles_a_fault_is_not_named(change: Callable[[Arrays, Arrays], Arrays]) -> None:
    """It is a structural error, and no more is said."""
    params, grads, _ = arrays()
    report = checked(change)
    for name in change(params, grads):
        assert report.tensors[name].verdict is Verdict.structure
        assert report.tensors[name].cause_key.startswith(("chain_rule", "wrong_slice"))


def test_the_coefficient_of_a_penalty_is_named_after_a_constant() -> None:
    """Its size and sign are told: here the gradient has what the loss has not."""
    report = checked(lambda w, g: {"W": g["W"] + 0.03 * w["W"]}, constants={"weight_decay": 0.03, "batch": 16})
    tensor = report.tensors["W"]
    assert "numerical - backprop = -0.03 x" in tensor.explanation
    assert "0.03 is `weight_decay`" in tensor.explanation
    assert "the gradient has it and the loss does not" in tensor.cause


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda g: {"S": g["S"].T.copy()}, "numerical is backprop transposed, at each"),
        (
            lambda g: {"K": g["K"].transpose(2, 1, 0).copy()},
            "numerical is backprop transposed (its axes in the order 2, 1, 0), at",
        ),
        (lambda g: {"K": g["K"][::-1, :, ::-1].copy()}, "numerical is backprop reversed along axis 0 and 2, at each"),
        (lambda g: {"b": np.roll(g["b"], -1)}, "numerical is backprop shifted by 1 along axis 0, at each"),
        (lambda g: {"W": g["W"][:, [0, 1, 4, 5, 2, 3, 6, 7]]}, "axis 1 in another order: part 1 is part 2, part 2 is"),
    ],
)
def test_it_is_told_where_the_values_are(change: Callable[[Arrays], Arrays], told: str) -> None:
    """By its axes, and by how far they have moved."""
    ((name, tensor),) = (
        (name, tensor) for name, tensor in checked(lambda _, g: change(g)).tensors.items() if tensor.verdict.is_bug
    )
    assert told in tensor.explanation, name


def test_the_weights_of_an_encoder_and_of_its_decoder_may_be_swapped() -> None:
    """The shape of one is that of the other transposed."""
    rng = np.random.default_rng(0)
    n = {"encoder": rng.normal(size=(6, 8)), "decoder": rng.normal(size=(8, 6))}
    params = {name: np.zeros_like(gradient) for name, gradient in n.items()}
    grads = {"encoder": n["decoder"].T.copy(), "decoder": n["encoder"].T.copy()}
    report = check(params, grads, lambda moved: float(sum((n[name] * np.sin(moved[name])).sum() for name in n)))
    keys = {name: tensor.cause_key for name, tensor in report.tensors.items()}
    assert keys == {"encoder": "of_another_tensor:decoder", "decoder": "of_another_tensor:encoder"}


def test_a_part_that_is_needed_twice_is_not_permuted() -> None:
    """The right values of two gates are those of one: nothing was put in the place of the other."""
    g = np.random.default_rng(0).normal(size=(6, 8))
    n = g.copy()
    n[:, 2:4] = g[:, 0:2]
    assert diagnose({"W": (g, n)}, error=1e-6).tensors["W"].cause_key == "wrong_slice:axis 1, 2 to 3"


def test_wide_bars_do_not_hide_a_transpose() -> None:
    """What it leaves of n - g need not be small, if it is within the bars; what is beyond them is another error."""
    rng = np.random.default_rng(0)
    g, noise = rng.normal(size=(7, 7)), rng.normal(size=(7, 7))
    assert diagnose({"W": (g, g.T + 0.05 * noise)}, error=0.05).tensors["W"].cause_key == "transposed"
    assert diagnose({"W": (g, g.T + 0.2 * noise)}, error=0.05).tensors["W"].cause_key == "chain_rule"


def test_weights_of_one_size_leave_two_penalties_open() -> None:
    """A multiple of them is a multiple of their signs too."""
    signs = np.random.default_rng(0).choice([-0.5, 0.5], (6, 8))
    weights = np.random.default_rng(1).normal(size=(6, 8))
    grads = {"W": weights * np.cos(signs) + 0.03 * signs}
    report = check({"W": signs}, grads, lambda moved: float((weights * np.sin(moved["W"])).sum()))
    assert "x the weights, or the signs of the weights" in report.tensors["W"].explanation


def test_two_biases_of_one_gradient_are_not_swapped() -> None:
    """Their gradients are equal by nature; one of them is wrong, and the other is no place where the right one went."""
    rng = np.random.default_rng(0)
    params = {"b_ih": rng.normal(size=9), "b_hh": rng.normal(size=9)}
    slope = np.cos(params["b_ih"] + params["b_hh"])
    wrong = {"b_ih": slope * rng.uniform(0.5, 2, 9), "b_hh": slope}
    report = check(params, wrong, lambda moved: float(np.sin(moved["b_ih"] + moved["b_hh"]).sum()))
    assert report.tensors["b_ih"].cause_key == "chain_rule"


def test_float32_differences_suffice_for_a_transpose() -> None:
    """Bars of native differences are wide, and twelve entries are enough all the same."""
    params, grads, loss = arrays(np.float32)
    report = check(params, grads | {"S": grads["S"].T.copy()}, loss, precision="native")
    assert report.tensors["S"].cause_key == "transposed"


def test_arrays_alone_show_a_transpose() -> None:
    """`diagnose` is given no weights and no loss, and printed numbers have few digits."""
    g = np.random.default_rng(0).normal(size=(5, 5)).round(4)
    assert diagnose({"W": (g, g.T.round(3))}).tensors["W"].cause_key == "transposed"


@pytest.mark.parametrize("fault", sorted(set(LSTM_FAULTS) - {"weight-decay"}))
def test_no_fault_of_an_lstm_is_a_penalty_on_its_weights(fault: str) -> None:
    """Nor one in which g is hundreds of times n, so that anything near 0 leaves little beside n - g."""
    model, batch = faulty(fault)(hidden=5), random_batch()
    grads = model.loss_and_grads(batch)[1]
    report = check(model.params, grads, lambda: model.loss(batch), constants={"timesteps": 39})
    assert not {tensor.cause_key for tensor in report.tensors.values()} & {"weight_decay", "l1_penalty"}
