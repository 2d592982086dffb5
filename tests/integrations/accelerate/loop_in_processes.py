"""A loop with Accelerate in each of two processes; what it finds is left as JSON."""

import sys
import warnings
from pathlib import Path

import torch
from busy_network import OPTIONS, comparison
from torchrun import leave

sys.path.insert(0, str(Path(__file__).parent))
from accelerate_trainings import Loop

from gradguard.integrations.accelerate import AccelerateGuard

warnings.simplefilter("ignore")
torch.set_num_threads(1)
left, guard = [], None
for guarded in (False, True):
    loop = Loop(accumulation=2, busy=True, faulty=True)
    if guarded:
        guard = AccelerateGuard(loop.accelerator, loop.model, loop.optimizer, every_n_steps=3, **OPTIONS)
    loop.train(guard, epochs=2)
    left.append(loop.left())
assert guard is not None
guard.close()
leave(comparison(left, guard))
