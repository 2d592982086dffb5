"""Which entries a check measures, and how many."""

from typing import Any

import pytest
from checked_lstm import loss_of, network

from gradguard import Report, Verdict, check
from gradguard.examination.effort import ENTRIES


def without_times(report: Report) -> dict[str, Any]:
    """All that a seed decides."""
    return {key: value for key, value in report.to_dict().items() if key != "seconds"}


def test_the_same_seed_gives_the_same_report() -> None:
    """And another seed other probes."""
    model, batch, grads = network()
    first, again, other = (
        check(model.params, grads, loss_of(model, batch), precision="float64", entries=3, seed=seed)
        for seed in (1, 1, 2)
    )
    assert without_times(first) == without_times(again)
    assert without_times(first) != without_times(other)


@pytest.mark.parametrize("entries", [1, 7])
def test_no_more_entries_are_measured_than_asked_for(entries: int) -> None:
    """Fewer make it cheaper, and the report says how much of the gradient they hold."""
    model, batch, grads = network()
    report = check(model.params, grads, loss_of(model, batch), entries=entries)
    whole = check(model.params, grads, loss_of(model, batch), entries="all")
    for name, tensor in report.tensors.items():
        assert tensor.sampled == min(entries, grads[name].size)
        assert whole.tensors[name].sampled == grads[name].size
        assert 0 < tensor.coverage <= 1
        assert whole.tensors[name].coverage == pytest.approx(1)
    assert report.evaluations < whole.evaluations


def test_a_few_entries_of_each_tensor_are_measured_unless_asked_for() -> None:
    """Detection needs none; they show in the charts."""
    model, batch, grads = network()
    report = check(model.params, grads, loss_of(model, batch))
    for name, tensor in report.tensors.items():
        assert tensor.sampled == min(ENTRIES, grads[name].size)
        assert tensor.smallest_visible < 1e-3


@pytest.mark.parametrize("entries", [3, 14, "all"])
def test_a_wrong_tensor_is_measured_with_as_many_entries_as_asked_for(entries: int | str) -> None:
    """At least: whoever asks for all of them wants to see where it is wrong."""
    model, batch, grads = network("timesteps")
    report = check(model.params, grads, loss_of(model, batch), precision="float64", entries=entries)
    for name in ("Wx", "Wh", "b"):
        tensor, size = report.tensors[name], grads[name].size
        assert tensor.verdict is Verdict.scale
        assert tensor.sampled >= (size if entries == "all" else min(int(entries), size))
