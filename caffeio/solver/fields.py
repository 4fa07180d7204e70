"""Which solver and net fields do what here: no field that a file sets is passed over in silence.

Every field of SolverParameter and NetParameter is in one of three sets: obeyed by the trainer,
without effect on the numbers (a note in the log says so), or refused.
"""

from __future__ import annotations

from typing import Any

from caffeio.errors import Locator, SolverError, UnsupportedError
from caffeio.profiles import Profile
from caffeio.proto import caffe_pb2 as pb

OBEYED = frozenset((
    "net", "net_param", "train_net", "train_net_param", "test_net", "test_net_param", "train_state",
    "test_state", "test_iter", "test_interval", "test_offset", "test_compute_loss",
    "test_initialization", "eval_type", "ap_version", "show_per_class_result", "base_lr",
    "lr_policy", "gamma", "power", "stepsize", "stepvalue", "plateau_winsize", "stagelr",
    "stageiter", "lr_iter", "warmup_iter", "warmup_start_lr", "rampup_interval", "rampup_lr",
    "min_lr", "display", "average_loss", "max_iter", "iter_size", "momentum", "momentum2",
    "momentum_policy", "max_momentum", "momentum_power", "rms_decay", "delta", "weight_decay",
    "weight_decay_policy", "weight_decay_power", "max_weight_decay", "regularization_type",
    "clip_gradients", "local_lr_auto", "local_gw_ratio", "larc", "larc_policy", "larc_eta",
    "larc_turbo", "snapshot", "snapshot_prefix", "snapshot_diff", "snapshot_format",
    "snapshot_after_train", "solver_mode", "device_id", "random_seed", "type", "solver_type",
    "debug_info", "weights", "disabled_update",
))  # fmt: skip
# Neither numbers nor files depend on these, or only their speed and memory.
MEANINGLESS = {
    "layer_wise_reduce": "gradients are exchanged in buckets, which gives the same sums",
    "per_parameter_reduce": "gradients are exchanged in buckets, which gives the same sums",
    "store_blobs_in_old_format": "blobs are always written in BVLC's format, which all Caffes read",
    "fff": "no Caffe reads it",
    "device": "say --device",
    "group_id": "say torchrun or --nproc",
    "richness": "the memory of a GPU is managed by PyTorch",
    "log_avg_gradient_norm": "the line is not written",
    "test_before_snapshot": "say test_interval",
    "test_and_snapshot_last_epochs": "say test_interval and snapshot",
}
_TYPES_BY_FIELD = {"local_lr_auto": ("SGD",), "larc": ("SGD", "SAG")}
_STORAGE = {"solver_data_type": pb.FLOAT, "data_type": pb.CAFFE_FLOAT}
_ENGINES = {"": True, "CAFFE": True, "CUDNN": True}

NET_OBEYED = frozenset((
    "name", "layers", "input", "input_dim", "input_shape", "force_backward", "state", "debug_info",
    "layer", "bn_stats_batch_size",
))  # fmt: skip
NET_MEANINGLESS = {
    "compile_net_state": "it is what Intel Caffe writes about a net that it has compiled",
    "multinode": "nodes are set up by torchrun",
    "global_grad_scale": "float32 gradients need no scaling",
    "global_grad_scale_adaptive": "float32 gradients need no scaling",
    "default_conv_algos_override": "PyTorch chooses the algorithms",
    "reduce_buckets": "PyTorch chooses the buckets",
    "default_cudnn_math_override": "the net runs in float32; --precision bf16 is faster",
    "eltwise_mem_sharing": "memory is managed by PyTorch",
    "reduced_memory_inference": "memory is managed by PyTorch",
    "autotune": "PyTorch chooses the algorithms",
    "mem_param": "memory is managed by PyTorch",
}
_TYPES = (
    "default_forward_type", "default_backward_type", "default_forward_math",
    "default_backward_math",
)  # fmt: skip


def check_solver(solver: pb.SolverParameter, profile: Profile, locate: Locator) -> list[str]:
    """Notes about fields without effect; raises UnsupportedError for fields that are not done.

    SolverError for a field that the Caffe of `profile` does not have.
    """
    if solver.disabled_update and not profile.warmup:
        raise SolverError(
            f"disabled_update: profile {profile.name!r} has no such field; 'intel' has it",
            where=locate("disabled_update") or None,
        )
    notes = [
        f"solver field {name} has no effect on solvers of type {solver.type}"
        for name, types in _TYPES_BY_FIELD.items()
        if getattr(solver, name) and solver.type not in types
    ]
    if solver.clip_gradients >= 0 and not profile.clips_gradients:
        notes.append(f"solver field clip_gradients has no effect with profile {profile.name!r}")
    for name, value in _set_fields(solver):
        if name in MEANINGLESS:
            notes.append(f"solver field {name} has no effect here: {MEANINGLESS[name]}")
        elif name == "engine":
            notes += _engine(value, "solver")
        elif name in _STORAGE:
            if value != _STORAGE[name]:
                notes.append(f"solver field {name}: histories are float32 here")
        elif name not in OBEYED:
            raise UnsupportedError(
                f"solver field {name} (of a fork of Caffe) is not supported: take it out, or the "
                "numbers would be others",
                where=locate(name) or None,
            )
    return notes


def check_net(net: pb.NetParameter, title: str) -> list[str]:
    """The same for the fields of a net (not for those of its layers)."""
    notes = []
    for name, value in _set_fields(net):
        if name in NET_MEANINGLESS:
            notes.append(f"{title}: field {name} has no effect here: {NET_MEANINGLESS[name]}")
        elif name == "engine":
            notes += _engine(value, title)
        elif name in _TYPES:
            notes.append(f"{title}: field {name}: the net runs in float32; see --precision")
        elif name not in NET_OBEYED:
            raise UnsupportedError(f"{title}: field {name} (of a fork of Caffe) is not supported")
    return notes


def _engine(value: str, title: str) -> list[str]:
    if _ENGINES.get(value.upper()):
        return []
    note = f"{title}: engine {value!r}: the numbers are those of engine CAFFE"
    return [note + "; --caffe intel-mkldnn follows the MKL engines where they differ"]


def _set_fields(message: Any) -> list[tuple[str, Any]]:
    """Names and values of the fields that differ from their default."""
    return [
        (field.name, value)
        for field, value in message.ListFields()
        if field.is_repeated or field.message_type is not None or value != field.default_value
    ]
