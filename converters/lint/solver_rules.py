"""Rules about solvers: the schedule, the update, tests and snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from caffeio.converters.diff.solver_fields import FIELDS
from caffeio.converters.diff.training import snapshot_iterations
from caffeio.converters.lint.model import ERROR, INFO, Finding, Fix, SolverContext, solver_rule
from caffeio.errors import SolverError

TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam", "SAG")
_DECAYS = ("step", "exp", "inv", "multistep", "sigmoid", "plateau")


@solver_rule("CIO501", "bad-schedule", ERROR)
def bad_schedule(context: SolverContext) -> Iterator[Finding]:
    """The learning rate cannot be computed: Caffe dies at its first update, after all the set-up.

    An unknown lr_policy, a stepsize of 0, a negative gamma.
    """
    from caffeio.solver.schedule import Schedule  # with numpy: nets are linted without

    try:
        Schedule(context.message, context.profile)
    except SolverError as error:
        field = error.message.partition(":")[0]
        known = field in context.message.DESCRIPTOR.fields_by_name
        set_ = known and any(f.name == field for f, _ in context.message.ListFields())
        fix = None
        if field == "lr_policy":
            from caffeio.solver.policies import POLICIES

            close = get_close_matches(context.message.lr_policy, list(POLICIES), 1)
            fix = Fix(f"write {close[0]}", (f"lr_policy={close[0]}",)) if close and set_ else None
        if set_:
            yield context.at("CIO501", error.message, field, fix=fix)
        else:
            yield context.whole("CIO501", error.message)


@solver_rule("CIO502", "past-lr-iter")
def past_lr_iter(context: SolverContext) -> Iterator[Finding]:
    """poly_cyc runs past lr_iter: there the rate becomes negative, grows again, or is NaN."""
    solver = context.message
    if solver.lr_policy != "poly_cyc":
        return
    if not solver.lr_iter:
        yield context.at("CIO502", "lr_iter is not set: the rate is infinite or NaN", "lr_policy")
    elif solver.max_iter > solver.lr_iter:
        power = solver.power
        what = "negative" if power == 1 else "growing" if power % 2 == 0 else "negative or NaN"
        message = f"max_iter {solver.max_iter} is past lr_iter {solver.lr_iter}: {what} rates"
        yield context.at("CIO502", message, "max_iter")


@solver_rule("CIO503", "decay-to-nothing")
def decay_to_nothing(context: SolverContext) -> Iterator[Finding]:
    """The policy needs a gamma or a power, and none is set: 0 is the default.

    gamma 0 makes the rate 0 after the first step (exp: after the first iteration); power 0 makes
    poly and inv constant.
    """
    solver = context.message
    if solver.lr_policy in _DECAYS and not solver.gamma:
        message = f"gamma is 0 with lr_policy {solver.lr_policy!r}"
        yield context.at("CIO503", message, "lr_policy")
    if solver.lr_policy in ("poly", "poly_cyc", "inv") and not solver.power:
        message = f"power is 0 with lr_policy {solver.lr_policy!r}: the rate never changes"
        yield context.at("CIO503", message, "lr_policy")


@solver_rule("CIO504", "steps-not-reached")
def steps_not_reached(context: SolverContext) -> Iterator[Finding]:
    """multistep: stepvalues that are missing, not in order, or beyond max_iter."""
    solver = context.message
    if solver.lr_policy != "multistep":
        return
    values = list(solver.stepvalue)
    if not values:
        yield context.at("CIO504", "no stepvalue: the rate never changes", "lr_policy")
    for i, value in enumerate(values):
        if i and value <= values[i - 1]:
            message = f"stepvalue {value} is not above the one before, {values[i - 1]}"
            yield context.at("CIO504", message, "stepvalue", i)
        elif value >= solver.max_iter > 0:
            message = f"stepvalue {value} is never reached: max_iter is {solver.max_iter}"
            yield context.at("CIO504", message, "stepvalue", i)
    if solver.HasField("stepsize"):
        yield context.at("CIO504", "multistep does not read stepsize", "stepsize")


@solver_rule("CIO505", "step-not-reached", INFO)
def step_not_reached(context: SolverContext) -> Iterator[Finding]:
    """step: stepsize is not below max_iter, so that the rate never changes.

    Some solvers do this on purpose; lr_policy: "fixed" says it better.
    """
    solver = context.message
    if solver.lr_policy == "step" and solver.stepsize >= solver.max_iter > 0:
        message = f"stepsize {solver.stepsize} is never reached: max_iter is {solver.max_iter}"
        yield context.at("CIO505", message, "stepsize")
    if solver.lr_policy == "step" and solver.stepvalue:
        yield context.at("CIO505", "step does not read stepvalue", "stepvalue")


@solver_rule("CIO506", "no-test-iter")
def no_test_iter(context: SolverContext) -> Iterator[Finding]:
    """Tests are asked for and never happen, or happen and never were.

    test_interval without test_iter tests nothing, in silence; test_iter without test_interval
    makes Caffe die.
    """
    solver = context.message
    if solver.test_interval > 0 and not solver.test_iter:
        message = "test_interval without test_iter: there is no test"
        yield context.at("CIO506", message, "test_interval")
    if solver.test_iter and solver.test_interval <= 0:
        yield context.at("CIO506", "test_iter without test_interval: Caffe dies", "test_iter")


@solver_rule("CIO507", "no-snapshot-folder")
def no_snapshot_folder(context: SolverContext) -> Iterator[Finding]:
    """The folder of snapshot_prefix is missing: Caffe dies at its first snapshot, or at the start.

    Relative paths count from the working directory; they are looked at only where the solver's net
    is found from there too.
    """
    prefix = context.message.snapshot_prefix
    folder = Path(prefix).parent
    if not prefix or "%" in prefix or folder.is_dir():
        return
    if folder.is_absolute() or context.from_here:
        message = f"the folder {folder} of snapshot_prefix is missing"
        yield context.at("CIO507", message, "snapshot_prefix")


@solver_rule("CIO508", "no-snapshot")
def no_snapshot(context: SolverContext) -> Iterator[Finding]:
    """Nothing of the training is kept: no snapshot on the way, none at the end."""
    solver = context.message
    if solver.max_iter > 0 and not snapshot_iterations(solver):
        yield context.at("CIO508", "no snapshot is ever written", "snapshot_after_train")


@solver_rule("CIO509", "solver-type", ERROR)
def solver_type(context: SolverContext) -> Iterator[Finding]:
    """A type of solver that no Caffe has; the name is case-sensitive."""
    kind = context.message.type
    if kind not in TYPES:
        close = next((t for t in TYPES if t.lower() == kind.lower()), None)
        close = close or next(iter(get_close_matches(kind, TYPES, 1)), None)
        fix = Fix(f"write {close}", (f"type={close}",)) if close else None
        hint = f"; did you mean {close!r}?" if close else f" (known: {', '.join(TYPES)})"
        yield context.at("CIO509", f"unknown solver type {kind!r}{hint}", "type", fix=fix)


@solver_rule("CIO510", "momentum-refused", ERROR)
def momentum_refused(context: SolverContext) -> Iterator[Finding]:
    """AdaGrad and RMSProp know no momentum: Caffe dies. Intel's RMSProp does know it."""
    solver = context.message
    refuses = ["AdaGrad"] if context.profile.rmsprop == "intel" else ["AdaGrad", "RMSProp"]
    if solver.type in refuses and solver.momentum:
        message = f"{solver.type} refuses a momentum"
        fix = Fix("remove momentum", removals=("momentum",))
        yield context.at("CIO510", message, "momentum", fix=fix)


@solver_rule("CIO511", "no-momentum")
def no_momentum(context: SolverContext) -> Iterator[Finding]:
    """Adam and AdaDelta use `momentum` as beta1 or rho, and its default is 0."""
    solver = context.message
    if solver.type in ("Adam", "AdaDelta") and not solver.momentum:
        role = "beta1" if solver.type == "Adam" else "rho"
        message = f"momentum, the {role} of {solver.type}, is 0"
        yield context.at("CIO511", message, "type")


@solver_rule("CIO512", "learns-nothing")
def learns_nothing(context: SolverContext) -> Iterator[Finding]:
    """A number that makes training pointless.

    base_lr 0 or less, clip_gradients 0, a negative weight_decay, iter_size or
    average_loss below 1.
    """
    solver = context.message
    if solver.HasField("base_lr") and solver.base_lr <= 0:
        yield context.at("CIO512", f"base_lr is {solver.base_lr:g}", "base_lr")
    for name, least in (("iter_size", 1), ("average_loss", 1)):
        if getattr(solver, name) < least:
            message = f"{name} is {getattr(solver, name)}, it must be {least} or more"
            yield context.at("CIO512", message, name)
    if solver.HasField("clip_gradients") and solver.clip_gradients == 0:
        yield context.at("CIO512", "clip_gradients 0 makes all gradients 0", "clip_gradients")
    if solver.weight_decay < 0:
        yield context.at("CIO512", "a negative weight_decay makes weights grow", "weight_decay")


@solver_rule("CIO513", "warmup-too-long")
def warmup_too_long(context: SolverContext) -> Iterator[Finding]:
    """The warm-up fills the whole run: the policy never begins."""
    solver = context.message
    if context.profile.warmup and solver.warmup_iter >= solver.max_iter > 0:
        message = f"warmup_iter {solver.warmup_iter} is not below max_iter {solver.max_iter}"
        yield context.at("CIO513", message, "warmup_iter")


@solver_rule("CIO514", "field-without-effect", INFO)
def field_without_effect(context: SolverContext) -> Iterator[Finding]:
    """A field is set that this solver never reads: its policy, type or Caffe has no use for it."""
    for rule in FIELDS:
        descriptor = context.message.DESCRIPTOR.fields_by_name[rule.name]
        if not any(f is descriptor for f, _ in context.message.ListFields()):
            continue
        if not rule.counts(context.message, context.profile):
            yield context.at("CIO514", f"{rule.name} has no effect: {rule.unused}", rule.name)


@solver_rule("CIO520", "no-max-iter", INFO)
def no_max_iter(context: SolverContext) -> Iterator[Finding]:
    """max_iter is not set: `caffe train` would not train at all.

    Programs that step the solver themselves (py-faster-rcnn) do without.
    """
    solver = context.message
    if not solver.max_iter and solver.HasField("base_lr"):
        yield context.whole("CIO520", "max_iter is not set")


@solver_rule("CIO522", "regularization", ERROR)
def regularization(context: SolverContext) -> Iterator[Finding]:
    """regularization_type must be L1 or L2; Caffe dies at the first update, after all set-up."""
    kind = context.message.regularization_type
    known = ("L1", "L2", *(("WD", "L2_unitary") if context.profile.nvidia_policies else ()))
    if kind not in known:
        message = f"unknown regularization type {kind!r}; known are {', '.join(known)}"
        yield context.at("CIO522", message, "regularization_type")


@solver_rule("CIO524", "tests-nothing")
def tests_nothing(context: SolverContext) -> Iterator[Finding]:
    """test_iter 0: a test net is built and tested with no batch at all; its scores are nan.

    Give the number of batches of a test, or take the test net out.
    """
    for i, batches in enumerate(context.message.test_iter):
        if batches == 0:
            yield context.at("CIO524", "test_iter 0 tests no batch", "test_iter", i)
