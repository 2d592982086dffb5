"""The whole model at once: is any gradient wrong, and in which tensors? A few evaluations, however many there are."""

from gradguard.screening.alike import Covered, cover
from gradguard.screening.entries import further_entries, wrong_entry
from gradguard.screening.halving import Located, disjoint, halves, locate
from gradguard.screening.probe import KINDS, ModelProbe, draw_direction
from gradguard.screening.reports import SUSPECTED, carried, is_visible, screened, suspected, unscreened, with_screen
from gradguard.screening.screen import Screen, Screened, noise_now
from gradguard.screening.stream import FAR_TOO_LONG_Z3, STRAYS, Stream

__all__ = [
    "FAR_TOO_LONG_Z3",
    "KINDS",
    "STRAYS",
    "SUSPECTED",
    "Covered",
    "Located",
    "ModelProbe",
    "Screen",
    "Screened",
    "Stream",
    "carried",
    "cover",
    "disjoint",
    "draw_direction",
    "further_entries",
    "halves",
    "is_visible",
    "locate",
    "noise_now",
    "screened",
    "suspected",
    "unscreened",
    "with_screen",
    "wrong_entry",
]
