"""The user's loss: its forms, its evaluation at moved parameters, batched calls, and the proof of its float64 form."""

from gradguard.loss.attempts import try_twice
from gradguard.loss.batch_size import proven_batch_size, rechecked_batch_size, tried_batch_size
from gradguard.loss.batching import MAX_COPIES, Batched, StackFactory, batched, loss_of_mapping
from gradguard.loss.float64_proof import keeps_assigned_objects, reason_not_float64, reason_not_followed
from gradguard.loss.interleaving import Search, interleave, run_search
from gradguard.loss.objective import JointValues, LossRequest, LossValues, Objective
from gradguard.loss.signature import Loss, Reduction, losses_of, require_reduction, takes_parameters

__all__ = [
    "MAX_COPIES",
    "Batched",
    "JointValues",
    "Loss",
    "LossRequest",
    "LossValues",
    "Objective",
    "Reduction",
    "Search",
    "StackFactory",
    "batched",
    "interleave",
    "keeps_assigned_objects",
    "loss_of_mapping",
    "losses_of",
    "proven_batch_size",
    "reason_not_float64",
    "reason_not_followed",
    "rechecked_batch_size",
    "require_reduction",
    "run_search",
    "takes_parameters",
    "tried_batch_size",
    "try_twice",
]
