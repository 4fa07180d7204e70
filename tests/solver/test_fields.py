"""No field of a solver or a net is passed over in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from caffeio import Trainer
from caffeio.errors import CaffeIOError, SolverError, UnsupportedError
from caffeio.log.glog import Log
from caffeio.proto import caffe_pb2 as pb
from caffeio.solver import fields as solver_fields
from caffeio.training.job import read_job, sort_overrides
from caffeio.training.multiphase import read_phases
from tests.training.test_net_specs import LAYERS, RULES

SPECIAL = {"engine", "solver_data_type", "data_type"}
REFUSED = {
    "amsgrad", "rectified", "adabelief", "lr_mult", "p_mult", "period", "lookahead",
    "lookahead_steps", "lookahead_alpha", "gc", "decoupled_wd_t0", "decoupled_wd_mult",
    "lr_dropout", "clamp_weights_lower", "clamp_weights_upper", "clip_weights",
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("n.prototxt").write_text(LAYERS, encoding="utf-8")


def solver(text: str, net: str = 'net: "n.prototxt" ') -> str:
    Path("s.prototxt").write_text(RULES + net + text, encoding="utf-8")
    return "s.prototxt"


def test_every_solver_field_has_its_place() -> None:
    groups = [solver_fields.OBEYED, set(solver_fields.MEANINGLESS), SPECIAL, REFUSED]
    fields = [field.name for field in pb.SolverParameter.DESCRIPTOR.fields]
    for name in fields:
        assert sum(name in group for group in groups) == 1, name
    assert sum(map(len, groups)) == len(fields)


def test_every_net_field_has_its_place() -> None:
    groups = [
        solver_fields.NET_OBEYED, set(solver_fields.NET_MEANINGLESS), set(solver_fields._TYPES),
        {"engine"}, {"data_type", "quantizer"},
    ]  # fmt: skip
    for field in pb.NetParameter.DESCRIPTOR.fields:
        assert sum(field.name in group for group in groups) == 1, field.name


@pytest.mark.parametrize(
    "field", ["amsgrad: true", "rectified: false", "lookahead: true", "clip_weights: 1", "gc: true"]
)
def test_unsupported_solver_fields_are_refused(field: str) -> None:
    with pytest.raises(
        UnsupportedError, match=rf"s\.prototxt:1:\d+: solver field {field.split(':')[0]} "
    ):
        read_job(solver(field))


def test_fields_of_another_caffe_are_refused() -> None:
    for field, owner in (("disabled_update: true", "intel"), ("warmup_iter: 2", "intel"),
                         ("min_lr: 1", "nvidia"), ("larc: true", "nvidia"),
                         ("local_lr_auto: true", "intel")):  # fmt: skip
        with pytest.raises(SolverError, match=f"{owner!r} has"):
            Trainer(solver(field), profile="bvlc")


def test_fields_at_their_default_do_not_matter() -> None:
    assert read_job(solver("amsgrad: false rectified: true layer_wise_reduce: true")).notes == []


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("layer_wise_reduce: false", "layer_wise_reduce has no effect"),
        ("test_and_snapshot_last_epochs: 2", "say test_interval and snapshot"),
        ("solver_data_type: FLOAT16", "float32"),
        ('engine: "MKLDNN"', "--caffe intel-mkldnn"),
        ('local_lr_auto: true type: "Adam" snapshot_prefix: "x"', "solvers of type Adam"),
    ],
)
def test_fields_without_effect_are_named_in_the_log(field: str, words: str) -> None:
    lines: list[str] = []
    options: dict[str, Any] = {"device": "cpu", "log": Log(lines.append)}
    with Trainer(solver(field), **options):
        pass
    assert [line for line in lines if words in line and line.startswith("W")]


def test_net_fields() -> None:
    Path("n.prototxt").write_text(
        "global_grad_scale: 1000 default_forward_type: FLOAT16" + LAYERS, encoding="utf-8"
    )
    notes = read_job(solver("test_iter: 1 test_interval: 1")).notes
    assert len([n for n in notes if "global_grad_scale" in n]) == 1
    assert len([n for n in notes if "default_forward_type" in n]) == 1
    Path("n.prototxt").write_text("quantizer { }" + LAYERS, encoding="utf-8")
    with pytest.raises(UnsupportedError, match="quantizer"):
        read_job(solver(""))


def test_bn_stats_batch_size_of_the_net_reaches_its_layers() -> None:
    norm = 'layer { name: "bn" type: "BatchNorm" bottom: "ip" top: "bn" } '
    Path("n.prototxt").write_text("bn_stats_batch_size: 2" + LAYERS + norm, encoding="utf-8")
    with Trainer(solver(""), device="cpu") as trainer:
        step = next(step for step in trainer.net.steps if step.node.name == "bn")
        assert step.node.param.batch_norm_param.stats_batch_size == 2


def test_snapshot_prefix_is_needed_by_intel() -> None:
    with pytest.raises(SolverError, match="snapshot_prefix is not"):
        read_job(solver("snapshot: 2"), profile="intel")


def test_overrides_go_where_the_field_is() -> None:
    changes = ["layer_wise_reduce=false", "layer[ip].name=x", "base_lr=1", "force_backward=true"]
    assert sort_overrides(changes) == ([changes[0], changes[2]], [changes[1], changes[3]])
    job = read_job(solver("test_iter: 1 test_interval: 1"), overrides=changes)
    assert job.param.base_lr == 1
    assert [spec.message.force_backward for spec in job.specs] == [True, True]
    with pytest.raises(CaffeIOError, match="no net of this solver"):
        read_job(solver(""), overrides=["layer[nothing].name=x"])


def test_solver_mode_gpu_without_one_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    text = solver("").replace("s.", "g.")
    Path(text).write_text(
        Path("s.prototxt").read_text(encoding="utf-8").replace("CPU", "GPU"), encoding="utf-8"
    )
    with pytest.raises(CaffeIOError, match=r"solver_mode: GPU at g\.prototxt:1:\d+.*--device cpu"):
        Trainer(text)
    Path(text).write_text(
        Path("s.prototxt").read_text(encoding="utf-8").replace("solver_mode: CPU", ""),
        encoding="utf-8",
    )
    with pytest.raises(CaffeIOError, match="'intel' takes this for GPU"):
        Trainer(text, profile="intel")
    with Trainer(text) as trainer:  # BVLC: only where it is written
        assert trainer.world.device.type == "cpu"


def test_an_idle_gpu_is_hinted_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for options, wanted in (({}, True), ({"device": "cpu"}, False)):
        lines: list[str] = []
        with Trainer(solver(""), log=Log(lines.append), **options):
            pass
        assert any("--device cuda" in line for line in lines) is wanted


# -- several phases in one file ----------------------------------------------------------------

PHASES = """
params_pair { batch_size: 8 solver_params { net: "d.prototxt" base_lr: 0.1 lr_policy: "fixed"
  max_iter: 3 snapshot_prefix: "m" solver_mode: CPU } }
params_pair { batch_size: 4 }
params_pair { solver_params { base_lr: 0.01 lr_policy: "step" stepsize: 2 gamma: 0.1 max_iter: 2
  net: "ignored" snapshot_prefix: "ignored" solver_mode: CPU } }
"""


def test_phases_of_intels_multi_phase_file() -> None:
    Path("m.prototxt").write_text(PHASES, encoding="utf-8")
    phases = read_phases("m.prototxt")
    messages = [file.message for file, _ in phases]
    assert [batch for _, batch in phases] == [8, 4, 4]
    assert [m.snapshot_prefix for m in messages] == ["m_phase_0", "m_phase_1", "m_phase_2"]
    assert [m.max_iter for m in messages] == [3, 3, 2]
    assert [m.net for m in messages] == ["d.prototxt"] * 3
    assert phases[2][0].locate("lr_policy") == "m.prototxt:5:45"
    Path("m.prototxt").write_text(PHASES.replace("CPU", "GPU", 1), encoding="utf-8")
    with pytest.raises(SolverError, match=r"m\.prototxt:3:\d+: .*CPU only"):
        read_phases("m.prototxt")
    Path("m.prototxt").write_text(
        PHASES.replace("0.01", "0.01 solver_type: ADAM"), encoding="utf-8"
    )
    upgraded = read_phases("m.prototxt")[2][0].upgraded
    assert upgraded is not None and upgraded.log[0][1].endswith("(enum)': m.prototxt")
    Path("m.prototxt").write_text(
        PHASES.replace("0.01", '0.01 solver_type: ADAM type: "Adam"'), encoding="utf-8"
    )
    with pytest.raises(SolverError, match=r"m\.prototxt:5:45: both solver_type"):
        read_phases("m.prototxt")
    Path("m.prototxt").write_text("params_pair { batch_size: 1 }", encoding="utf-8")
    with pytest.raises(SolverError, match="first params_pair"):
        read_phases("m.prototxt")


def test_an_ordinary_solver_is_one_phase() -> None:
    assert [batch for _, batch in read_phases(solver(""))] == [None]
