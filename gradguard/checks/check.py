"""One check without a training loop: the whole model is screened, what is wrong is located and explained."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from gradguard.arrays import Blocks, block_masks, require_constants, require_entries
from gradguard.checks.model import ModelCheck, NotSameLossError, check_model
from gradguard.containers import ArrayContainer, read_gradients, read_parameters
from gradguard.diagnosis import History, revise_across_tensors, summary, worst_verdict
from gradguard.differences import RoundedValue
from gradguard.environment import own_numerics, with_short_traceback
from gradguard.examination import ENTRIES, CheckPlan, Deadline, Effort, other_loss, with_exception_of_loss
from gradguard.intended import expected_sentence, how_to_declare, require_expected, undeclared_entries
from gradguard.loss import Loss, loss_of_mapping, require_reduction
from gradguard.measurement import CheckTarget, MeasurementContext, require_precision
from gradguard.perturbation import Rollback, Snapshot, combined_snapshot, reached_state
from gradguard.report import EvaluationBar, Report, TensorReport, Thresholds
from gradguard.statistics import DEFAULT_RULES, Rules

CHART_SECONDS = 2.0  # that entries of tensors whose gradient agrees may take, unless the user asks for more


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """The options of `check`, as the user gave them."""

    constants: Mapping[str, float] | None = None
    blocks: Blocks | None = None
    reduction: str | None = None
    precision: str = "auto"
    snapshot: Snapshot | Iterable[Snapshot] | None = None
    entries: int | str | None = None
    seed: int = 0
    value: object = None
    expected: Mapping[str, str] | None = None


@with_short_traceback
def check(
    params: ArrayContainer,
    grads: ArrayContainer,
    loss: Loss,
    *,
    value: object = None,
    constants: Mapping[str, float] | None = None,
    blocks: Blocks | None = None,
    reduction: str | None = None,
    precision: str = "auto",
    snapshot: Snapshot | Iterable[Snapshot] | None = None,
    entries: int | str | None = None,
    expected: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Report:
    """Check the gradients of a loss once; no training loop is needed.

    A screen moves all tensors at once. Where it disagrees with the gradients, the wrong tensors are located, and their
    entries and directions are measured. Entries of the other tensors are measured last.

    Args:
        params: The parameters, floating-point arrays by name; or in nested mappings, lists and tuples, whose names are
            joined with "."; or one array, which has the name "params".
        grads: Their gradients, in a container of the same form, or by the same names.
        loss: `loss()` reads the live arrays; `loss(params)` is handed a container of the same form. It returns a
            scalar, or an array of unreduced losses (then say which `reduction` the gradient is of).
        value: The loss that was computed together with the gradients, one number. Where the loss that is differenced
            is another one, the verdict is `other_loss`, and nothing is measured.
        constants: Numbers of the training by name, such as `{"timesteps": 39}`, to name a ratio after.
        blocks: Named parts of tensors, such as `{"W": gates("ifog", axis=1)}`.
        reduction: "sum" or "mean", when the loss returns an array.
        precision: "native" perturbs the live arrays, "float64" evaluates the loss on float64 copies of them, and "auto"
            does so if the copies have provably the same loss.
        snapshot: A callable that captures state which an evaluation of the loss changes, and returns the callable
            that restores it; or several of these.
        entries: How many entries of each tensor to measure, or "all". By default 12 of a wrong tensor and 8 of any
            other; no further one is begun once that has taken two seconds and as many evaluations as the rest.
        expected: The tensors whose gradient differs on purpose, each with the reason, such as
            `{"Wh": "truncated BPTT"}`; a block as in "Wh:forget" and patterns such as "encoder.*" are allowed too.
            They are measured, and where they differ the verdict is `expected`, which is no bug.
        seed: Seed of the random directions and entries.

    Returns:
        The report: a verdict on each tensor, and on all of them.

    Raises:
        TypeError: Something is of a kind that cannot be checked; the message names it.
        ValueError: Names, shapes, sizes or an option's value do not fit; the message says what was expected.
    """
    options = CheckOptions(constants, blocks, reduction, precision, snapshot, entries, seed, value, expected)
    return checked(params, grads, loss, options)


@own_numerics
def checked(
    params: ArrayContainer,
    grads: ArrayContainer,
    loss: Loss,
    options: CheckOptions,
    rules: Rules = DEFAULT_RULES,
) -> Report:
    """The report of `check`, by some rules.

    Raises:
        TypeError: As in `check`.
        ValueError: As in `check`.
    """
    started = time.perf_counter()
    given = read_parameters(params)
    arrays = given.arrays
    gradients = read_gradients(grads, arrays)
    shapes = {name: array.shape for name, array in arrays.items()}
    masks, known = block_masks(options.blocks, shapes), require_constants(options.constants)
    declared = require_expected(options.expected, shapes, masks)
    entries = require_entries(options.entries)
    value = None if options.value is None else RoundedValue.of(options.value)
    reached = reached_state(loss, params, (*arrays.values(), *gradients.values()))
    state = Rollback(gradients, combined_snapshot(options.snapshot), reached=reached)

    def measure() -> tuple[MeasurementContext, ModelCheck]:
        reduction, precision = require_reduction(options.reduction), require_precision(options.precision)
        target = CheckTarget(
            given.mapping,
            arrays,
            loss_of_mapping(loss, given.filled),
            reduction,
            state,
            rules=rules,
            value=value,
            on_evaluations=bar.add,
            inside=undeclared_entries(declared, masks),
        )
        histories = dict.fromkeys(arrays, History(known, shapes=shapes))
        effort = Effort(entries=ENTRIES if entries is None else entries)
        plan = CheckPlan(effort, masks, histories, Thresholds(), declared=declared)
        deadline = Deadline(time.perf_counter, started)
        for_charts = None if entries is not None else CHART_SECONDS
        context = target.context(precision)
        try:
            found = check_model(context, plan, np.random.default_rng(options.seed), deadline, for_charts)
        except NotSameLossError as refused:
            context = target.context(target.require_native(precision, str(refused)))
            found = check_model(context, plan, np.random.default_rng(options.seed), deadline, for_charts)
        state.reached.attribute(context.evaluate_live)
        return context, found

    with EvaluationBar("gradguard") as bar:
        context, found = state.run(measure)
    state.require_intact()
    return report_of(context, found.reports, 0, time.perf_counter() - started)


def report_of(context: MeasurementContext, tensors: Mapping[str, TensorReport], step: int, seconds: float) -> Report:
    """The report of a check.

    Args:
        context: What was measured with.
        tensors: The reports of all tensors, each diagnosed by itself.
        step: The training step.
        seconds: How long the check took.
    """
    tensors = other_loss(context) or revise_across_tensors(tensors, context.gradients)
    tensors = with_exception_of_loss(context, tensors, step)
    return Report(
        step=step,
        verdict=worst_verdict(tensors),
        tensors=tensors,
        precision=context.objective.space.precision,
        evaluations=context.objective.evaluations,
        seconds=seconds,
        explanation=explanation_of(tensors, step),
        loss=context.loss,
        screened=sum(tensor.screened_at == step for tensor in tensors.values()),
    )


def explanation_of(tensors: Mapping[str, TensorReport], step: int) -> str:
    """The summary, with what is declared to differ, and how to declare what could be meant."""
    hint = how_to_declare(tensors.values())
    hint = f"{hint[0].upper()}{hint[1:]}." if hint else ""
    return " ".join(filter(None, [summary(tensors, step), expected_sentence(tensors), hint]))
