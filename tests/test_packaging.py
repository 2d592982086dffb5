"""The sdist and the wheel hold every file that they have to."""

import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only a git checkout knows which files belong")


@dataclass(frozen=True)
class Distributions:
    """The names of the files in each distribution, as relative paths."""

    sdist: frozenset[str]
    wheel: frozenset[str]


def tracked_files(*folders: str) -> set[str]:
    """The files under version control that exist, in the whole repository or in some folders."""
    listed = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.split("\0") if (ROOT / name).is_file()}


def build(kind: str, source: Path, target: Path) -> Path:
    """Builds an sdist or a wheel with the setuptools of this environment: an isolated build would need the network."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(target)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """An sdist of the files under version control, and a wheel of the unpacked sdist."""
    folder = tmp_path_factory.mktemp("distributions")
    for name in tracked_files():
        copy = folder / "checkout" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    with tarfile.open(build("sdist", folder / "checkout", folder / "sdist")) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    with zipfile.ZipFile(build("wheel", unpacked, folder / "wheel")) as archive:
        wheel = frozenset(archive.namelist())
    sdist = frozenset(path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file())
    return Distributions(sdist, wheel)


def test_the_wheel_holds_the_packages_and_the_pytest_plugin(distributions: Distributions) -> None:
    """Each module and data file of gradguard/ and integrations/ is there, under the name that it is imported by."""
    inside = {name.replace("integrations/", "gradguard/integrations/", 1) for name in tracked_files("integrations")}
    packages = tracked_files("gradguard") | inside
    assert {"gradguard/py.typed", "gradguard/integrations/native/gradguard.h"} <= distributions.wheel
    assert {name for name in distributions.wheel if ".dist-info/" not in name} == packages | {"pytest_gradguard.py"}


def test_the_sdist_holds_what_the_tests_need(distributions: Distributions) -> None:
    """The tests and the documentation are complete, so that the tests of a downstream package run."""
    pages = {".github/CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", "setup.cfg"}
    assert pages | tracked_files("docs", "tests") <= distributions.sdist
