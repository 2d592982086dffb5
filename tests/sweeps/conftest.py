import pytest
from swept_losses import TIMESTEPS, swept

from gradguard import Sweep
from gradguard.testing import LSTM, Batch, faulty, random_batch


@pytest.fixture(scope="session")
def question() -> Batch:
    """One sequence as long as that of the question."""
    return random_batch(TIMESTEPS, 1)


@pytest.fixture(scope="session")
def right(question: Batch) -> Sweep:
    """A sweep of the question's network once it is fixed."""
    return swept(LSTM(), question, entries=25)


@pytest.fixture(scope="session")
def averaged(question: Batch) -> Sweep:
    """A sweep of the question's network as it was asked about."""
    return swept(faulty("timesteps")(), question, entries=25, constants={"timesteps": TIMESTEPS})


@pytest.fixture
def model() -> LSTM:
    """A small network."""
    return LSTM(3, 2, 3)


@pytest.fixture
def batch() -> Batch:
    """A batch for it."""
    return random_batch(5, 2, inputs=3, outputs=3)
