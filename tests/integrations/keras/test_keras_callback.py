"""The callback while models of Keras are fitted, on PyTorch and on JAX: it finds the fault, and changes nothing."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Not imported here: Keras chooses its backend as it is imported.
MISSING = [name for name in ("keras", "torch", "jax") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}")

SCRIPT = Path(__file__).with_name("keras_trainings.py")
WAYS = pytest.mark.parametrize(("backend", "probe"), [("torch", False), ("torch", True), ("jax", True)])


def run(backend: str, *command: str) -> str:
    """What a process with this backend prints."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def trainings(backend: str) -> Any:
    """The trainings of a process."""
    return json.loads(run(backend, str(SCRIPT)))


@WAYS
def test_a_factor_is_named_at_the_first_check(backend: str, probe: bool) -> None:
    """By the paths of the variables; a report on a probe batch says so."""
    wrong = trainings(backend)[f"probe: {probe}"]["wrong"]
    assert [row[0] for row in wrong["rows"]] == [0]
    assert [name.split("/")[-2:] for name in wrong["rows"][0][2]] == [["hand", "w"]]
    assert [name.split("/")[-2:] for name in wrong["names"]] == [["hand", "w"], ["out", "bias"], ["out", "kernel"]]
    assert "5 is `timesteps`" in wrong["said"]
    assert ("computed at this check" in wrong["said"]) is probe


@WAYS
def test_a_training_is_the_same_with_the_callback(backend: str, probe: bool) -> None:
    """Weights, statistics, seeds, optimizer, metrics, attributes and streams, bit for bit; no bug is seen."""
    found = trainings(backend)[f"probe: {probe}"]
    assert found["guarded"]["left"] == found["plain"]["left"]
    assert [row[0] for row in found["guarded"]["rows"]] == [0, 7, 14, 21]
    assert {row[1] for row in found["guarded"]["rows"]} <= {"ok", "float_precision", "inconclusive"}


def test_on_jax_the_loss_is_in_float64_and_the_function_is_named() -> None:
    """As `JaxGuard` does it."""
    said = trainings("jax")["probe: True"]["wrong"]["said"]
    assert "(reverse pass)" in said
    assert "(keras_trainings.py:25) is wrong in its gradient for w: numerical = 5 x backprop; 1 call" in said


def test_on_jax_a_probe_is_asked_for() -> None:
    """Where the callback is made; and a probe that is none is refused on both backends."""
    code = (
        "from gradguard.integrations.keras import GradGuardCallback as Callback\n"
        "for options in ({}, {'probe': 3}, {'probe': (1, 2), 'every': 1}):\n"
        "    try:\n"
        "        Callback(**options)\n"
        "    except (TypeError, ValueError) as error:\n"
        "        print(error)\n"
    )
    first, second, third = run("jax", "-c", code).splitlines()
    assert "probe=(x[:32], y[:32])" in first
    assert "expected (x, y) or (x, y, sample_weight)" in second
    assert "no option 'every'" in third


def test_another_backend_is_refused_by_name() -> None:
    """As soon as the callback is made; the message says which backends there are, and what to do."""
    code = (
        "from gradguard.integrations.keras import GradGuardCallback\n"
        "try:\n"
        "    GradGuardCallback()\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    said = run("numpy", "-c", code)
    assert said.startswith("Keras runs on numpy; GradGuardCallback works on torch and jax: set KERAS_BACKEND to one")


def test_on_jax_nothing_imports_pytorch() -> None:
    """The extra of Keras does not install it."""
    code = "import sys, gradguard.integrations.keras.on_jax; print('torch' in sys.modules)"
    assert run("jax", "-c", code).strip() == "False"
