"""`gradguard sweep`: compare gradients with differences at many step sizes."""

import argparse
from collections.abc import Callable
from pathlib import Path

from gradguard.cli.factory import guarded, make, working_directory_on_path
from gradguard.cli.options import FACTORY, Commands, add_command, add_constants, add_json, add_measurement, step_sizes
from gradguard.cli.output import FINE, Failure, print_json, print_text, stdout_for_json_only
from gradguard.sweeps import ENTRIES, Sweep
from gradguard.sweeps.plot import require_plottable
from gradguard.sweeps.sweep import sweep

DESCRIPTION = f"""\
Compares gradients with differences of the loss at many step sizes, and says where the loss stops changing, which step
is best, and whether rounding and truncation account for the discrepancy there.

{FACTORY}"""
EPILOG = """\
exit status:
  0 the sweep is complete, whatever it shows, 2 an error (also of the command line)

example:
  gradguard sweep train:make --plot sweep.png
"""
Output = Callable[[Sweep], str]


def add_to(commands: Commands) -> None:
    """Add `gradguard sweep` to the parser."""
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
        "--steps",
        type=step_sizes,
        metavar="H,H,...",
        help="step sizes (default: steps up to the size of the parameters)",
    )
    command.add_argument("--plot", metavar="FILE", help="draw the curves into a PNG or SVG file (needs matplotlib)")
    command.add_argument("--logdir", metavar="DIR", help="write the sweep into an event file for TensorBoard")
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Print the table and the explanation of a sweep, and write the files that are asked for."""
    outputs = _outputs(options)
    with working_directory_on_path(), stdout_for_json_only(options.json):
        case = make(options.factory)
        result = guarded(
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
        print_json(result.to_dict())
    else:
        print_text(str(result))
    notes = [output(result) for output in outputs]
    if notes and not options.json:
        print_text("\n".join(["", *notes]))
    return FINE


def _outputs(options: argparse.Namespace) -> list[Output]:
    """Functions that write the sweep into files; whether they can is checked here, before the sweep starts."""
    outputs: list[Output] = []
    if options.plot is not None:
        outputs.append(_plot_output(options.plot))
    if options.logdir is not None:
        outputs.append(_log_output(options.logdir))
    return outputs


def _plot_output(path: str) -> Output:
    try:
        target = require_plottable(path)
    except (ImportError, ValueError) as error:
        raise Failure(str(error)) from error
    if not target.parent.is_dir():
        raise Failure(f"cannot draw into {path!r}: there is no folder {str(target.parent)!r}")

    def write(result: Sweep) -> str:
        try:
            result.plot(target)
        except OSError as error:
            raise Failure(f"cannot draw into {path!r}: {error}") from error
        return f"The curves: {target}"

    return write


def _log_output(logdir: str) -> Output:
    from gradguard.writers import TensorBoardWriter  # imports TensorBoard, which is slow

    try:
        writer = TensorBoardWriter(Path(logdir))
    except OSError as error:
        raise Failure(f"cannot log into {logdir!r}: {error}") from error

    def write(result: Sweep) -> str:
        try:
            writer.write_sweep(result)
        except OSError as error:
            raise Failure(f"cannot log into {logdir!r}: {error}") from error
        finally:
            writer.close()
        return f"In TensorBoard, under Images and Text: tensorboard --logdir {logdir}"

    return write
