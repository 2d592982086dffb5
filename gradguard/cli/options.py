"""Options that several commands share."""

import argparse
import math
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

EXIT_STATUSES = "exit status:\n  0 no bug, 1 a bug, 2 not enough evidence, or an error (also of the command line)\n"
FACTORY = """\
MODULE is imported as by `python -m`, also from the working directory. FACTORY is called without arguments and returns
(params, grads, loss), or a mapping with these keys and, optionally, constants, blocks, snapshot, reduction, value and
expected.
"""


class Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def add_command(commands: Commands, name: str, run: Callable[[argparse.Namespace], int], **texts: Any) -> Parser:
    """Add a command with its help texts; `run` gets the parsed options and returns the exit status."""
    command = commands.add_parser(name, formatter_class=argparse.RawDescriptionHelpFormatter, **texts)
    command.set_defaults(command=run, prog=command.prog)
    return command


def add_json(command: Parser) -> None:
    """Add `--json`."""
    command.add_argument("--json", action="store_true", help="print JSON, and nothing else")


def add_constants(command: Parser) -> None:
    """Add `--constant`."""
    command.add_argument(
        "--constant",
        action="append",
        type=constant,
        default=[],
        metavar="NAME=VALUE",
        help="a number of the training that a wrong factor may equal, such as timesteps=39; may be repeated",
    )


def add_measurement(command: Parser, precision: str, entries: int) -> None:
    """Add the factory and the options of the measurement."""
    command.add_argument(
        "factory", metavar="MODULE:FACTORY", help="a function that returns parameters, gradients and loss"
    )
    command.add_argument(
        "--precision",
        choices=("native", "float64", "auto"),
        default=precision,
        help="precision in which the loss is evaluated (default: %(default)s)",
    )
    command.add_argument(
        "--reduction",
        choices=("sum", "mean"),
        help="the scalar that the gradient belongs to, if the loss returns an array",
    )
    command.add_argument(
        "--entries",
        type=whole_number(1, "all"),
        metavar="N",
        help=f"number of entries of each tensor to measure, at most, or all (default: {entries})",
    )
    command.add_argument(
        "--seed",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="seed of the random directions and entries (default: %(default)s)",
    )


def whole_number(least: int, word: str = "") -> Callable[[str], int | str]:
    """A parser of whole numbers of at least `least`, or of one word that stands for a number."""

    def read(text: str) -> int | str:
        if word and text == word:
            return word
        if not text.isdecimal() or int(text) < least:
            expected = f"a whole number of at least {least}" + (f", or {word!r}" if word else "")
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return int(text)

    return read


def constant(text: str) -> tuple[str, float]:
    """The name and value of a constant, from NAME=VALUE."""
    name, _, value = text.partition("=")
    number = positive(value)
    if not name or number is None:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE with a positive number, got {text!r}")
    return name, number


def step_sizes(text: str) -> list[float]:
    """Step sizes, from a list separated by commas."""
    steps = [positive(part) for part in text.split(",")]
    known = [step for step in steps if step is not None]
    if len(known) < max(2, len(steps)):
        raise argparse.ArgumentTypeError(f"expected two positive numbers or more, such as 1e-4,1e-3,1e-2, got {text!r}")
    return known


def positive(text: str) -> float | None:
    """The positive finite number in the text; None if it is no such number."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None
