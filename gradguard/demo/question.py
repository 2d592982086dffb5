"""The network of the demo as factories for the command line: `gradguard check gradguard.demo.question:faulty`."""

from typing import Any

from gradguard.arrays import gates
from gradguard.demo.genome import ALPHABET, batches, read_genome
from gradguard.testing import LSTM
from gradguard.testing import faulty as faulty_class

TIMESTEPS = 39  # of the network whose discrepancy of 0.95 gradguard began with


def fixed() -> dict[str, Any]:
    """Parameters, gradients and loss of the correct network, on one window of the genome."""
    return _case(LSTM)


def faulty() -> dict[str, Any]:
    """The same with the fault of the demo: the backward pass of the LSTM averages over the timesteps once more."""
    return _case(faulty_class("timesteps"))


def _case(network: type[LSTM]) -> dict[str, Any]:
    model = network(len(ALPHABET), 5, len(ALPHABET), seed=0)
    batch = next(batches(read_genome(), TIMESTEPS, 1, 0))
    _, grads = model.loss_and_grads(batch)
    return {
        "params": model.params,
        "grads": grads,
        "loss": lambda: model.loss(batch),
        "constants": {"timesteps": TIMESTEPS},
        "blocks": {"Wx": gates("ifog", axis=1), "Wh": gates("ifog", axis=1), "b": gates("ifog", axis=0)},
    }
