"""A training under Lightning's DDP strategy, in each of two processes; what it finds is left as JSON."""

import sys
import warnings
from pathlib import Path

import torch
from busy_network import OPTIONS, comparison
from torchrun import leave

sys.path.insert(0, str(Path(__file__).parent))
from lightning_trainings import left_by

from gradguard.integrations.lightning import GradGuardCallback

warnings.simplefilter("ignore")
torch.set_num_threads(1)
DDP = {"devices": 2, "strategy": "ddp", "accumulate_grad_batches": 2, "faulty": True}
callback = GradGuardCallback(every_n_steps=3, **OPTIONS)
left = [left_by(Path(sys.argv[1]) / name, *guards, **DDP) for name, guards in (("without", []), ("with", [callback]))]
leave(comparison(left, callback))
