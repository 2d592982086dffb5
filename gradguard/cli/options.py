"""What the commands' options have in common."""

import argparse
import math
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

EXIT_STATUSES = "exit status:\n  0 fine, 1 a bug, 2 it cannot be told (or the command line is wrong)\n"
FACTORY = """\
MODULE is imported as `python -m` would, from the working directory too. FACTORY is called with no arguments and returns
(params, grads, loss), or a mapping with these keys and, if need be, constants, blocks, snapshot and reduction.
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Says what is wrong and ends with status 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def add_command(commands: Commands, name: str, run: Callable[[argparse.Namespace], int], **texts: Any) -> Parser:
    """Adds a command with its help; `run` is called with its options."""
    command = commands.add_parser(name, formatter_class=argparse.RawDescriptionHelpFormatter, **texts)
    command.set_defaults(command=run, prog=command.prog)
    return command


def add_json(command: Parser) -> None:
    """Adds `--json`."""
    command.add_argument("--json", action="store_true", help="print JSON, and nothing else")


def add_constants(command: Parser) -> None:
    """Adds `--constant`."""
    command.add_argument(
        "--constant",
        action="append",
        type=constant,
        default=[],
        metavar="NAME=VALUE",
        help="a number of the training to name a factor after, such as timesteps=39; may be repeated",
    )


def add_measurement(command: Parser, precision: str, entries: int) -> None:
    """Adds the factory and how it is measured."""
    command.add_argument("factory", metavar="MODULE:FACTORY", help="what makes the parameters, gradients and loss")
    command.add_argument(
        "--precision",
        choices=("native", "float64", "auto"),
        default=precision,
        help="what the loss is evaluated in (default: %(default)s)",
    )
    command.add_argument(
        "--reduction", choices=("sum", "mean"), help="which scalar the gradient is of, when the loss returns an array"
    )
    command.add_argument(
        "--entries",
        type=whole_number(1),
        metavar="N",
        help=f"entries of a tensor to measure at most (default: {entries})",
    )
    command.add_argument(
        "--seed", type=whole_number(0), default=0, metavar="N", help="which entries are drawn (default: %(default)s)"
    )


def whole_number(least: int) -> Callable[[str], int]:
    """What reads a whole number of at least `least`."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
        return int(text)

    return read


def constant(text: str) -> tuple[str, float]:
    """A constant's name and value, from NAME=VALUE."""
    name, _, value = text.partition("=")
    number = positive(value)
    if not name or number is None:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE with a positive number, got {text!r}")
    return name, number


def step_sizes(text: str) -> list[float]:
    """Step sizes, from a list with commas."""
    steps = [positive(part) for part in text.split(",")]
    known = [step for step in steps if step is not None]
    if len(known) < max(2, len(steps)):
        raise argparse.ArgumentTypeError(f"expected two positive numbers or more, such as 1e-4,1e-3,1e-2, got {text!r}")
    return known


def positive(text: str) -> float | None:
    """The positive number that the text says, if it says one."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None
