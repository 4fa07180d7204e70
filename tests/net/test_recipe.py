"""The one way from a file to a net: every command takes it, so none forgets a step."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caffeio import Trainer, load_net
from caffeio.converters.convert.convert import convert
from caffeio.errors import CaffeIOError
from caffeio.net.recipe import NetRecipe
from caffeio.profiles import BVLC, INTEL, NVIDIA, choose_profile
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import read_net
from caffeio.proto.weights.load import write_caffemodel
from caffeio.tools.benchmark import time_net
from caffeio.tools.layer_support import check_nets
from caffeio.tools.score import score

NET = """
name: "small"
layer { name: "data" type: "DummyData" top: "data" dummy_data_param { shape { dim: 4 dim: 3 } } }
layer { name: "norm" type: "BatchNorm" bottom: "data" top: "norm" }
layer { name: "scale" type: "Scale" bottom: "norm" top: "scale" scale_param { bias_term: true } }
layer { name: "ip" type: "InnerProduct" bottom: "scale" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
"""
SOLVER = 'net: "n.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 0 solver_mode: CPU '


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    net = load_net(NET)
    write_caffemodel("w.caffemodel", net.to_proto(), net.blob_arrays())
    Path("s.prototxt").write_text(SOLVER + "snapshot_after_train: false", encoding="utf-8")
    return tmp_path


def _coverage(path: str) -> None:
    result = check_nets([path]).nets[0]
    for outcome in result.phases.values():
        if not outcome.built:
            raise CaffeIOError(outcome.reason)


WAYS: dict[str, Callable[[str], Any]] = {
    "load_net": load_net,
    "train": lambda path: Trainer("s.prototxt").close(),
    "test": lambda path: score(path, ["w.caffemodel"], iterations=1),
    "time": lambda path: time_net(path, iterations=1),
    "layers --coverage": _coverage,
    "convert to caffemodel": lambda path: convert([path, "w.caffemodel"], "out.caffemodel"),
    "convert to onnx": lambda path: convert([path, "w.caffemodel"], "out.onnx"),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_no_way_to_a_net_passes_over_an_unknown_field(way: Callable[[str], Any]) -> None:
    Path("n.prototxt").write_text(
        NET + 'layer { name: "x" type: "Silence" bottom: "ip" quux: 1 }', encoding="utf-8"
    )
    with pytest.raises(CaffeIOError, match="quux"):
        way("n.prototxt")


@pytest.mark.parametrize("way", [key for key in WAYS if key != "layers --coverage"])
def test_every_way_builds_a_good_net(way: str) -> None:
    Path("n.prototxt").write_text(NET, encoding="utf-8")
    WAYS[way]("n.prototxt")


def test_the_profile_merges_scales_wherever_a_net_is_built() -> None:
    recipe = NetRecipe.of_file(read_net(NET), profile="intel-mkldnn")
    assert [node.name for node in recipe.graph().nodes] == ["data", "norm", "ip"]
    assert len(recipe.build().params["norm"]) == 5
    assert recipe.build(device="meta").layer_names == ["data", "norm", "ip"]


def test_bn_stats_batch_size_of_the_net_reaches_its_layers() -> None:
    net = load_net("bn_stats_batch_size: 2" + NET, phase="TRAIN", profile="intel")
    [norm] = [layer for layer in net.layers if layer.param.type == "BatchNorm"]
    assert norm.param.batch_norm_param.stats_batch_size == 2


def test_a_recipe_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from caffeio.net.recipe import NetRecipe\n"
        "from caffeio.proto.files import read_net\n"
        "print(len(NetRecipe.of_file(read_net(sys.argv[1])).graph().nodes))\n"
        "assert not {'torch', 'cv2'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, NET], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr


def test_the_profile_is_that_of_the_solver_else_of_its_net_else_of_its_fields() -> None:
    intel, plain = pb.SolverParameter(warmup_iter=3), pb.SolverParameter()
    assert choose_profile(None, "bvlc", plain) is BVLC
    assert choose_profile(None, "bvlc", intel) is INTEL
    assert choose_profile(None, "bvlc", intel, "nvidia") is NVIDIA
    assert choose_profile(None, "sara", plain, "nvidia") is INTEL
    assert choose_profile("nvidia", "sara", intel) is NVIDIA
    assert choose_profile(INTEL, "nvidia") is INTEL
    with pytest.raises(CaffeIOError, match="unknown profile"):
        choose_profile("caffe3", None)


def test_a_load_that_fails_closes_its_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    close = "caffeio.data.sources.memory_data.DummySource.close"
    monkeypatch.setattr(close, lambda self: closed.append(self.layer.param.name))
    with pytest.raises(CaffeIOError):
        load_net(NET, "missing.caffemodel")
    assert closed == ["data"]
    with load_net(NET) as net:
        net()
    assert closed == ["data", "data"]


def test_the_old_place_of_load_net_still_has_it() -> None:
    from caffeio.net.net import load_net as old

    assert old is load_net


def test_data_layers_of_one_name_have_a_source_each():
    """Intel's int8 nets call both of their DummyData layers `data`."""
    text = """
    layer { name: "data" type: "DummyData" top: "data" dummy_data_param {
      shape { dim: 2 dim: 3 } data_filler { value: 1 } } }
    layer { name: "data" type: "DummyData" top: "label" dummy_data_param {
      shape { dim: 2 } data_filler { value: 2 } } }
    layer { name: "c" type: "Power" bottom: "data" top: "c" }
    """
    net = load_net(text)
    assert list(net.sources) == ["data", "data#2"]
    assert {name: tuple(t.shape) for name, t in net.read_inputs().items()} == {
        "data": (2, 3), "label": (2,),
    }  # fmt: skip
    assert net()["label"].tolist() == [2, 2]
