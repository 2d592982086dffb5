"""A clipped gradient is told as one: a single entry, several, by norm, and while the loss scale was in it."""

import numpy as np
import pytest

from gradguard import Report, Verdict, check, check_backward, diagnose

RNG = np.random.default_rng(3)
N = RNG.standard_normal((6, 9))
ORDERED = np.sort(np.abs(N), axis=None)


def clipped_at(limit: float, n: np.ndarray = N) -> Report:
    """The check of a linear loss whose gradient is clipped by value."""
    params = {"W": RNG.standard_normal(n.shape), "b": RNG.standard_normal(4)}
    grads = {"W": np.clip(n, -limit, limit), "b": np.ones(4)}
    return check(params, grads, lambda w: float((n * np.sin(w["W"] - params["W"])).sum() + w["b"].sum()))


@pytest.mark.parametrize("reached", [2, 3, 20])
def test_a_limit_that_several_entries_reach_is_told(reached: int) -> None:
    """All of g is counted, so that a few sampled entries are enough; the limit need not be round."""
    limit = float(ORDERED[-reached - 1 : -reached + 1].mean())
    tensor = clipped_at(limit).tensors["W"]
    assert (tensor.verdict, tensor.cause_key) == (Verdict.clipped, "clipped_by_value")
    assert f"{reached} entries have this value" in tensor.explanation


def test_a_limit_that_one_entry_reaches_must_be_round() -> None:
    """Every gradient has one largest entry."""
    n = N * 6.3 / ORDERED[-1]
    assert clipped_at(6.0, n).tensors["W"].cause_key == "clipped_by_value"
    assert clipped_at(6.0345, n).tensors["W"].verdict is Verdict.structure


def test_a_gradient_that_is_clipped_and_wrong_is_told_both() -> None:
    """The entries below the limit show the factor."""
    tensor = diagnose({"W": (np.clip(N / 39, -0.02, 0.02), N)}, error=1e-9).tensors["W"]
    assert tensor.cause_key == "clipped_and_wrong"
    assert "numerical = 39" in tensor.explanation


def test_counts_are_not_clipped() -> None:
    """G is 0, 1, 2 or 3, and n is larger where g is 3: these are counts, of which some were overwritten."""
    n = RNG.integers(0, 7, 60).astype(float)
    tensor = diagnose({"x": (np.minimum(n, 3), n)}, error=1e-6).tensors["x"]
    assert tensor.verdict is Verdict.structure


def test_whole_number_ratios_are_told() -> None:
    """Contributions that come one to four times count once."""
    times = RNG.choice([1, 2, 3, 4], 60).astype(float)
    g = RNG.standard_normal(60)
    tensor = diagnose({"x": (g, times * g)}, error=1e-6).tensors["x"]
    assert (tensor.verdict, tensor.cause_key) == (Verdict.structure, "overwritten")
    assert "`=` instead of `+=`" in tensor.cause
    assert diagnose({"x": (g, RNG.uniform(1, 4, 60) * g)}, error=1e-6).tensors["x"].cause_key == "chain_rule"


def clipped_by_norm(norm: float, *, scale: float = 1.0, unscaled: bool = True, margin: float = 0.0) -> Report:
    """A check of gradients that were clipped to a norm, perhaps with a loss scale in them."""
    params = {"a": RNG.standard_normal(5), "b": RNG.standard_normal((3, 4))}
    total = scale * float(np.sqrt(sum((value**2).sum() for value in params.values())))
    factor = scale * norm / (total + margin) / (scale if unscaled else 1)
    grads = {name: factor * value for name, value in params.items()}
    constants = {"loss_scale": scale} if scale > 1 else {}
    return check(
        params, grads, lambda w: float(sum(0.5 * (value**2).sum() for value in w.values())), constants=constants
    )


@pytest.mark.parametrize("margin", [0.0, 1e-6])
@pytest.mark.parametrize("norm", [0.05, 0.25, 0.004])
def test_a_round_norm_is_told_with_the_margin_of_torch(norm: float, margin: float) -> None:
    """`clip_grad_norm_` adds 1e-6 to the norm that it divides by, so that the clipped norm is a little less."""
    report = clipped_by_norm(norm, margin=margin)
    assert {tensor.cause_key for tensor in report.tensors.values()} == {"clipped_by_norm"}


def test_a_clip_with_the_loss_scale_in_the_gradient_is_told() -> None:
    """Unscaled afterwards, the norm times the scale is round; never unscaled, the norm is, and n may be the smaller."""
    for report in (
        clipped_by_norm(1.0, scale=65536.0, margin=1e-6),
        clipped_by_norm(20.0, scale=65536.0, unscaled=False),
    ):
        for tensor in report.tensors.values():
            assert (tensor.verdict, tensor.cause_key) == (Verdict.clipped, "clipped_by_norm")
            assert "`loss_scale`" in tensor.cause


def test_entries_at_the_largest_gradient_that_are_right_are_no_clip() -> None:
    """Layer normalization of two features has pairs of equal gradients; its first row is wrong."""

    def forward(x: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        centred = x - x.mean(axis=1, keepdims=True)
        inverse = 1 / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
        return centred * inverse, (centred * inverse, inverse)

    def backward(dout: np.ndarray, cache: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        out, inverse = cache
        product = (dout * out).mean(axis=1, keepdims=True)
        grad: np.ndarray = inverse * (dout - dout.mean(axis=1, keepdims=True) - out * product)
        grad[0] *= 1.1
        return grad

    x = np.stack([np.linspace(0.05, 0.2, 16), np.zeros(16)], axis=1).astype(np.float32)
    tensor = check_backward(forward, backward, (x,)).tensors["x"]
    assert (tensor.verdict, tensor.cause_key != "clipped_by_value") == (Verdict.structure, True)
