"""`gradguard demo`: train an LSTM with and without a fault."""

import argparse
import logging
import sys
from pathlib import Path

from gradguard.cli.options import Commands, add_command, whole_number
from gradguard.testing import FAULTS

LIST = "list"

DESCRIPTION = """\
Trains an LSTM in float32 on the genome of the virus phi X 174, first with a fault in its backward pass, then without.
gradguard checks both trainings, prints what it finds, and logs it for TensorBoard.
"""
EPILOG = """\
example:
  gradguard demo --logdir runs
  gradguard demo --logdir runs --fault no-recurrent-dh
  gradguard demo --fault list
"""


def add_to(commands: Commands) -> None:
    """Add `gradguard demo` to the parser."""
    demo = add_command(
        commands,
        "demo",
        run,
        help="train an LSTM with a gradient bug and without, both checked by gradguard",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    demo.add_argument("--logdir", type=Path, default=Path("runs"), help="folder of the logs (default: %(default)s)")
    demo.add_argument(
        "--fault",
        type=fault,
        default="timesteps",
        metavar="NAME",
        help="fault of the first training, or `list` to print all faults (default: %(default)s)",
    )
    for name, least, default, meaning in (
        ("--steps", 1, 3000, "steps of each training"),
        ("--every-n-steps", 1, 100, "training steps between checks"),
        ("--seed", 0, 0, "seed of the weights and of the batches"),
        ("--hidden", 1, 5, "number of cells of the LSTM"),
        ("--batch", 1, 16, "number of windows in a batch"),
    ):
        demo.add_argument(
            name, type=whole_number(least), default=default, metavar="N", help=f"{meaning} (default: %(default)s)"
        )
    demo.add_argument(
        "--precision",
        choices=("native", "float64", "auto"),
        default="native",
        help="precision in which checks evaluate the loss; native is float32 here (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Print the faults, or train with one of them and without."""
    if options.fault == LIST:
        sys.stdout.write(listed_faults())
        return 0
    from gradguard.demo import train  # imports TensorBoard, which is slow

    logging.basicConfig(format="%(message)s")
    logging.getLogger("gradguard").setLevel(logging.INFO)
    settings = train.Settings(
        fault=options.fault,
        steps=options.steps,
        every_n_steps=options.every_n_steps,
        seed=options.seed,
        hidden=options.hidden,
        batch=options.batch,
        precision=options.precision,
    )
    try:
        train.run(settings, options.logdir)
    except OSError as error:
        sys.stderr.write(f"gradguard demo: error: cannot log into {options.logdir}: {error}\n")
        return 1
    return 0


def listed_faults() -> str:
    """The faults, one in each line: its name, and what the code does wrong."""
    width = max(map(len, FAULTS))
    return "".join(f"{name:<{width}}  {fault.description}\n" for name, fault in FAULTS.items())


def fault(text: str) -> str:
    """The name of a fault, or `list`."""
    if text != LIST and text not in FAULTS:
        raise argparse.ArgumentTypeError(f"there is no fault {text!r} (choose from {', '.join([LIST, *FAULTS])})")
    return text
