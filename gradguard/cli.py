"""The command line: `gradguard demo` and what else can be done without writing code."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from gradguard.testing import FAULTS

LIST = "list"

DEMO = """\
Trains the LSTM of the question that gradguard grew from, in float32, on the genome of the virus phi X 174: first with a
fault in its backward pass, then without. gradguard watches both, says what it finds, and logs it for TensorBoard.
"""
DEMO_EXAMPLE = """\
example:
  gradguard demo --logdir runs
  gradguard demo --logdir runs --fault no-recurrent-dh
  gradguard demo --fault list
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line, by default that of the process, and returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        status: int = options.command(options)
    except KeyboardInterrupt:
        return 130
    return status


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Says what is wrong and ends with status 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def parser() -> Parser:
    """The options of every command."""
    top = Parser(
        prog="gradguard",
        description="Checks hand-written gradients during training, and tells float precision from a bug.",
        epilog="example:\n  gradguard demo --logdir runs",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"gradguard {version()}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_demo(commands)
    return top


def add_demo(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Adds the options of `gradguard demo`."""
    demo = commands.add_parser(
        "demo",
        help="watch gradguard find a bug in an LSTM, and agree with the LSTM once it is fixed",
        description=DEMO,
        epilog=DEMO_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument("--logdir", type=Path, default=Path("runs"), help="folder for the logs (default: %(default)s)")
    demo.add_argument(
        "--fault",
        type=fault,
        default="timesteps",
        metavar="NAME",
        help="fault of the first act, or `list` (default: %(default)s)",
    )
    for name, least, default, what in (
        ("--steps", 1, 3000, "training steps of each act"),
        ("--every-n-steps", 1, 100, "steps from check to check"),
        ("--seed", 0, 0, "seed of the weights and batches"),
        ("--hidden", 1, 5, "cells of the LSTM"),
        ("--batch", 1, 16, "windows in a batch"),
    ):
        demo.add_argument(
            name, type=whole_number(least), default=default, metavar="N", help=f"{what} (default: %(default)s)"
        )
    demo.add_argument(
        "--precision",
        choices=("native", "float64", "auto"),
        default="native",
        help="precision that the checks evaluate the loss in; native is float32 here (default: %(default)s)",
    )
    demo.set_defaults(command=run_demo)


def run_demo(options: argparse.Namespace) -> int:
    """`gradguard demo`: lists the faults, or trains with one of them."""
    if options.fault == LIST:
        sys.stdout.write(listed_faults())
        return 0
    from gradguard.demo.train import Settings, run  # it imports TensorBoard, which `--help` need not wait for

    logging.basicConfig(format="%(message)s")
    logging.getLogger("gradguard").setLevel(logging.INFO)
    settings = Settings(
        fault=options.fault,
        steps=options.steps,
        every_n_steps=options.every_n_steps,
        seed=options.seed,
        hidden=options.hidden,
        batch=options.batch,
        precision=options.precision,
    )
    try:
        run(settings, options.logdir)
    except OSError as error:
        sys.stderr.write(f"gradguard demo: error: cannot log into {options.logdir}: {error}\n")
        return 1
    return 0


def listed_faults() -> str:
    """The faults, one a line: its name, and what the code does wrong."""
    width = max(map(len, FAULTS))
    return "".join(f"{name:<{width}}  {fault.description}\n" for name, fault in FAULTS.items())


def fault(text: str) -> str:
    """The name of a fault, or `list`."""
    if text != LIST and text not in FAULTS:
        raise argparse.ArgumentTypeError(f"there is no fault {text!r} (choose from {', '.join([LIST, *FAULTS])})")
    return text


def whole_number(least: int) -> Callable[[str], int]:
    """What reads a whole number of at least `least`."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
        return int(text)

    return read


def version() -> str:
    """The version installed."""
    try:
        return metadata.version("gradguard")
    except metadata.PackageNotFoundError:
        return "(not installed: run from its sources)"
