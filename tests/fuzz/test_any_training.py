"""Solvers and nets with absurd fields: `train`, `test`, `time` run them, or say one thing."""

from __future__ import annotations

import random
import re
import tempfile
from functools import cache
from pathlib import Path

import pytest

from caffeio.net import load_net
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.weights.solverstate import newest_whole_pair
from tests.fuzz.test_any_net import changed
from tests.paths import NIGHT
from tests.reliability.forked import Ended, check, run_all

NET = """name: "n"
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 4 dim: 3 dim: 6 dim: 6 } shape { dim: 4 } data_filler { type: "gaussian" std: 1 }
  data_filler { value: 1 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  param { lr_mult: 1 decay_mult: 1 } convolution_param { num_output: 2 kernel_size: 3
  weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param { eps: 0.001 } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: MAX
  kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "msra" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
  loss_weight: 1 }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
  include { phase: TEST } }
"""
SOLVER = """net: "n.prototxt"
base_lr: 0.01
lr_policy: "step"
gamma: 0.1
stepsize: 2
momentum: 0.9
weight_decay: 0.001
max_iter: 3
display: 1
test_iter: 1
test_interval: 2
snapshot: 2
snapshot_prefix: "s"
solver_mode: CPU
type: "SGD"
"""
NUMBERS = ("0", "1", "-1", "2", "3", "0.5", "-0.5", "1e30", "-1e38", "nan", "inf", "1e-45",
           "2147483647", "-2147483648", "4294967295", "9223372036854775807",
           "99999999999999999999")  # fmt: skip
WORDS = ('""', '"x"', '"a/b"', '"/proc/nothing"', '"/dev/zero"', '"."', '"\\000"', '"\\033[2J\\n"',
         '"\u202ex"', '"\\377"', '"n.prototxt"', f'"{"y" * 5000}"', '"s_iter_2.solverstate"',
         '"Adam"', '"poly"', '"multistep"', '"AdaDelta"', '"plateau"', '"inv"')  # fmt: skip
FEW = ("0", "1", "2", "-1")  # of what may rightly last for ever
COUNTS = ("max_iter", "iter_size", "test_iter")


def value_of(field: object, rng: random.Random) -> str:
    """A value for a field of a solver: seldom one of its type."""
    name, kind = field.name, field.type  # type: ignore[attr-defined]
    if name in COUNTS:
        return rng.choice(FEW)
    if rng.random() < 0.1:
        return rng.choice((*NUMBERS, *WORDS, "true", "{}", "SGD"))
    if kind == field.TYPE_STRING:  # type: ignore[attr-defined]
        return rng.choice(WORDS)
    if kind == field.TYPE_BOOL:  # type: ignore[attr-defined]
        return rng.choice(("true", "false", "1", "2"))
    if kind == field.TYPE_ENUM:  # type: ignore[attr-defined]
        names = list(field.enum_type.values_by_name)  # type: ignore[attr-defined]
        return rng.choice([*names, "7", "nobody"])
    if kind == field.TYPE_MESSAGE:  # type: ignore[attr-defined]
        return rng.choice(("{}", "{ stage: 'x' level: -3 }", "{ layer { } }", "{ name: 'q' }"))
    return rng.choice(NUMBERS)


def solver(rng: random.Random) -> str:
    """The solver with one to four fields changed, added or taken away."""
    text, fields = SOLVER, pb.SolverParameter.DESCRIPTOR.fields
    known = [field for field in fields if f"\n{field.name}:" in f"\n{SOLVER}"]
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        field = rng.choice(known if rng.random() < 0.5 else fields)
        line = re.compile(rf"^{field.name}:.*\n", re.MULTILINE)
        way = rng.random()
        if way < 0.7 or field not in known:
            text = line.sub("", text) if way < 0.5 else text
            text += f"{field.name}: {value_of(field, rng)}\n"
        elif field.name not in COUNTS:
            text = line.sub("", text)
    return text


@cache
def weights() -> bytes:
    """Those of the net as it is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "w.caffemodel")
        load_net(NET).save(path)
        return path.read_bytes()


def written(seed: int) -> tuple[str, list[str]]:
    """Write the files of that seed into a folder of its name; the kind of case and the command."""
    rng = random.Random(seed)
    kind = rng.choice(("solver", "solver", "net", "both", "test", "time"))
    net = changed(NET, rng) if kind != "solver" else NET
    text = solver(rng) if kind in ("solver", "both") else SOLVER
    folder = Path(str(seed))
    folder.mkdir()
    (folder / "n.prototxt").write_text(net)
    (folder / "s.prototxt").write_text(text)
    (folder / "w.caffemodel").write_bytes(weights())
    command = {
        "test": ["test", "n.prototxt", "w.caffemodel", "-n", "1"],
        "time": ["time", "n.prototxt", "--iterations", "1"],
    }.get(kind, ["train", "s.prototxt", *rng.choice(([], [], ["--snapshot", "auto"]))])
    return kind, command


def looked_at(seed: int, kind: str, command: list[str], ended: Ended) -> None:
    folder = Path(str(seed))
    texts = (folder / "s.prototxt").read_text() + (folder / "n.prototxt").read_text()
    check(ended, f"seed {seed}: {command}\n{texts}")
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert not left, f"seed {seed}: {left}"
    if kind == "net" and ended.code == 0:
        assert newest_whole_pair(str(folder / "s")) is not None, f"seed {seed}: {ended}"


@pytest.mark.parametrize("first", range(0, 2000, 500) if NIGHT else [0])
def test_any_training(first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seeds = range(first, first + (500 if NIGHT else 40))
    cases = [written(seed) for seed in seeds]
    all_ended = run_all(
        [command for _, command in cases], [tmp_path / str(seed) for seed in seeds],
        memory=2 << 30,
    )  # fmt: skip
    for seed, case, ended in zip(seeds, cases, all_ended, strict=True):
        looked_at(seed, *case, ended)
    codes = [ended.code for ended in all_ended]
    assert codes.count(0) > 5 and codes.count(2) > 5
