"""The command-line options that benchmarks share."""

import argparse
import sys


def parser_of(module: str, quick: str, processes: int | None = None) -> argparse.ArgumentParser:
    """A parser with the shared options; `--help` prints the docstring of the benchmark.

    Args:
        module: The `__name__` of the benchmark.
        quick: What `--quick` runs.
        processes: The default of `--processes`; None for a benchmark that runs in one process.
    """
    options = argparse.ArgumentParser(
        prog=f"python tests/benchmarks {module.rpartition('.')[2]}",
        description=sys.modules[module].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if processes is not None:
        options.add_argument(
            "--processes", type=int, default=processes, help="that share the work (default: %(default)s)"
        )
    options.add_argument("--quick", action="store_true", help=quick)
    return options
