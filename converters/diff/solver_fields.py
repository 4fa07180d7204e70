"""What each field of a solver does: when it counts, and a change of it in plain words."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from caffeio.converters.report.model import ratio as _ratio
from caffeio.converters.report.model import short_float
from caffeio.profiles import Profile
from caffeio.proto.caffe_pb2 import SolverParameter

Counts = Callable[[SolverParameter, Profile], bool]
Explain = Callable[[Any, Any], str]

RATE, UPDATE, RUN, TEST, SNAPSHOT, NET = "rate", "update", "run", "test", "snapshot", "net"


@dataclass(frozen=True)
class SolverField:
    """One field: `counts` says whether a solver obeys it, `explain` what a change does."""

    name: str
    group: str
    explain: Explain
    counts: Counts
    unused: str = ""  # why, if it does not count
    harmless: bool = False  # the weights that come out of training stay the same


def _always(_: SolverParameter, __: Profile) -> bool:
    return True


def _policies(*names: str) -> Counts:
    return lambda solver, _: solver.lr_policy in names


def _types(*names: str) -> Counts:
    return lambda solver, _: solver.type in names


def _tests(solver: SolverParameter, _: Profile) -> bool:
    return len(solver.test_iter) > 0


def _set(name: str, test: Callable[[Any], bool] = bool) -> Counts:
    return lambda solver, _: test(getattr(solver, name))


def _warms_up(solver: SolverParameter, profile: Profile) -> bool:
    return profile.warmup and solver.warmup_iter > 0


def _warmup(_: SolverParameter, profile: Profile) -> bool:
    return profile.warmup


def _nvidia(_: SolverParameter, profile: Profile) -> bool:
    return profile.nvidia_policies


def _changes(_: Any, __: Any) -> str:
    return ""


def says(text: str) -> Explain:
    """The same words for every change."""
    return lambda left, right: text


def factor(what: str) -> Explain:
    """`what` 1.25 times as large (or 20 % smaller)."""

    def explain(left: float, right: float) -> str:
        if left == 0 or right == 0 or (left < 0) != (right < 0):
            return f"{what}: {'on' if left == 0 else 'off'}" if 0 in (left, right) else what
        return f"{what} {times(right / left)}"

    return explain


def times(ratio: float) -> str:
    """`4 x as large`, `25.1 % smaller`."""
    if not math.isfinite(ratio) or ratio <= 0:
        return f"x {ratio:.3g}"
    if 0.5 < ratio < 2:
        word = "larger" if ratio > 1 else "smaller"
        return f"{abs(ratio - 1) * 100:.3g} % {word}"
    return f"{_ratio(ratio)} x as large" if ratio >= 2 else f"{_ratio(1 / ratio)} x smaller"


def more(what: str) -> Explain:
    """`1,000 more updates (+26.7 %)`."""

    def explain(left: int, right: int) -> str:
        step = right - left
        word = "more" if step > 0 else "fewer"
        portion = f" ({100 * step / left:+.3g} %)" if left else ""
        return f"{abs(step):,} {word} {what}{portion}"

    return explain


def _momentum(left: float, right: float) -> str:
    if left >= 1 or right >= 1 or left < 0 or right < 0:
        return ""
    a, b = 1 / (1 - left), 1 / (1 - right)
    return f"a gradient counts {b:.3g} x in all instead of {a:.3g} x"


def _clip(left: float, right: float) -> str:
    if left < 0:
        return f"gradients are scaled down to an L2 norm of {short_float(right)}"
    if right < 0:
        return "gradients are no longer clipped"
    return f"the limit of the gradient's L2 norm is {times(right / left)}" if left else ""


def _mode(_: int, right: int) -> str:
    return "runs on the GPU" if right == 1 else "runs on the CPU"


def _seed(left: int, right: int) -> str:
    if right < 0:
        return "runs are no longer repeatable"
    return "runs become repeatable" if left < 0 else "another draw of fillers and data order"


def _every(what: str) -> Explain:
    def explain(left: int, right: int) -> str:
        if right == 0:
            return f"no {what} on the way"
        return f"{what} every {right:,} iterations, not {left:,}" if left else f"{what}"

    return explain


_TYPES = {
    "SGD": "momentum SGD",
    "Nesterov": "momentum looked ahead",
    "AdaGrad": "rates shrink with the sum of squared gradients",
    "RMSProp": "rates follow a running mean of squared gradients",
    "AdaDelta": "rates follow the running size of updates",
    "Adam": "running means of gradients and their squares",
}


def _type(_: str, right: str) -> str:
    return _TYPES.get(right, "")


_STEPS = says("the rate drops at other iterations")
_BY_POLICY = "not used by this lr_policy"
_BY_TYPE = "not used by this type of solver"
_INTEL = "only Intel's Caffe has it"
_NVIDIA = "only NVIDIA's Caffe has it"
_GAMMA = _policies("step", "exp", "inv", "multistep", "sigmoid", "plateau")
_MOMENTUM = _types("SGD", "Nesterov", "AdaDelta", "Adam")
_DELTA = _types("AdaGrad", "RMSProp", "AdaDelta", "Adam")

# name, what a change does, when the field counts, why it does not
_Row = tuple[str, Explain] | tuple[str, Explain, Counts, str]
_RATE: list[_Row] = [
    ("base_lr", factor("every rate of the policy")),
    ("lr_policy", says("another curve")),
    ("gamma", factor("the decay factor"), _GAMMA, _BY_POLICY),
    ("power", says("bends the curve"), _policies("inv", "poly", "poly_cyc"), _BY_POLICY),
    ("stepsize", _STEPS, _policies("step", "sigmoid"), _BY_POLICY),
    ("stepvalue", _STEPS, _policies("multistep"), _BY_POLICY),
    ("lr_iter", says("the curve reaches 0 there"), _policies("poly_cyc"), _BY_POLICY),
    ("plateau_winsize", says("how long the loss may stand"), _policies("plateau"), _BY_POLICY),
    ("stagelr", says("other rates"), _policies("multifixed"), _BY_POLICY),
    ("stageiter", _STEPS, _policies("multifixed"), _BY_POLICY),
    ("warmup_iter", more("iterations of warm-up"), _warmup, _INTEL),
    ("warmup_start_lr", factor("the first rate"), _warms_up, "there is no warm-up"),
    ("rampup_interval", more("iterations of ramp-up"), _nvidia, _NVIDIA),
    ("rampup_lr", factor("the first rate"), _nvidia, _NVIDIA),
    ("min_lr", says("the rate does not fall below it"), _nvidia, _NVIDIA),
]
_UPDATE: list[_Row] = [
    ("type", _type),
    ("momentum", _momentum, _MOMENTUM, _BY_TYPE),
    ("momentum2", _momentum, _types("Adam"), _BY_TYPE),
    ("rms_decay", _momentum, _types("RMSProp"), _BY_TYPE),
    ("delta", factor("the term that keeps from dividing by 0"), _DELTA, _BY_TYPE),
    ("momentum_policy", says("another curve of the momentum"), _nvidia, _NVIDIA),
    ("max_momentum", says("another curve of the momentum"), _nvidia, _NVIDIA),
    ("momentum_power", says("another curve of the momentum"), _nvidia, _NVIDIA),
    ("weight_decay", factor("the pull of weights to 0")),
    ("regularization_type", says("another pull to 0"), _set("weight_decay"), "no weight_decay"),
    ("weight_decay_policy", says("another curve of the decay"), _nvidia, _NVIDIA),
    ("weight_decay_power", says("another curve of the decay"), _nvidia, _NVIDIA),
    ("max_weight_decay", says("another curve of the decay"), _nvidia, _NVIDIA),
    ("clip_gradients", _clip),
    ("iter_size", factor("batches in one update")),
    ("local_lr_auto", says("LARS: a rate for each blob"), _warmup, _INTEL),
    ("local_gw_ratio", factor("the rates of LARS"), _set("local_lr_auto"), "LARS is off"),
    ("larc", says("LARC: a rate for each blob"), _nvidia, _NVIDIA),
    ("larc_policy", says("how LARC and the rate combine"), _set("larc"), "LARC is off"),
    ("larc_eta", factor("the rates of LARC"), _set("larc"), "LARC is off"),
    ("larc_turbo", says("LARC follows the gradients' agreement"), _set("larc"), "LARC is off"),
    ("disabled_update", says("weights stay as they are")),
]
_RUN: list[_Row] = [
    ("max_iter", more("updates")),
    ("random_seed", _seed),
    ("solver_data_type", says("another precision"), _nvidia, _NVIDIA),
    ("weights", says("starts from other weights")),
]
_NET: list[_Row] = [
    ("net", says("another net file")),
    ("train_net", says("another net file")),
    ("net_param", says("another net")),
    ("train_net_param", says("another net")),
    ("train_state", says("other layers may take part")),
]
_NO_TEST = "there is no test net"
_HARMLESS: dict[str, list[_Row]] = {
    RUN: [
        ("solver_mode", _mode),
        ("device_id", says("another GPU"), _set("solver_mode"), "it runs on the CPU"),
        ("engine", says("another set of kernels"), _warmup, _INTEL),
        ("layer_wise_reduce", says("when GPUs exchange gradients")),
        ("display", _every("log lines")),
        ("average_loss", says("smooths the loss in the log"), _set("display"), "display is 0"),
        ("debug_info", says("more, or fewer, log lines")),
    ],
    TEST: [
        ("test_net", says("another net file")),
        ("test_net_param", says("another net")),
        ("test_state", says("other layers may take part")),
        ("test_iter", says("batches in one test")),
        ("test_interval", _every("tests"), _tests, _NO_TEST),
        ("test_initialization", says("a test before the first update"), _tests, _NO_TEST),
        ("test_compute_loss", says("the test loss in the log"), _tests, _NO_TEST),
        ("test_offset", says("tests at other iterations"), _tests, _NO_TEST),
        ("eval_type", says("another measure"), _tests, _NO_TEST),
        ("ap_version", says("another average precision"), _tests, _NO_TEST),
        ("show_per_class_result", says("results by class"), _tests, _NO_TEST),
    ],
    SNAPSHOT: [
        ("snapshot", _every("snapshots")),
        ("snapshot_prefix", says("files under another name")),
        ("snapshot_format", says("another file format")),
        ("snapshot_diff", says("gradients in the snapshots")),
        ("snapshot_after_train", says("a snapshot at the end")),
        ("test_and_snapshot_last_epochs", says("tests and snapshots near the end")),
        ("store_blobs_in_old_format", says("another form of the blobs")),
    ],
}


def _fields(group: str, rows: list[_Row], harmless: bool = False) -> list[SolverField]:
    out = []
    for row in rows:
        counts, unused = (row[2], row[3]) if len(row) == 4 else (_always, "")
        out.append(SolverField(row[0], group, row[1], counts, unused, harmless))
    return out


FIELDS: tuple[SolverField, ...] = (
    *_fields(RATE, _RATE),
    *_fields(UPDATE, _UPDATE),
    *_fields(RUN, _RUN),
    *_fields(NET, _NET),
    *(f for group, rows in _HARMLESS.items() for f in _fields(group, rows, harmless=True)),
)
