"""Moving parameters while the loss is evaluated, and putting back all that a check disturbs, bit for bit."""

from gradguard.perturbation.directions import Direction, EntryProbe, Probe, gaussian
from gradguard.perturbation.joint import JointDirection, Move, Part, displace_all, groups_to_move
from gradguard.perturbation.journal import UndoLog
from gradguard.perturbation.protocols import Copies, CopyFactory, MovableParameters, PerturbedTensor, Space
from gradguard.perturbation.rollback import Rollback, reached_state, run_with_cleanup
from gradguard.perturbation.snapshots import Restore, Snapshot, combined_snapshot, snapshot_attributes, snapshot_rng
from gradguard.perturbation.spaces import ComplexCopies, Float64Copies, InPlace, Moved, NativeCopies, PerturbedArray

__all__ = [
    "ComplexCopies",
    "Copies",
    "CopyFactory",
    "Direction",
    "EntryProbe",
    "Float64Copies",
    "InPlace",
    "JointDirection",
    "MovableParameters",
    "Move",
    "Moved",
    "NativeCopies",
    "Part",
    "PerturbedArray",
    "PerturbedTensor",
    "Probe",
    "Restore",
    "Rollback",
    "Snapshot",
    "Space",
    "UndoLog",
    "combined_snapshot",
    "displace_all",
    "gaussian",
    "groups_to_move",
    "reached_state",
    "run_with_cleanup",
    "snapshot_attributes",
    "snapshot_rng",
]
