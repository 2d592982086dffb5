"""Reproduces the question behind gradguard: is a gradient mismatch caused by float precision or by a bug?

What is measured: an untrained float32 LSTM (5 inputs, 5 cells, 5 outputs) on 39 bases of the demo's genome, once with
the bug of the question (the gradient of the LSTM is averaged over the timesteps a second time) and once without it.
The first table is the check that the question used: d = ||g - n|| / (||g|| + ||n||) of each layer, where g is the
backprop gradient and n the two-point difference of the float32 loss, at four step sizes. The second table is what
`gradguard.check` reports for the same gradients.

How to read it: with the bug, d of the LSTM is 0.95 at every step size that changes the loss; the dense layer is
correct. Without the bug, d still depends on the step size. A short step changes the float32 loss by little more than
its rounding error, a long step adds truncation error, and the best step size is not the same for both layers. In the
second table, "n / g" is the factor between the two gradients with its "95 % interval", and "floor" is the part of "d"
that rounding and truncation account for.

    python tests/benchmarks motivating_example
"""

import argparse
from collections.abc import Iterator, Sequence

from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

from benchmarks.support.networks import FLOAT64, SCALAR
from benchmarks.support.options import parser_of
from benchmarks.support.other_checkers import differences, discrepancy, joined
from benchmarks.support.tables import Row, table
from gradguard import TensorReport, check
from gradguard.demo.genome import batches, read_genome
from gradguard.testing import LSTM, Batch, faulty

USUAL_TIME = "about 15 s"

TIMESTEPS = 39
STEPS = (5e-5, 5e-3, 2e-2, 5e-2)
LAYERS = {"LSTM": ("Wx", "Wh", "b"), "dense": ("V", "c")}
CODES = {"averaged over time": faulty("timesteps"), "right": LSTM}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    options = parser().parse_args(arguments)
    batch = next(batches(read_genome(), 3 if options.quick else TIMESTEPS, options.batch))
    print(table(("backward pass", "layer", *(f"d at {step:g}" for step in STEPS)), classic_checks(batch)))
    print()
    print(table(("backward pass", "loss", "tensor", "verdict", "n / g", "95 % interval", "d", "floor"), reports(batch)))


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__name__, "three timesteps")
    options.add_argument(
        "--batch", type=int, default=1, help="windows of the genome in the batch (default: %(default)s)"
    )
    return options


def classic_checks(batch: Batch) -> Iterator[Row]:
    """The discrepancy d at each step size, for each backward pass and layer."""
    numerical = [differences(LSTM(), batch, step) for step in tqdm(STEPS, desc="differences", leave=False)]
    for code, network in CODES.items():
        _, grads = network().loss_and_grads(batch)
        for layer, tensors in LAYERS.items():
            g = joined(grads, tensors)
            yield code, layer, *(f"{discrepancy(g, joined(n, tensors)):.2g}" for n in numerical)


def reports(batch: Batch) -> Iterator[Row]:
    """What gradguard reports, for each backward pass, form of the loss and tensor."""
    runs = [(code, network, form) for code, network in CODES.items() for form in (SCALAR, FLOAT64)]
    for code, network, form in tqdm(runs, desc="gradguard", leave=False):
        model = network()
        _, grads = model.loss_and_grads(batch)
        constants = {"timesteps": len(batch.y)}
        report = check(model.params, grads, form.of(model, batch), constants=constants, precision=form.precision)
        for tensor in report.tensors.values():
            yield code, form.name, tensor.name, *numbers(tensor)


def numbers(tensor: TensorReport) -> Row:
    """Verdict, ratio with its interval, discrepancy and floor."""
    low, high = (tensor.ratio + 1.96 * side * tensor.ratio_error for side in (-1, 1))
    interval = f"{low:.7g} .. {high:.7g}"
    return tensor.verdict, f"{tensor.ratio:.7g}", interval, f"{tensor.discrepancy:.1e}", f"{tensor.floor:.1e}"
