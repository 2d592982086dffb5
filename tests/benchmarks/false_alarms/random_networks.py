"""How often a deep check blames a correct gradient: many small networks, drawn at random with their state and loss.

What is measured: `gradguard.check` on LSTMs and on plain recurrent networks (tanh, and ReLU, whose losses have kinks
everywhere), of 1 to 20 timesteps and 1 to 16 sequences, untrained, trained at low and at high rates, and sharpened;
with parameters scaled down or up, half of a tensor zero, a constant in the loss that swallows its digits, a loss scale;
in each form of the loss (float64 where it takes). All gradients are correct.

How to read it: a row is a kind of network in one form of the loss. "bugs" are tensors called a bug, all falsely;
the goal is 0. "cannot tell" are tensors without a verdict, which costs detection and nothing else. With 0 bugs among n
tensors the chance of one is below 3/n (95 %).

    python tests/benchmarks/deep_null.py
    python tests/benchmarks/deep_null.py --tensors 2000 --first 50000
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from common import FORMS, LossForm, in_parallel, parser_of, table
from numpy.typing import NDArray

from gradguard import check
from gradguard.testing import LSTM, Batch, random_batch

Arrays = dict[str, NDArray[np.float32]]
TENSORS = 5  # of an LSTM, and nearly as many of the others
ENTRIES = 24
Row = tuple[str, ...]


class Network(Protocol):
    """What is checked."""

    params: Arrays

    def losses(self, batch: Batch) -> NDArray[Any]:
        """Unreduced."""

    def loss(self, batch: Batch) -> Any:
        """Their mean."""

    def loss_and_grads(self, batch: Batch) -> tuple[Any, Mapping[str, NDArray[Any]]]:
        """The loss and its gradients."""


class Plain:
    """A recurrent network without gates, h = f(x U + h W + b), and a dense softmax layer."""

    def __init__(self, inputs: int, hidden: int, outputs: int, seed: int, slope: str) -> None:
        rng = np.random.default_rng(seed)
        shapes = {"U": (inputs, hidden), "W": (hidden, hidden), "b": (hidden,), "V": (hidden, outputs)}
        self.params: Arrays = {
            name: (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32) for name, shape in shapes.items()
        }
        self.slope = slope

    def forward(self, batch: Batch) -> tuple[list[NDArray[Any]], NDArray[Any]]:
        """The states, and the log-probabilities."""
        p = self.params
        states = [np.zeros((batch.x.shape[1], p["W"].shape[0]), p["W"].dtype)]
        for x in batch.x:
            before = x.astype(p["U"].dtype) @ p["U"] + states[-1] @ p["W"] + p["b"]
            states.append(np.tanh(before) if self.slope == "tanh" else np.maximum(before, 0))
        logits = np.stack(states[1:]) @ p["V"]
        logits = logits - logits.max(axis=-1, keepdims=True)
        return states, logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    def losses(self, batch: Batch) -> NDArray[Any]:
        """The cross-entropies, one a timestep and sequence."""
        _, told = self.forward(batch)
        return np.asarray(-np.take_along_axis(told, batch.y[..., None], axis=-1)[..., 0])

    def loss(self, batch: Batch) -> Any:
        """Their mean, in the precision of the parameters."""
        return self.losses(batch).mean()

    def loss_and_grads(self, batch: Batch) -> tuple[Any, Mapping[str, NDArray[Any]]]:
        """Backpropagation through time."""
        states, told = self.forward(batch)
        p, grads = self.params, {name: np.zeros_like(param) for name, param in self.params.items()}
        error = np.exp(told)
        np.put_along_axis(error, batch.y[..., None], np.take_along_axis(error, batch.y[..., None], -1) - 1, -1)
        error /= error.dtype.type(told.shape[0] * told.shape[1])
        carried = np.zeros_like(states[0])
        for t in reversed(range(len(batch.x))):
            grads["V"] += states[t + 1].T @ error[t]
            out = error[t] @ p["V"].T + carried
            out = out * (1 - states[t + 1] ** 2 if self.slope == "tanh" else states[t + 1] > 0)
            grads["U"] += batch.x[t].T @ out
            grads["W"] += states[t].T @ out
            grads["b"] += out.sum(axis=0)
            carried = out @ p["W"].T
        return -np.take_along_axis(told, batch.y[..., None], -1).mean(), grads


@dataclass(frozen=True, slots=True)
class Trial:
    """One network, drawn by its seed."""

    seed: int
    kind: str
    form: LossForm


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each kind of network and form of the loss, and how to reproduce each false bug."""
    options = parser().parse_args(arguments)
    count = 9 if options.quick else -(-options.tensors // TENSORS)
    kinds = [(kind, form) for kind in ("lstm", "tanh", "relu") for form in FORMS]
    trials = [Trial(seed, *kinds[seed % len(kinds)]) for seed in range(options.first, options.first + count)]
    bugs: list[str] = []
    told = ("ok", "float_precision", "inconclusive", "kink")
    head = ("network, loss", "tensors", "bugs", *(word.replace("_", " ") for word in told), "evaluations")
    print(table(head, rows(trials, options.processes, told, bugs)))
    print(*bugs, sep="\n")


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__doc__, "nine networks", processes=2)
    options.add_argument("--tensors", type=int, default=100_000, help="about so many (default: %(default)s)")
    options.add_argument("--first", type=int, default=0, help="the first seed")
    return options


def rows(trials: Sequence[Trial], processes: int, told: Sequence[str], bugs: list[str]) -> Iterator[Row]:
    """The verdicts, counted; the false bugs are added to `bugs`."""
    counts: dict[str, Counter[str]] = {}
    for trial, (count, wrong) in zip(trials, in_parallel(judged, trials, processes, "networks"), strict=True):
        counts.setdefault(f"{trial.kind}, {trial.form.name}", Counter()).update(count)
        bugs += wrong
    for name, count in [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]:
        numbers = (str(count[word]) for word in ("tensors", "bugs", *told))
        yield (name, *numbers, str(round(count["evaluations"] / max(1, count["checks"]))))


def judged(trial: Trial) -> tuple[Counter[str], list[str]]:
    """The verdicts on one network, and its false bugs."""
    rng = np.random.default_rng(trial.seed)
    model, batch = drawn(trial, rng)
    base, scale = constants(rng)
    with np.errstate(over="ignore", invalid="ignore"):
        grads = {name: np.float32(scale) * grad for name, grad in model.loss_and_grads(batch)[1].items()}
        count = Counter({"checks": 1})
        if not all(np.isfinite(grad).all() for grad in grads.values()):
            return count, []
        report = check(
            model.params,
            grads,
            lambda: shifted(trial.form.of(model, batch)(), base, scale),  # type: ignore[arg-type]  # a network alike
            reduction=trial.form.reduction,
            precision="native" if trial.form.precision == "native" else "auto",
            entries=ENTRIES,
            seed=trial.seed,
        )
    count.update({"evaluations": report.evaluations})
    for tensor in report.tensors.values():
        count.update({"tensors": 1, tensor.verdict: 1, "bugs": bool(tensor.verdict.is_bug)})
    wrong = [f"FALSE {trial}: {tensor.name} {tensor}" for tensor in report.tensors.values() if tensor.verdict.is_bug]
    return count, wrong


def shifted(losses: Any, base: float, scale: float) -> Any:
    """The losses times a scale and after a constant, in their own precision."""
    kind = np.asarray(losses).dtype.type
    return kind(base) + kind(scale) * losses


def constants(rng: np.random.Generator) -> tuple[float, float]:
    """What is added to the losses, and what they are multiplied by; mostly nothing and one."""
    base = float(rng.choice([0, 0, 0, 1, 30, 1000]))
    return base, float(rng.choice([1, 1, 1, 1e-6, 1e-3, 1024, 65536]))


def drawn(trial: Trial, rng: np.random.Generator) -> tuple[Network, Batch]:
    """A network in some state, and a batch."""
    timesteps, sequences = (int(rng.choice(sizes)) for sizes in ((1, 2, 4, 8, 20), (1, 2, 4, 16)))
    inputs, hidden, outputs = (int(rng.integers(2, 7)) for _ in range(3))
    batch = random_batch(timesteps, sequences, inputs=inputs, outputs=outputs, seed=trial.seed)
    model: Network = (
        LSTM(inputs, hidden, outputs, seed=trial.seed)
        if trial.kind == "lstm"
        else Plain(inputs, hidden, outputs, trial.seed, trial.kind)
    )
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(int(rng.choice([0, 0, 30, 150]))):
            grads = model.loss_and_grads(batch)[1]
            size = np.sqrt(sum(float(np.sum(grad.astype(np.float64) ** 2)) for grad in grads.values()))
            rate = np.float32(rng.choice([0.1, 1.0, 4.0]) / max(1.0, size))
            for name, grad in grads.items():
                model.params[name] -= rate * grad
    factor = rng.choice([1, 1, 1, 3, 1e-3, 1e-8])
    for param in model.params.values():
        param *= np.float32(factor)
        if rng.random() < 0.1:
            param[rng.random(param.shape) < 0.5] = 0
    return model, batch


if __name__ == "__main__":
    main()
