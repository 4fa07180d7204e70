"""Named differences between the Caffes: which Caffe's numbers to compute.

A profile is a frozen record of named choices; code asks it by name and never compares fork names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from caffeio.errors import CaffeIOError

if TYPE_CHECKING:
    from caffeio.proto.caffe_pb2 import SolverParameter


@dataclass(frozen=True)
class Profile:
    """The choices in which real Caffes differ; the defaults are BVLC's."""

    name: str
    # net
    gradients_from_memory: bool = True  # Backward reads what layers in place left in their blobs
    recurrent_steps_keep_own: bool = True  # shared weights reach only the first step in TRAIN
    parameter_keeps_last: bool = True  # iter_size: Parameter's gradient is that of the last batch
    mask_batch_norm_statistics: bool = True  # statistics get lr_mult 0 without being told to
    merge_batch_norm_scale: bool = (
        False  # MKL engines: Scale's specs are lost, BatchNorm's filler rules
    )
    # layers
    accuracy_ties: str = "against_label"  # or "higher_class"
    accuracy_without_labels: float = 0.0  # Accuracy of a batch that has no valid label
    pooling_clips_kernel_1: bool = False  # windows of kernel 1 that start outside are clipped
    pooling_lists: bool = False  # Pooling's kernel_size, stride, pad: one value an axis
    pooling_average: str = "bvlc"  # divisor of AVE: "bvlc" or "mkldnn" (avg_include_pad)
    softmax_loss_nan_is_tiny: bool = False  # nan and 0 probabilities both count as FLT_MIN
    softmax_loss_weights: bool = False  # SoftmaxWithLoss may have a third bottom
    infogain_softmax: bool = True  # InfogainLoss takes logits
    sigmoid_loss_normalization: bool = True  # SigmoidCrossEntropyLoss honours loss_param
    smooth_l1_normalization: bool = False  # SmoothL1Loss honours `normalization: NONE`
    batch_norm: str = "sums"  # stored statistics: "sums" with a factor, or "averages" (NVIDIA)
    batch_norm_min_eps: float = 0.0  # a smaller eps is raised to this
    spatial_dropout_field: str = "spatial_dropout_param"  # where SpatialDropout's ratio stands
    label_smoothing: str | None = None  # backward-only variants: "intel" or "nvidia"
    # data
    data_sharding: str = "offset"  # records over ranks by a running count, or "stride": Intel's
    data_reader_thread: bool = False  # a reader thread draws first, no prefetch thread on CPUs
    data_crop_fields: bool = True  # crop_h and crop_w of SSD's transform_param count
    data_crop_before_resize: bool = False  # with crop_size, resize_param's pixels are thrown away
    data_scaled_mean: bool = False  # pixel * scale - mean * scale, not (pixel - mean) * scale
    # solver
    checks_rate_fields: bool = True  # a negative gamma and sigmoid's stepsize 0 are refused
    skip_lr_mult_0: bool = False  # parameters with lr_mult 0 are left alone, history included
    rate_calls_per_param: bool = False  # multistep and plateau may advance once per parameter
    warmup: bool = False  # warmup_iter and warmup_start_lr are obeyed
    warmup_momentum_correction: bool = False  # of the unfused SGD
    fused_sgd: bool = False  # the parameter's diff keeps the gradient
    rmsprop: str = "bvlc"  # or "intel": delta under the root, momentum allowed
    lars: str | None = None  # local_lr_auto: "sara_fused", "sara_unfused", "intel"
    nvidia_policies: bool = False  # rampup, min_lr, momentum and weight-decay policies, larc
    delta_floor: bool = False  # NVIDIA's lower limits of delta
    display_iter_speed: bool = True  # "Iteration N (R iter/s, Ss/D iters), loss = L"
    snapshot_begin_end: bool = False  # "Snapshot begin" / "Snapshot end" lines
    logs_compiled_net: bool = False  # the log shows the net with splits, and TEST nets folded
    display_rule: str = "bvlc"  # or "nvidia": the first iterations and the last one as well
    prefix_from_solver_file: bool = True  # a missing snapshot_prefix is the solver's own name
    state_extras: bool = False  # minimum_loss and iter_last_event in .solverstate
    solver_mode_default_gpu: bool = False  # an unset solver_mode means GPU
    initial_test_batch: bool = False  # NVIDIA's test of one batch at the start
    upgrades_batch_norm: bool = True  # old BatchNorm specs are rewritten when a net is read
    weights_in_solver: bool = True  # the command's weights become the solver's `weights` field
    # many workers
    tests_on_all_workers: bool = False  # every worker tests its share, results are averaged
    divides_batch: bool = False  # batch_size is that of all workers together, each takes its part
    worker_in_paths: bool = False  # %# and %* in paths: this worker's number, how many there are
    averages_statistics: bool = False  # snapshots hold the workers' mean BatchNorm statistics
    clips_gradients: bool = True  # clip_gradients is obeyed
    late_rate: bool = False  # updates wait for the next forward, and take the next rate

    def __deepcopy__(self, memo: object) -> Profile:
        return self  # there is one of each

    def __reduce__(self) -> str | tuple[object, ...]:
        """A known profile is found by its name again, also in another process."""
        if PROFILES.get(self.name) is self:
            return get_profile, (self.name,)
        return Profile, tuple(vars(self).values())


BVLC = Profile("bvlc")
INTEL = Profile(
    "intel",
    mask_batch_norm_statistics=False,
    accuracy_ties="higher_class",
    accuracy_without_labels=float("nan"),
    pooling_clips_kernel_1=True,
    pooling_lists=True,
    softmax_loss_nan_is_tiny=True,
    softmax_loss_weights=True,
    infogain_softmax=False,
    sigmoid_loss_normalization=False,
    spatial_dropout_field="dropout_param",
    smooth_l1_normalization=True,
    label_smoothing="intel",
    checks_rate_fields=False,
    skip_lr_mult_0=True,
    rate_calls_per_param=True,
    warmup=True,
    fused_sgd=True,
    rmsprop="intel",
    lars="sara_fused",
    display_iter_speed=False,
    snapshot_begin_end=True,
    logs_compiled_net=True,
    upgrades_batch_norm=False,
    weights_in_solver=False,
    prefix_from_solver_file=False,
    state_extras=True,
    tests_on_all_workers=True,
    worker_in_paths=True,
    averages_statistics=True,
    solver_mode_default_gpu=True,
    data_sharding="stride",
    data_reader_thread=True,
    data_crop_fields=False,
    data_crop_before_resize=True,
)
NVIDIA = Profile(
    "nvidia",
    data_scaled_mean=True,
    batch_norm="averages",
    batch_norm_min_eps=1e-5,
    label_smoothing="nvidia",
    checks_rate_fields=False,
    nvidia_policies=True,
    delta_floor=True,
    initial_test_batch=True,
    display_rule="nvidia",
    tests_on_all_workers=True,
    divides_batch=True,
    prefix_from_solver_file=False,
    upgrades_batch_norm=False,
    weights_in_solver=False,
)
# Intel Caffe built without ENABLE_SGD_FUSION, or run on a GPU: its other SGD code.
INTEL_UNFUSED = replace(
    INTEL,
    name="intel-unfused",
    fused_sgd=False,
    warmup_momentum_correction=True,
    lars="sara_unfused",
)
INTEL_2019 = replace(INTEL, name="intel-2019", lars="intel")  # the last Intel Caffes
# Intel Caffe with its MKL-DNN engine, the default of its own builds: BatchNorm takes in the Scale
# behind it (whose decay_mult and fillers are lost), AVE pooling divides by the whole window.
INTEL_MKLDNN = replace(
    INTEL,
    name="intel-mkldnn",
    mask_batch_norm_statistics=True,
    merge_batch_norm_scale=True,
    pooling_average="mkldnn",
)
# Intel Caffe on many nodes (MLSL): the updates of an iteration are made during the next forward,
# layer by layer, with the rate of that iteration (but at its own end where a test follows, and in
# the last iteration), and nothing clips. Source: src/caffe/multinode/multi_solver.cpp.
INTEL_MLSL = replace(INTEL, name="intel-mlsl", clips_gradients=False, late_rate=True)
BVLC_OPENCL = replace(BVLC, name="bvlc-opencl", pooling_lists=True)
PROFILES = {
    profile.name: profile
    for profile in (
        BVLC,
        INTEL,
        NVIDIA,
        INTEL_MKLDNN,
        INTEL_UNFUSED,
        INTEL_2019,
        INTEL_MLSL,
        BVLC_OPENCL,
    )
}

# Which profile a file's dialect asks for; dialects that are not named here are BVLC's children.
_PROFILE_BY_DIALECT = {
    "intel": INTEL, "sara": INTEL, "intel-2016": INTEL, "intel-2017": INTEL,
    "nvidia": NVIDIA, "nvidia-0.14": NVIDIA, "nvidia-0.15": NVIDIA, "nvidia-0.16": NVIDIA,
    "borisgin": NVIDIA, "bvlc-opencl": BVLC_OPENCL,
}  # fmt: skip


# Solver fields that only one family of Caffes has: where a file says nothing else, they tell.
_INTEL_FIELDS = (
    "warmup_iter", "warmup_start_lr", "lr_iter", "local_lr_auto", "local_gw_ratio",
    "disabled_update", "engine", "test_offset",
)  # fmt: skip
_NVIDIA_FIELDS = (
    "rampup_interval", "rampup_lr", "min_lr", "momentum_policy", "max_momentum", "momentum_power",
    "larc", "larc_policy", "larc_eta", "larc_turbo", "weight_decay_policy", "weight_decay_power",
    "max_weight_decay", "solver_data_type", "store_blobs_in_old_format",
    "test_and_snapshot_last_epochs",
)  # fmt: skip


def get_profile(name: str) -> Profile:
    """Find the profile called `name`: bvlc, intel, nvidia, or a variant of these.

    `NAME,math` trains with the mathematical gradient where layers in place change what the layers
    before them read in real Caffe, where LSTM and RNN share weights with another layer, and where
    Parameter learns with iter_size. Raises CaffeIOError for a name that is not known.
    """
    base, *choices = (part.strip() for part in name.split(","))
    if base not in PROFILES:
        raise CaffeIOError(f"unknown profile {base!r}: known are {', '.join(PROFILES)}")
    profile = PROFILES[base]
    for choice in choices:
        if choice != "math":
            raise CaffeIOError(f"unknown choice {choice!r} of profile {base!r}: known is math")
        profile = replace(
            profile, name=f"{base},math", gradients_from_memory=False,
            recurrent_steps_keep_own=False, parameter_keeps_last=False,
        )  # fmt: skip
    return profile


def choose_profile(
    chosen: str | Profile | None,
    dialect: str | None,
    solver: SolverParameter | None = None,
    net_dialect: str | None = None,
) -> Profile:
    """The profile that the user wants, by name, else the one that the files were meant for.

    The one place where this is decided: by the dialect of a net; for a solver by its own dialect,
    else that of its training net, else by its fields. Raises CaffeIOError for an unknown name.
    """
    if chosen is not None:
        return get_profile(chosen) if isinstance(chosen, str) else chosen
    if dialect in (None, "bvlc"):
        dialect = net_dialect
    return profile_of_dialect(dialect) if solver is None else profile_of_solver(solver, dialect)


def profile_of_dialect(dialect: str | None) -> Profile:
    """The profile that files of `dialect` were meant for."""
    return _PROFILE_BY_DIALECT.get(dialect or "bvlc", BVLC)


def profile_of_solver(solver: SolverParameter, dialect: str | None = None) -> Profile:
    """The profile that a solver file was meant for: its dialect's, else what its fields tell."""
    profile = profile_of_dialect(dialect)
    if profile is not BVLC:
        return profile
    message: Any = solver  # protobuf's stubs leave ListFields untyped
    used = {field.name for field, _ in message.ListFields()}
    if used.intersection(_INTEL_FIELDS) or solver.lr_policy == "poly_cyc":
        return INTEL
    nvidia = solver.type == "SAG" or solver.regularization_type in ("WD", "L2_unitary")
    return NVIDIA if nvidia or used.intersection(_NVIDIA_FIELDS) else BVLC
