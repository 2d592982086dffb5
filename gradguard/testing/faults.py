"""All faults by name, and models that have one of them.

>>> model = faulty("timesteps")(seed=0)
>>> loss, grads = model.loss_and_grads(random_batch())

Every fault shows in the first gradient, and leaves every tensor that it does not name correct to the last bit.
"""

from collections.abc import Mapping
from types import MappingProxyType

from gradguard.testing import chain_rule_faults, gradient_faults, scale_faults
from gradguard.testing.fault import Fault
from gradguard.testing.lstm import LSTM

FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        fault.name: fault
        for module in (scale_faults, chain_rule_faults, gradient_faults)
        for fault in vars(module).values()
        if isinstance(fault, Fault)
    }
)
"""All faults by name, in the order of their modules."""


def faulty(name: str, model: type[LSTM] = LSTM) -> type[LSTM]:
    """A subclass of the model with one method of its backward pass replaced.

    Args:
        name: A name in `FAULTS`.
        model: `LSTM`, or a subclass of it.

    Raises:
        ValueError: There is no fault of that name.
    """
    if name not in FAULTS:
        raise ValueError(f"there is no fault {name!r}; there are: {', '.join(FAULTS)}")
    fault = FAULTS[name]
    return type(f"{model.__name__}[{name}]", (model,), {fault.replaces: fault.piece, "__doc__": fault.description})
