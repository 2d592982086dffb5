"""Do the tests notice small faults in the modules that restore, decide and name?

What is measured: mutants of these modules. A mutant is a module in which one operator, constant, condition, result or
statement is changed. For each, the tests of the module's folder run in a copy of the checkout, up to the first that
fails.

How to read it: "killed" mutants are those that a test notices. A mutant "timed out" if the tests take much longer than
without it, usually in an endless loop; it counts as noticed too. The second table lists those that "survived": each is
a gap in the tests, or an equivalent mutant, that is, one which changes nothing that a user relies on. The goal is
90 % noticed of those that are not equivalent.

    python tests/benchmarks mutants
    python tests/benchmarks mutants --modules statistics classify --each 40 --seed 1
"""

import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from benchmarks.promises.mutations import Mutant, mutants_of
from benchmarks.support.options import parser_of
from benchmarks.support.parallel import in_parallel
from benchmarks.support.tables import Row, table

USUAL_TIME = "about 20 min"

ROOT = Path(__file__).parents[3]
COPIED = ("gradguard", "integrations", "tests", "pyproject.toml", "setup.cfg")
TESTS = {  # of each module: the folders of tests that are about what it does
    "perturbation/journal.py": ("perturbation",),
    "perturbation/rollback.py": ("perturbation", "environment"),
    "perturbation/snapshots.py": ("perturbation",),
    "perturbation/spaces.py": ("perturbation",),
    "environment/state.py": ("environment",),
    "environment/held.py": ("environment",),
    "environment/reach.py": ("environment",),
    "measurement/confirmation.py": ("measurement", "checks"),
    "screening/screen.py": ("screening",),
    "statistics/*.py": ("statistics",),
    "statistics/rules.py": ("statistics", "checks"),
    "diagnosis/classify.py": ("diagnosis",),
    "diagnosis/known_factors.py": ("diagnosis",),
    "diagnosis/causes/**/*.py": ("diagnosis",),
}
PATIENCE = 5.0  # times the duration of the tests without a mutant, after which a mutant has timed out
MORE_SECONDS = 20.0  # that a mutant is given beyond that
LONGEST_CODE = 60  # characters shown of what a mutant changes


@dataclass(frozen=True, slots=True)
class Trial:
    """A mutant, and the tests that should notice it.

    Attributes:
        module: The path of the module in the checkout.
        mutant: The module with its fault.
        tests: The folders of tests.
        seconds: After which the mutant has timed out.
        checkout: A copy of the checkout, to be copied once more.
    """

    module: str
    mutant: Mutant
    tests: tuple[str, ...]
    seconds: float
    checkout: Path


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the two tables."""
    options = parser().parse_args(arguments)
    chosen = chosen_modules(options.modules)
    with tempfile.TemporaryDirectory() as folder:
        checkout = copied(ROOT, Path(folder) / "checkout")
        seconds = seconds_of_folders(list(dict.fromkeys(chain(*chosen.values()))), checkout, options.processes)
        trials = [
            Trial(module, mutant, tests, MORE_SECONDS + PATIENCE * sum(map(seconds.__getitem__, tests)), checkout)
            for module, tests in chosen.items()
            for mutant in drawn(checkout, module, options)
        ]
        fates = list(in_parallel(fate_of, trials, options.processes, "mutants"))
    print(table(("module", "mutants", "killed", "timed out", "survived", "noticed, %"), rows(trials, fates)))
    if survivors := [trial for trial, fate in zip(trials, fates, strict=True) if fate == "survived"]:
        print()
        print(table(("survived", "was", "is"), map(shown, survivors)))


def drawn(checkout: Path, module: str, options: Namespace) -> list[Mutant]:
    """The mutants of a module that are tried."""
    source = (checkout / module).read_text(encoding="utf-8")
    return mutants_of(source, 1 if options.quick else options.each, f"{options.seed} {module}")


def parser() -> ArgumentParser:
    """The options."""
    options = parser_of(__name__, "one mutant of each module", processes=2)
    options.add_argument("--each", type=int, default=10, help="mutants drawn from each module (default: %(default)s)")
    options.add_argument("--seed", type=int, default=0, help="decides which are drawn (default: %(default)s)")
    options.add_argument("--modules", nargs="+", metavar="TEXT", default=[""], help="only those with it in their path")
    return options


def chosen_modules(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The modules whose path contains one of some texts, with their tests.

    Raises:
        SystemExit: There is none.
    """
    modules = {
        path.relative_to(ROOT).as_posix(): tests
        for pattern, tests in TESTS.items()
        for path in sorted((ROOT / "gradguard").glob(pattern))
    }
    chosen = {module: tests for module, tests in modules.items() if any(text in module for text in texts)}
    if not chosen:
        raise SystemExit(f"no module of these has {' or '.join(texts)} in its path: {', '.join(modules)}")
    return chosen


def copied(checkout: Path, to: Path) -> Path:
    """A copy of the parts of a checkout that the tests need."""
    to.mkdir()
    for name in COPIED:
        if (checkout / name).is_dir():
            shutil.copytree(checkout / name, to / name)
        else:
            shutil.copy2(checkout / name, to / name)
    return to


def seconds_of_folders(folders: Sequence[str], checkout: Path, processes: int) -> dict[str, float]:
    """How long the tests of each folder take without a mutant.

    Raises:
        SystemExit: Some fail.
    """
    work = [(folder, checkout) for folder in folders]
    seconds = dict(zip(folders, in_parallel(seconds_of, work, processes, "tests"), strict=True))
    if failing := [f"tests/{folder}" for folder in folders if math.isinf(seconds[folder])]:
        raise SystemExit(f"tests fail without a mutant, in {', '.join(failing)}; let them pass first")
    return seconds


def seconds_of(work: tuple[str, Path]) -> float:
    """How long the tests of a folder take; inf if they fail."""
    folder, checkout = work
    start = time.perf_counter()
    return math.inf if run_tests([folder], checkout, None) else time.perf_counter() - start


def fate_of(trial: Trial) -> str:
    """What happens to a mutant: killed, timed out or survived."""
    with tempfile.TemporaryDirectory(dir=trial.checkout.parent) as folder:
        checkout = copied(trial.checkout, Path(folder) / "checkout")
        (checkout / trial.module).write_text(trial.mutant.source, encoding="utf-8")
        try:
            return "killed" if run_tests(trial.tests, checkout, trial.seconds) else "survived"
        except subprocess.TimeoutExpired:
            return "timed out"


def run_tests(tests: Sequence[str], checkout: Path, seconds: float | None) -> int:
    """Run folders of tests up to the first failure.

    Returns:
        The exit status of pytest; 0 if all pass.

    Raises:
        TimeoutExpired: They take longer than `seconds`.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, *(f"tests/{folder}" for folder in tests)],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},  # before the checkout that is installed
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=seconds,
        check=False,
    ).returncode


def rows(trials: Sequence[Trial], fates: Sequence[str]) -> Iterator[Row]:
    """A row for each module, and one for all."""
    counts: dict[str, Counter[str]] = {trial.module: Counter() for trial in trials}
    for trial, fate in zip(trials, fates, strict=True):
        counts[trial.module][fate] += 1
    for name, count in [*counts.items(), ("all", Counter(fates))]:
        mutants, survived = count.total(), count["survived"]
        noticed = f"{100 * (mutants - survived) / mutants:.0f}"
        yield name, str(mutants), str(count["killed"]), str(count["timed out"]), str(survived), noticed


def shown(trial: Trial) -> Row:
    """Where a mutant is, and what it changes."""
    before, after = (_shortened(code) for code in (trial.mutant.before, trial.mutant.after))
    return f"{trial.module}:{trial.mutant.line}", before, after


def _shortened(code: str) -> str:
    line = " ".join(code.split())
    return line if len(line) <= LONGEST_CODE else f"{line[: LONGEST_CODE - 3]}..."
