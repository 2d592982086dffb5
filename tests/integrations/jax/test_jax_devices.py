"""Arrays that lie on two devices."""

import sys
from subprocess import run

import pytest

pytest.importorskip("jax")

SCRIPT = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
import sys
sys.path.insert(0, sys.argv[1])
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jax_models import batch, bits, bugs, parameters, recurrent
from gradguard.integrations.jax import JaxGuard

mesh = Mesh(np.array(jax.devices()), ("data",))
def on(array, *spec):
    return jax.device_put(array, NamedSharding(mesh, P(*spec)))

def trained(fault, guarded):
    loss = recurrent(fault)
    params = jax.tree.map(lambda leaf: on(leaf, "data" if len(leaf) % 2 == 0 else None), parameters())
    guard = JaxGuard(loss, every_n_steps=2, max_overhead=None, on_alert=lambda _alert: None)
    step = jax.jit(lambda p, x, y: jax.tree.map(lambda a, g: a - 0.1 * g, p, jax.grad(loss)(p, x, y)), donate_argnums=0)
    for index in range(4):
        x, y = batch(index)
        args = on(x, None, "data"), on(y, "data")
        if guarded:
            guard.before_step(index, params, *args)
        params = step(params, *args)
    return bits(params), [str(leaf.sharding.spec) for leaf in jax.tree.leaves(params)], guard

for fault in (None, "averaged"):
    (want, specs, _), (got, same, guard) = trained(fault, False), trained(fault, True)
    found = [sorted(bugs(row.verdicts)) for row in guard.history]
    print(fault, got == want, specs == same, guard.report.precision, found)
"""


def test_sharded_parameters_are_checked_and_stay_as_they_are() -> None:
    """Parameters in two parts, the batch too: the same weights in the same places, and the fault alone is told."""
    folder = __file__.rpartition("/")[0]
    done = run([sys.executable, "-c", SCRIPT, folder], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "None True True float64 [[], []]",
        "averaged True True float64 [['rnn.u', 'rnn.w'], ['rnn.u', 'rnn.w']]",
    ], done.stderr
