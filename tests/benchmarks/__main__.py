"""Lists the benchmarks and runs one: `python tests/benchmarks list`, `python tests/benchmarks NAME [--quick]`."""

import difflib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a folder: what Python finds first is the folder's content, not the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.catalog import benchmarks, listing

USAGE = """\
python tests/benchmarks list                    name every benchmark
python tests/benchmarks NAME                    run one
python tests/benchmarks NAME --quick            run it with its smallest settings, to see that it works
python tests/benchmarks NAME --help             what it measures, how to read its table, and its other options"""


def main(arguments: Sequence[str]) -> None:
    """Do what the command line says."""
    match arguments:
        case ["list"]:
            print(listing())
        case [] | ["-h" | "--help"]:
            print(USAGE)
        case [name, *options]:
            run(name, options)


def run(name: str, options: Sequence[str]) -> None:
    """Run a benchmark.

    Raises:
        SystemExit: No benchmark has that name, or a library that it needs is not installed; the message says which.
    """
    known = benchmarks()
    if name not in known:
        similar = "".join(f" Did you mean {one}?" for one in difflib.get_close_matches(name, known, n=1))
        raise SystemExit(f"There is no benchmark {name!r}.{similar} To see them all: python tests/benchmarks list")
    try:
        module = importlib.import_module(known[name].module)
    except ModuleNotFoundError as error:
        raise SystemExit(f"{name} needs {error.name}: pip install -e '.[test,benchmarks]'") from error
    module.main(options)


if __name__ == "__main__":
    main(sys.argv[1:])
