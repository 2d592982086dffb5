"""`gradguard native`: find the C header for trainers in C and C++."""

import argparse

from gradguard.cli.options import Commands, add_command
from gradguard.cli.output import FINE, print_text

DESCRIPTION = """\
Prints the folder of gradguard.h. A trainer in C or C++ includes this header, fills in its table, and is built as a
shared library that gradguard.integrations.native loads.
"""
EPILOG = """\
example:
  g++ -O2 -shared -fPIC -I"$(gradguard native --include-dir)" trainer.cpp -o libtrainer.so
"""


def add_to(commands: Commands) -> None:
    """Add `gradguard native` to the parser."""
    command = add_command(
        commands,
        "native",
        run,
        help="print the folder of the header for trainers in C and C++",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    command.add_argument(
        "--include-dir", action="store_true", required=True, help="print the folder of gradguard.h, for the compiler"
    )


def run(options: argparse.Namespace) -> int:  # noqa: ARG001 - every command gets its options
    """Print the folder of the header."""
    from gradguard.integrations.native import INCLUDE_DIR  # only this command needs the integrations

    print_text(str(INCLUDE_DIR))
    return FINE
