"""A training of a Trainer in each of two processes; what it finds is left as JSON."""

import sys
import warnings
from pathlib import Path

import torch
from busy_network import OPTIONS, comparison
from torchrun import leave

sys.path.insert(0, str(Path(__file__).parent))
from trainer_trainings import Noting, left_by, trainer_of

from gradguard.integrations.transformers import GradGuardCallback

warnings.simplefilter("ignore")
torch.set_num_threads(1)
left, callback = [], None
for guarded in (False, True):
    options = {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1, "num_train_epochs": 2, "ddp_backend": "gloo"}
    trainer = trainer_of(Path(sys.argv[1]), Noting, network={"busy": True, "faulty": True}, **options)
    if guarded:
        callback = GradGuardCallback(trainer, every_n_steps=3, **OPTIONS)
        trainer.add_callback(callback)
    trainer.train()
    left.append(left_by(trainer))
leave(comparison(left, callback))
