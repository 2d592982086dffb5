"""Where in the step the check comes: what happens between backward and check is named."""

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402 - torch may not be there
from torch_checks import bugs, guard_of, seeded  # noqa: E402
from torch_models import Perceptron, batches, cross_entropy  # noqa: E402

from gradguard.report.results import Report  # noqa: E402


def trained_once(wrong: str, constants: dict[str, float] | None = None) -> Report:
    """A step over two micro-batches, with a mistake between backward and check."""
    module = seeded(Perceptron)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    (x0, y0), (x1, y1) = batches(2)

    def loss() -> Tensor:
        return (cross_entropy(module(x0), y0) + cross_entropy(module(x1), y1)) / 2

    with guard_of(module, optimizer) as guard:
        if wrong == "stale":
            cross_entropy(module(x1), y1).backward()
        if wrong == "undivided":
            cross_entropy(module(x0), y0).backward()
            cross_entropy(module(x1), y1).backward()
        elif wrong == "divided twice":
            (loss() / 2).backward()
        elif wrong == "short window":
            ((cross_entropy(module(x0), y0) + cross_entropy(module(x1), y1)) / 5).backward()
        elif wrong == "still scaled":
            scaler.scale(loss()).backward()
        else:
            loss().backward()
        if wrong == "clipped":
            nn.utils.clip_grad_norm_(module.parameters(), 1e-2)
        if wrong == "clipped by value":
            nn.utils.clip_grad_value_(module.parameters(), 1e-3)
        report = guard.after_backward(0, loss, constants=constants)
    assert report is not None
    return report


@pytest.mark.parametrize(
    ("wrong", "constants", "says"),
    [
        ("nothing", {}, "No bug"),
        ("still scaled", {"loss_scale": 1024.0}, "1/`loss_scale`"),
        ("undivided", {"accumulation": 2}, "1/`accumulation`"),
        ("divided twice", {"accumulation": 2}, "the backward pass divides by the number of accumulated batches"),
        ("short window", {"accumulation": 5, "window": 2}, "`accumulation`/`window`"),
        ("clipped", {}, "the gradient is clipped to a norm of"),
        ("clipped by value", {}, "the gradient is clipped at 0.001 before the check"),
        ("stale", {}, "no single factor explains it"),
    ],
)
def test_what_happens_between_backward_and_check_is_named(wrong: str, constants: dict[str, float], says: str) -> None:
    """Gradients still scaled, summed and not averaged, clipped, or left over from the step before."""
    report = trained_once(wrong, constants)
    assert bool(bugs(report)) == (wrong != "nothing")
    assert says in str(report)


def test_a_check_at_once_waits_for_neither_schedule_nor_budget() -> None:
    """It is a check as any other of the forward passes of this step, and says how the step is wrong."""
    module, (x, y) = seeded(Perceptron), batches(1)[0]
    with guard_of(module, every_n_steps=1000, start_step=5, max_overhead=1e-9) as guard:
        for step in range(2):
            module.zero_grad()
            (cross_entropy(module(x), y) / 3).backward()
            assert guard.after_backward(step, lambda: cross_entropy(module(x), y)) is None
            report = guard.check_now(step, lambda: cross_entropy(module(x), y), constants={"three": 3})
            assert report is not None
            assert "3 is `three`" in str(report)
        assert [row.step for row in guard.history] == [0, 1]
