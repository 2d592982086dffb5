"""`gradguard sweep`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from gradguard.cli.factory import guarded, make, working_directory_on_path
from gradguard.cli.options import FACTORY, Commands, add_command, add_constants, add_json, add_measurement, step_sizes
from gradguard.cli.output import FINE, Failure, say, say_json, stdout_for_json_only
from gradguard.sweeps.plot import require_plottable
from gradguard.sweeps.sweep import ENTRIES, Sweep, sweep

DESCRIPTION = f"""\
Compares gradients with differences of the loss at many step sizes: where the loss stops moving, which step is best, and
whether float precision explains what is left there.

{FACTORY}"""
EPILOG = """\
exit status:
  0 swept, whatever came of it, 2 it could not be (or the command line is wrong)

example:
  gradguard sweep train:make --plot sweep.png
"""
Keep = Callable[[Sweep], str]


def add_to(commands: Commands) -> None:
    """Adds the options of `gradguard sweep`."""
    command = add_command(
        commands,
        "sweep",
        run,
        help="compare gradients with differences at many step sizes",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    add_measurement(command, "native", ENTRIES)
    add_constants(command)
    command.add_argument(
        "--steps", type=step_sizes, metavar="H,H,...", help="step sizes (default: from a millionth of the parameters)"
    )
    command.add_argument("--plot", metavar="FILE", help="draw the curves into a PNG or SVG file; needs matplotlib")
    command.add_argument("--logdir", metavar="DIR", help="write the sweep for TensorBoard")
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """`gradguard sweep`: prints the table and what it means."""
    keepers = _keepers(options)
    with working_directory_on_path(), stdout_for_json_only(options.json):
        case = make(options.factory)
        swept = guarded(
            lambda: sweep(
                case.params,
                case.grads,
                case.loss,
                steps=options.steps,
                constants={**(case.constants or {}), **dict(options.constant)},
                reduction=options.reduction or case.reduction,
                precision=options.precision,
                snapshot=case.snapshot,
                entries=options.entries,
                seed=options.seed,
                progress=True,
            )
        )
    if options.json:
        say_json(swept.to_dict())
    else:
        say(str(swept))
    kept = [keep(swept) for keep in keepers]
    if kept and not options.json:
        say("\n".join(["", *kept]))
    return FINE


def _keepers(options: argparse.Namespace) -> list[Keep]:
    """What to do with the sweep besides printing it, proven possible before the long work begins."""
    keepers: list[Keep] = []
    if options.plot is not None:
        keepers.append(_plotter(options.plot))
    if options.logdir is not None:
        keepers.append(_logger(options.logdir))
    return keepers


def _plotter(path: str) -> Keep:
    try:
        target = require_plottable(path)
    except (ImportError, ValueError) as error:
        raise Failure(str(error)) from error
    if not target.parent.is_dir():
        raise Failure(f"cannot draw into {path!r}: there is no folder {str(target.parent)!r}")

    def keep(swept: Sweep) -> str:
        try:
            swept.plot(target)
        except OSError as error:
            raise Failure(f"cannot draw into {path!r}: {error}") from error
        return f"The curves: {target}"

    return keep


def _logger(logdir: str) -> Keep:
    from gradguard.writers.tensorboard import TensorBoardWriter  # TensorBoard is not light

    try:
        writer = TensorBoardWriter(Path(logdir))
    except OSError as error:
        raise Failure(f"cannot log into {logdir!r}: {error}") from error

    def keep(swept: Sweep) -> str:
        try:
            writer.write_sweep(swept)
        except OSError as error:
            raise Failure(f"cannot log into {logdir!r}: {error}") from error
        finally:
            writer.close()
        return f"In TensorBoard, under Images and Text: tensorboard --logdir {logdir}"

    return keep
