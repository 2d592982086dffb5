import itertools
import subprocess
import sys

import pytest

from gradguard.cli import main
from gradguard.testing import FAULTS


def failure(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command line complains of; it must end with status 2 and print nothing else."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert out == ""
    return err


def test_the_faults_are_listed_with_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    """`--fault list` prints one line a fault, its name first."""
    assert main(["demo", "--fault", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(FAULTS)
    assert lines[0].endswith("  The LSTM's gradients are averaged over the timesteps once more")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "--fault", "timestep"], ["'timestep'", "timesteps", "no-recurrent-dh", "list"]),
        (["demo", "--precision", "float16"], ["float16", "native", "float64", "auto"]),
        (["demo", "--steps", "0"], ["--steps", "at least 1", "'0'"]),
        (["demo", "--every-n-steps", "-5"], ["--every-n-steps", "at least 1", "'-5'"]),
        (["demo", "--hidden", "five"], ["--hidden", "at least 1", "'five'"]),
        (["demo", "--seed", "1.5"], ["--seed", "at least 0", "'1.5'"]),
        (["demo", "--steps"], ["--steps", "expected one argument"]),
        (["train"], ["'train'", "demo"]),
        ([], ["COMMAND"]),
    ],
)
def test_a_mistake_is_one_line_that_tells_the_choices(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong command line ends with status 2 and one line that says what is allowed."""
    message = failure(arguments, capsys)
    assert message.count("\n") == 1
    assert message.startswith("gradguard")
    assert all(word in message for word in words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check"], "MODULE:FACTORY"),
        (["check", "a:b", "--precision", "half"], "'half'"),
        (["check", "a:b", "--reduction", "max"], "'max'"),
        (["check", "a:b", "--entries", "0"], "at least 1"),
        (["check", "a:b", "--seed", "-1"], "at least 0"),
        (["sweep", "a:b", "--steps", "1e-3"], "two positive numbers or more"),
        (["sweep", "a:b", "--steps", "1e-3,small"], "two positive numbers or more"),
        (["sweep", "a:b", "--steps", "1e-3,-1"], "two positive numbers or more"),
    ],
)
def test_a_wrong_option_is_told_in_a_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line ends with status 2 and says what is allowed."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"]])
def test_help_shows_an_example(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Every help page ends with a command that one can paste."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert "gradguard demo --logdir runs\n" in capsys.readouterr().out.partition("example:\n")[2]


@pytest.mark.parametrize("command", ["check", "sweep", "diagnose"])
def test_help_tells_the_exit_statuses_and_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each help page says what the status means, and ends with a command to paste."""
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "exit status:\n  0 " in out
    assert f"example:\n  gradguard {command} " in out


def test_the_example_in_the_help_names_faults_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """Each `--fault` of the examples is taken."""
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    example = capsys.readouterr().out.partition("example:\n")[2].split()
    named = {name for option, name in itertools.pairwise(example) if option == "--fault"}
    assert named
    assert named <= {"list", *FAULTS}


def test_the_module_is_the_command() -> None:
    """`python -m gradguard` takes the same options, under the same name."""
    done = subprocess.run([sys.executable, "-m", "gradguard", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("gradguard ")


def test_a_log_folder_that_cannot_be_made_is_told_in_a_line(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file in the way of the log folder ends the demo with status 1 before any training."""
    in_the_way = tmp_path_factory.mktemp("logs") / "runs"
    in_the_way.write_text("a file\n")
    assert main(["demo", "--logdir", str(in_the_way), "--steps", "1"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"gradguard demo: error: cannot log into {in_the_way}: ")
    assert err.count("\n") == 1
