"""What each named cause says of a gradient, and how a cause is added."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from gradguard import Report, TensorReport, Verdict, check, diagnose, gates
from gradguard.diagnosis.causes import registry
from gradguard.diagnosis.causes.symptoms import Diagnosis, Model, Symptoms

RNG = np.random.default_rng(0)
G = RNG.standard_normal((8, 12))
TRAINING = {"timesteps": 39.0, "batch": 16.0}


def tensor_of(n: ArrayLike, g: ArrayLike = G, **constants: float) -> TensorReport:
    """The report on one tensor, of which the numerical gradient n is known to 1e-6."""
    return diagnose({"W": (g, n)}, error=1e-6, constants=constants or TRAINING).tensors["W"]


def scaled(rows: slice, factor: float) -> np.ndarray:
    """G with some of its rows scaled."""
    n = G.copy()
    n[rows] *= factor
    return n


@pytest.mark.parametrize(
    ("ratio", "key", "factors"),
    [
        (39, "divided_by:timesteps", ("`timesteps`",)),
        (1 / 16, "not_divided_by:batch", ("1/`batch`",)),
        (39 / 16, "divided_by:timesteps/batch", ("`timesteps`/`batch`",)),
        (39 * 16, "divided_by:batch*timesteps", ("`batch` x `timesteps`",)),
        (2 / 39, "not_divided_by:timesteps/2", ("2/`timesteps`",)),
        (8, "divided_by:batch/2 or divided_by:axis 0", ("`batch`/2",)),
        (12, "divided_by:axis 1", ()),
        (1 / 96, "not_divided_by:size", ()),
        (2, "factor:2", ()),
        (2.0**9, "factor:2^9", ()),
        (1.37, "too_small", ()),
        (0.73, "too_large", ()),
        (-1, "wrong_sign", ()),
        (-39, "wrong_sign, divided_by:timesteps", ("`timesteps`",)),
        (-1.37, "wrong_sign, too_small", ()),
    ],
)
def test_a_factor_has_a_key_and_the_labels_of_what_the_user_named(
    ratio: float, key: str, factors: tuple[str, ...]
) -> None:
    """A plain number, and a size of the tensor itself, have no name that a user gave."""
    tensor = tensor_of(ratio * G)
    assert (tensor.cause_key, tensor.factors) == (key, factors)
    assert tensor.verdict is (Verdict.sign if ratio < 0 else Verdict.scale)


def test_all_constants_that_fit_are_in_the_key() -> None:
    """Two constants of one value are both suspects; and the length of another tensor's axis is named after that."""
    tensor = tensor_of(39 * G, steps=39.0, length=39.0)
    assert tensor.cause_key == "divided_by:steps or divided_by:length"
    assert tensor.factors == ("`steps`", "`length`")
    weights = {"W": np.full((11, 3), 0.5), "b": np.array([0.3, 0.7, 1.1])}
    grads = {"W": np.cos(weights["W"]), "b": np.cos(weights["b"]) / 11}
    bias = check(weights, grads, lambda: float(sum(np.sin(w).sum() for w in weights.values()))).tensors["b"]
    assert (bias.cause_key, bias.factors) == ("divided_by:axis 0 of W", ("the length of axis 0 of `W`",))


def test_a_mean_over_one_too_many_is_told_of_two_as_well() -> None:
    """Three halves is one more than a batch of two, over it; of a batch of one it is nothing."""
    assert "(`batch` + 1)/`batch`" in tensor_of(1.5 * G, batch=2.0).factors
    assert tensor_of(1.5 * G, batch=1.0).factors == ()


@pytest.mark.parametrize(("ratio", "label"), [(0.7, "1 - `dropout`"), (1 / 0.7, "1/(1 - `dropout`)")])
def test_the_share_that_dropout_keeps_is_named(ratio: float, label: str) -> None:
    """It is what inverted dropout divides by, and a forward or backward pass may forget that."""
    tensor = tensor_of(ratio * G, dropout=0.3)
    assert tensor.factors == (label,)
    assert "the share that dropout keeps, 1 - `dropout`" in tensor.cause


def test_what_is_not_sure_of_a_factor_is_a_possibility() -> None:
    """A constant is a statement; two that fit, or the length of an axis, are possibilities."""
    given = tensor_of(39 * G)
    assert "39 is `timesteps`" in given.explanation
    assert given.cause == "the backward pass divides by the number of timesteps and the loss does not"
    length, both = tensor_of(12 * G), tensor_of(39 * G, steps=39.0, length=39.0)
    assert "12 may be the length of axis 1" in length.explanation
    assert "39 is `steps` or `length`" in both.explanation
    for unsure in (length, both):
        assert "times too small; perhaps the backward pass divides by" in unsure.cause


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        (
            {"W": (4, 6), "b": (4,)},
            "perhaps the loss alone divides by 4, the length of an axis in each of these tensors",
        ),
        (
            {"W": (4, 6), "V": (5, 3), "b": (4,)},
            "4 times too large; pass constants={...} to have the factor identified",
        ),
        ({"W": (4, 6)}, "perhaps the loss divides by the length of axis 0 of this tensor"),
    ],
    ids=["all have it", "one has not", "one tensor"],
)
def test_a_length_names_a_factor_of_several_tensors_only_if_all_have_it(
    shapes: dict[str, tuple[int, ...]], says: str
) -> None:
    """One possibility for all of them, not one for each shape; a tensor without such an axis answers it."""
    params = {name: RNG.standard_normal(shape) for name, shape in shapes.items()} | {"right": RNG.standard_normal(9)}
    grads = {name: (1 if name == "right" else 4) * np.cos(w) for name, w in params.items()}
    report = check(params, grads, lambda: float(sum(np.sin(w).sum() for w in params.values())))
    told = {report.tensors[name].cause for name in shapes}
    assert len(told) == 1
    assert says in told.pop()


@pytest.mark.parametrize(
    ("n", "g", "verdict", "key"),
    [
        (G, 0 * G, Verdict.missing, "never_written"),
        (0 * G, G, Verdict.spurious, "not_in_the_loss"),
        (G, np.clip(G, -0.5, 0.5), Verdict.clipped, "clipped_by_value"),
        (scaled(slice(2, 4), -3.0), G, Verdict.structure, "wrong_slice:axis 0, 2 to 3"),
        (scaled(slice(5, 6), -3.0), G, Verdict.structure, "wrong_slice:axis 0, 5 to 5"),
        (G * RNG.uniform(1, 3, G.shape), G, Verdict.structure, "chain_rule"),
        (G, G, Verdict.ok, ""),
    ],
    ids=["missing", "spurious", "clipped", "block", "row", "structure", "ok"],
)
def test_every_cause_has_a_key(n: ArrayLike, g: ArrayLike, verdict: Verdict, key: str) -> None:
    """It tells one cause from another without a look at its words; where nothing is wrong there is none."""
    tensor = tensor_of(n, g)
    assert (tensor.verdict, tensor.cause_key) == (verdict, key)
    assert bool(tensor.cause) == bool(key)


def test_one_wrong_gate_has_a_key() -> None:
    """The gate itself is the faulty block."""
    weights = {"W": RNG.standard_normal((3, 8))}
    grads = np.cos(weights["W"]) * np.repeat([1, 1, -1, 1], 2)
    report = check(
        weights, {"W": grads}, lambda: float(np.sin(weights["W"]).sum()), blocks={"W": gates("ifog", axis=1)}
    )
    tensor = report.tensors["W"]
    assert (tensor.cause_key, tensor.faulty_block) == ("wrong_blocks", "o")


def test_what_cannot_be_told_has_a_key_too() -> None:
    """A bar that is too wide, many deviations of three bars and none beyond six, and numbers that are none."""
    assert diagnose({"W": (G, G)}, error=5.0).tensors["W"].cause_key == "loss_too_noisy"
    scattered = G + 0.6 * RNG.choice([-1, 1], G.shape)
    assert diagnose({"W": (G, scattered)}, error=0.2).tensors["W"].cause_key == "not_confirmed"
    assert diagnose({"W": (G * np.nan, G)}).tensors["W"].cause_key == "overflow"


def check_quadratic(sizes: Mapping[str, int], ratio: float, norm: float, **constants: float) -> Report:
    """A check of half the squared norm of some vectors; all gradients are `ratio` too small, and have this norm."""
    vectors = {name: RNG.standard_normal(size) for name, size in sizes.items()}
    unit = np.linalg.norm(np.concatenate(list(vectors.values())))
    params = {name: vector * ratio * norm / unit for name, vector in vectors.items()}
    grads = {name: param / ratio for name, param in params.items()}
    return check(params, grads, lambda: float(sum(0.5 * np.sum(w**2) for w in params.values())), constants=constants)


def test_a_round_norm_of_all_gradients_is_a_clip() -> None:
    """Whatever else the factor may be; a norm that is not round is none."""
    for constants in ({}, {"timesteps": 139.0}):
        report = check_quadratic({"a": 5, "b": 7}, 139.0, 5.0, **constants)
        for tensor in report.tensors.values():
            assert (tensor.verdict, tensor.cause_key) == (Verdict.clipped, "clipped_by_norm")
            assert "the norm of all gradients together is 5" in tensor.explanation
    assert check_quadratic({"a": 5, "b": 7}, 139.0, 5.123).verdict is Verdict.scale


@pytest.mark.parametrize(
    ("size", "ratio", "constants", "key"),
    [
        (5, 1.7321, {}, "clipped_by_norm"),
        (5, 139.0, {}, "clipped_by_norm"),
        (5, 139.0, {"timesteps": 139.0}, "divided_by:timesteps"),
        (139, 139.0, {}, "clipped_by_norm"),
        (5, 2.0, {}, "factor:2"),
    ],
)
def test_a_round_norm_of_one_gradient_is_a_clip_unless_the_factor_has_a_name(
    size: int, ratio: float, constants: dict[str, float], key: str
) -> None:
    """The name of a constant is a better reason; a size of the tensor is not, and a round factor is no clip's."""
    tensor = check_quadratic({"a": size}, ratio, 1.0, **constants).tensors["a"]
    assert tensor.cause_key == key
    assert tensor.verdict is (Verdict.clipped if key == "clipped_by_norm" else Verdict.scale)


WRONG, RIGHT = (G, G**3), (G, G)
SQUARE, BIAS = (G[:, :8], G[:, :8] ** 3), (G[0], G[0] ** 3)


@pytest.mark.parametrize(
    ("pairs", "key"),
    [
        ({"a": (G, 3 * G), "b": (G, 3 * G)}, "one_factor_everywhere"),
        ({"a": (G, 3 * G), "b": (G, 4 * G)}, ""),
        ({"a": (G, 3 * G), "b": (G, 3 * G), "c": (G, G)}, ""),
        ({"a": (G, 6 * G), "b": (G, 6 * G * RNG.uniform(0.95, 1.05, G.shape))}, "factor_with_more_on_top"),
        ({"Wx": WRONG, "Whh": SQUARE, "V": RIGHT}, "carry_through_time"),
        ({"layer1": WRONG, "layer2": SQUARE, "layer3": RIGHT}, "error_enters"),
        ({"W1": WRONG, "W2": SQUARE, "V": RIGHT, "b1": BIAS, "b2": BIAS}, "error_enters"),
        ({"W1": WRONG, "W2": WRONG, "b2": (G[0], G[0]), "V": RIGHT}, "weights_only"),
        ({"V": RIGHT, "W2": WRONG, "W1": WRONG}, ""),
        ({"Wx": WRONG, "Whh": SQUARE, "b": (G[0, :8], G[0, :8]), "V": RIGHT}, "weights_only"),
        ({"E": WRONG, "W": RIGHT, "V": RIGHT}, "only_one_wrong"),
        ({"W1": WRONG, "b1": BIAS, "V": WRONG}, "every_tensor_wrong"),
    ],
    ids=[
        "alike",
        "two factors",
        "one agrees",
        "more on top",
        "recurrent by its name",
        "feed-forward",
        "biases apart",
        "bias agrees",
        "above is wrong",
        "recurrent, bias agrees",
        "one alone",
        "all wrong",
    ],
)
def test_what_wrong_tensors_share_is_a_hint(pairs: dict[str, tuple[ArrayLike, ArrayLike]], key: str) -> None:
    """One hint at most, and none where nothing is shared."""
    hint = registry.hint_of_model(Model(diagnose(pairs, error=1e-6).tensors, {}))
    assert (hint.key if hint else "") == key


@pytest.mark.parametrize(
    ("constants", "blocks", "is_recurrent"),
    [
        ({}, {}, False),
        ({"batch": 16.0}, {}, False),
        ({"timesteps": 39.0}, {}, True),
        ({}, {"U": gates("ifgo", axis=1)}, True),
        ({}, {"U": gates("qkv", axis=1)}, False),
    ],
)
def test_a_recurrence_is_spoken_of_only_where_the_user_shows_one(
    constants: dict[str, float], blocks: dict[str, Any], is_recurrent: bool
) -> None:
    """A fused or square matrix may be that of an attention or of any layer; error bars and errors are the same."""
    width = 9 if blocks.get("U") == gates("qkv", axis=1) else 12
    shapes = {"A": (3, 5), "U": (3, width), "V": (4, 2)}
    params = {name: RNG.standard_normal(shape) for name, shape in shapes.items()}
    grads = {name: np.cos(w) * RNG.uniform(1, 3, w.shape) for name, w in params.items()}
    grads["V"] = np.cos(params["V"])
    report = check(
        params, grads, lambda: float(sum(np.sin(w).sum() for w in params.values())), constants=constants, blocks=blocks
    )
    assert ("recurrence is wrong" in report.explanation) is is_recurrent
    assert ("the error enters between U and V" in report.explanation) is not is_recurrent


def test_a_tensor_of_one_entry_takes_the_factor_that_others_show() -> None:
    """It shows none by itself; beside another factor it stays what it is, and its round size is no clip."""
    params = {"W": RNG.standard_normal((3, 5)), "b": np.array([1.5])}
    loss = lambda: 0.5 * float(sum(np.sum(w**2) for w in params.values()))  # noqa: E731
    for factor, verdict in ((65536.0, Verdict.scale), (-3.0, Verdict.sign), (None, Verdict.structure)):
        grads = {"W": params["W"] / (factor or 3.0), "b": params["b"] / (factor or 1.5)}
        tensors = check(params, grads, loss).tensors
        assert tensors["b"].verdict is verdict
        assert (tensors["b"].cause_key == tensors["W"].cause_key) is (factor is not None)


def test_a_clip_by_the_norm_of_pytorch_is_one() -> None:
    """It divides by the norm + 1e-6, so that the norm afterwards is a little less than the round number."""
    params = {"a": RNG.standard_normal(5), "b": RNG.standard_normal(7)}
    norm = float(np.sqrt(sum(np.sum(w**2) for w in params.values())))
    params = {name: w * 0.0765 / norm for name, w in params.items()}
    grads = {name: w * 0.05 / (0.0765 + 1e-6) for name, w in params.items()}
    report = check(params, grads, lambda: 0.5 * float(sum(np.sum(w**2) for w in params.values())))
    assert {tensor.cause_key for tensor in report.tensors.values()} == {"clipped_by_norm"}


def toy_of_tensor(tensor: Symptoms) -> Diagnosis | None:
    """A cause of one tensor: its factor is the ratio of a circle to its diameter."""
    if tensor.verdict is not Verdict.scale or abs(tensor.evidence.all.ratio.value - np.pi) > 1e-3:
        return None
    return Diagnosis("pi", "n is pi times g", "the backward pass forgot a circle")


def toy_of_model(model: Model) -> Mapping[str, Diagnosis]:
    """A cause that all tensors show: the wrong ones are called kinks."""
    return {tensor.name: Diagnosis("toy", "as all show", "a toy", Verdict.kink) for tensor in model.wrong}


def toy_hint(model: Model) -> Diagnosis | None:
    """A hint in the summary."""
    return Diagnosis("toy", "Look here", "it is a toy") if model.wrong else None


def report_of(ratio: float) -> Report:
    """A check of a gradient that is wrong by a factor."""
    weights = {"w": np.array([0.3, 0.7, 1.1]), "v": np.array([0.2, 0.4])}
    grads = {"w": np.cos(weights["w"]) / ratio, "v": np.cos(weights["v"])}
    return check(weights, grads, lambda: float(sum(np.sin(w).sum() for w in weights.values())))


def test_a_cause_is_one_function_in_one_tuple(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put into the registry, it is what the report says where it fits; taken out again, it is gone."""
    with monkeypatch.context() as patch:
        patch.setattr(registry, "TENSOR_CAUSES", (toy_of_tensor, *registry.TENSOR_CAUSES))
        named, other = report_of(np.pi), report_of(2.9)
    tensor = named.tensors["w"]
    assert (tensor.verdict, tensor.cause_key) == (Verdict.scale, "pi")
    assert "w  BUG: scale  n is pi times g" in str(named)
    assert "-> the backward pass forgot a circle" in str(named)
    assert "n is pi times g; the backward pass forgot a circle" in named.explanation
    assert other.tensors["w"].cause_key == "too_small"
    assert named.tensors["v"].cause_key == ""
    assert report_of(np.pi).tensors["w"].cause_key == "too_small"


@pytest.mark.parametrize(
    ("causes", "cause", "seen_in"),
    [
        ("MODEL_CAUSES", toy_of_model, lambda report: f"{report.tensors['w'].verdict} {report.tensors['w'].cause_key}"),
        ("HINTS", toy_hint, lambda report: report.explanation),
    ],
)
def test_a_cause_of_all_tensors_is_one_function_too(
    causes: str, cause: object, seen_in: Callable[[Report], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may change what the reports say, verdict included, or add a sentence to the summary."""
    with monkeypatch.context() as patch:
        patch.setattr(registry, causes, (cause, *getattr(registry, causes)))
        told = seen_in(report_of(2.9))
    assert ("kink toy" if causes == "MODEL_CAUSES" else "Look here: it is a toy.") in told
    assert "toy" not in seen_in(report_of(2.9))
