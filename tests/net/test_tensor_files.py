"""Weights from files of named tensors: load_net and the commands take them as caffemodels."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from torch import nn

from caffeio import load_net, load_weights
from caffeio.cli.main import main
from caffeio.errors import WeightsError
from caffeio.net.net import Net
from caffeio.net.save import SUFFIXES
from caffeio.proto.weights import npz

INPUT = """layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ {0} }} }} }}"""
FILLER = 'weight_filler { type: "gaussian" std: 0.1 } bias_filler { type: "gaussian" std: 0.1 }'
LENET = (
    INPUT.format("dim: 2 dim: 1 dim: 28 dim: 28")
    + "".join(
        f"""
layer {{ name: "conv{i}" type: "Convolution" bottom: "{bottom}" top: "conv{i}"
  convolution_param {{ num_output: {outputs} kernel_size: 5 {FILLER} }} }}
layer {{ name: "pool{i}" type: "Pooling" bottom: "conv{i}" top: "pool{i}"
  pooling_param {{ pool: MAX kernel_size: 2 stride: 2 }} }}"""
        for i, bottom, outputs in ((1, "x", 20), (2, "pool1", 50))
    )
    + f"""
layer {{ name: "ip1" type: "InnerProduct" bottom: "pool2" top: "ip1"
  inner_product_param {{ num_output: 30 {FILLER} }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }}
layer {{ name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param {{ num_output: 10 {FILLER} }} }}
layer {{ name: "prob" type: "Softmax" bottom: "ip2" top: "prob" }}"""
)
NORM = (
    INPUT.format("dim: 4 dim: 3 dim: 6 dim: 6")
    + f"""
layer {{ name: "conv" type: "Convolution" bottom: "x" top: "conv"
  convolution_param {{ num_output: 4 kernel_size: 3 {FILLER} }} }}
layer {{ name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }}
layer {{ name: "scale" type: "Scale" bottom: "bn" top: "scaled" scale_param {{ bias_term: true }} }}
layer {{ name: "relu" type: "ReLU" bottom: "scaled" top: "scaled" }}
layer {{ name: "slope" type: "PReLU" bottom: "bn" top: "other" }}
layer {{ name: "sum" type: "Eltwise" bottom: "scaled" bottom: "other" top: "sum" }}
layer {{ name: "fc" type: "InnerProduct" bottom: "sum" top: "fc"
  inner_product_param {{ num_output: 3 {FILLER} }} }}"""
)
SHARED = INPUT.format("dim: 2 dim: 3") + "".join(
    f"""
layer {{ name: "{name}" type: "InnerProduct" bottom: "x" top: "{name}"
  param {{ name: "w" }} param {{ name: "b" }} inner_product_param {{ num_output: 2 {FILLER} }} }}"""
    for name in ("a", "c")
)
LSTM = f"""
layer {{ name: "in" type: "Input" top: "x" top: "cont"
  input_param {{ shape {{ dim: 3 dim: 2 dim: 5 }} shape {{ dim: 3 dim: 2 }} }} }}
layer {{ name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "y"
  recurrent_param {{ num_output: 4 {FILLER} }} }}"""
NETS = {"lenet": LENET, "norm": NORM, "shared": SHARED, "lstm": LSTM}


def inputs_of(net: Net) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(7)
    return {name: torch.rand(net.blob_shapes[name], generator=draws) for name in net.inputs}


def outputs_of(net: Net) -> dict[str, torch.Tensor]:
    net.reset_state()
    with torch.no_grad():
        return net(inputs_of(net))


def trained(text: str) -> Net:
    """A net whose blobs are all of different numbers, statistics too."""
    net = load_net(text, seed=1)
    draws = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in net.layers:
            for spec, blob in zip(layer.blob_specs, layer.blobs, strict=True):
                if spec.name in ("mean", "variance", "factor", "scale"):
                    blob.copy_(torch.rand(blob.shape, generator=draws) + 0.5)
    return net


def same(a: Net, b: Net) -> None:
    for key, value in a.state_dict().items():
        assert torch.equal(b.state_dict()[key], value), key
    there, here = outputs_of(a), outputs_of(b)
    assert there.keys() == here.keys()
    assert all(torch.equal(there[name], here[name]) for name in there)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", NETS)
def test_every_format_comes_back_bit_for_bit(tmp_path: Path, name: str, suffix: str) -> None:
    net = trained(NETS[name])
    net.save(tmp_path / f"w{suffix}")
    same(net, load_net(NETS[name], tmp_path / f"w{suffix}", seed=2))
    same(net, load_net(NETS[name], tmp_path / f"w{suffix}"))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("way", ["torch.save", "wrapped", "safetensors"])
def test_a_state_dict_of_a_net_comes_back(tmp_path: Path, name: str, way: str) -> None:
    net, path = trained(NETS[name]), tmp_path / "w"
    tensors = {key: value.clone() for key, value in net.state_dict().items()}
    if way == "safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors, "epoch": 3} if way == "wrapped" else tensors, path)
    same(net, load_net(NETS[name], path, seed=2))


class Module(nn.Module):
    """What NORM computes but for its PReLU, with PyTorch's names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(64, 3)
        with torch.no_grad():
            for tensor in self.state_dict().values():
                if tensor.is_floating_point():
                    tensor.uniform_(0.5, 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run it."""
        out: torch.Tensor = self.fc(self.bn(self.conv(x)).relu().flatten(1))
        return out


PLAIN = "\n".join(
    line.replace('bottom: "sum"', 'bottom: "scaled"')
    for line in NORM.splitlines()
    if '"slope"' not in line and '"Eltwise"' not in line
)


@pytest.mark.parametrize("profile", ["bvlc", "intel", "nvidia"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_module_with_batch_norm(tmp_path: Path, suffix: str, profile: str) -> None:
    module, path = Module().eval(), tmp_path / f"w{suffix}"
    tensors = module.state_dict()
    if suffix == ".pt":
        torch.save(tensors, path)
    else:
        safetensors.torch.save_file(tensors, path)
    net = load_net(PLAIN, path, profile=profile, prepare=False)
    x = inputs_of(net)["x"]
    with torch.no_grad():
        torch.testing.assert_close(net({"x": x})["fc"], module(x), rtol=1e-5, atol=1e-4)
    assert torch.equal(net.params["bn"][0], tensors["bn.running_mean"])
    if profile == "bvlc":
        (tmp_path / "net.prototxt").write_text(PLAIN)
        made = cli("convert", tmp_path / "net.prototxt", path, tmp_path / "w.caffemodel")
        assert made.exit_code == 0, made.output
        same(net, load_net(PLAIN, tmp_path / "w.caffemodel", prepare=False))


def test_a_batch_norm_whose_scale_reads_a_split(tmp_path: Path) -> None:
    torch.save(Module().state_dict(), tmp_path / "w.pt")
    net = load_net(NORM, tmp_path / "w.pt")  # PReLU reads the BatchNorm, too, and is filled
    assert net.params["slope"][0].tolist() == [0.25] * 4
    assert torch.equal(net.params["scale"][0], torch.load(tmp_path / "w.pt")["bn.weight"])


def test_an_lstm_of_pytorch(tmp_path: Path) -> None:
    module = nn.Sequential()
    module.add_module("lstm", nn.LSTM(5, 4))
    torch.save(module.state_dict(), tmp_path / "w.pt")
    net = load_net(LSTM, tmp_path / "w.pt")
    x = inputs_of(net)["x"]
    with torch.no_grad():
        cont = torch.ones(3, 2)
        cont[0] = 0
        torch.testing.assert_close(net({"x": x, "cont": cont})["y"], module[0](x)[0])


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("way", [torch.save, safetensors.torch.save_file])
def test_other_floats_become_float32(tmp_path: Path, kind: torch.dtype, way: Any) -> None:
    tensors = {key: value.to(kind) for key, value in trained(LENET).state_dict().items()}
    way(tensors, tmp_path / "w")
    for key, value in load_net(LENET, tmp_path / "w").state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, tensors[key].float()), key


def test_caffes_rules_for_layers_that_one_side_lacks(tmp_path: Path) -> None:
    tensors = {**trained(LENET).state_dict(), "aux.weight": torch.ones(3)}
    del tensors["ip2.weight"], tensors["ip2.bias"]
    torch.save(tensors, tmp_path / "w.pt")
    net = load_net(LENET, seed=5)
    kept = net.params["ip2"][0].clone()
    assert net.copy_trained_layers_from(load_weights(tmp_path / "w.pt")) == ["aux"]
    assert torch.equal(net.params["ip2"][0], kept)
    assert torch.equal(net.params["ip1"][0], tensors["ip1.weight"])


def test_content_counts_and_not_the_name(tmp_path: Path) -> None:
    net = trained(LENET)
    for made, called in ((".safetensors", ".caffemodel"), (".pt", ".caffemodel"), (".npz", ".h5"),
                         (".pt", ".safetensors")):  # fmt: skip
        net.save(tmp_path / f"w{made}")
        (tmp_path / f"w{made}").rename(tmp_path / f"x{called}")
        same(net, load_net(LENET, tmp_path / f"x{called}"))


Edit = Callable[[dict[str, torch.Tensor]], object]


def changed(tensors: Mapping[str, torch.Tensor], edit: Edit) -> dict[str, torch.Tensor]:
    out = {key: value.clone() for key, value in tensors.items()}
    edit(out)
    return out


def renamed(old: str, new: str) -> Edit:
    return lambda t: t.update({new: t.pop(old)})


@pytest.mark.parametrize("way", [torch.save, safetensors.torch.save_file])
@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda t: t.pop("conv1.bias"), "number of blobs for layer 'conv1': the file has 1, the n"),
        (lambda t: t.pop("conv1.weight"), r"'conv1' \(Convolution\) has a tensor 'bias' in place"),
        (renamed("conv1.bias", "conv1.beta"), "'beta' in place of blob 1, which is called 'bias'"),
        (renamed("conv1.bias", "conv1.2"), "has a tensor '2' in place of blob 0"),
        (lambda t: t.update({"relu1.weight": torch.ones(1)}), "'relu1': the file has 1, the net 0"),
        (lambda t: t.update({"ip1.weight": torch.ones(30, 7)}), "param 0 weights from layer 'ip1'"),
        (lambda t: t.update({"ip2.bias": torch.ones(10, dtype=torch.int8)}), "'bias' holds int8"),
        (lambda t: [t.update({f"module.{k}": t.pop(k)}) for k in list(t)], "no layer of the net"),
    ],
)
def test_tensors_that_do_not_fit_change_nothing(
    tmp_path: Path, edit: Edit, text: str, way: Any
) -> None:
    net = load_net(LENET, seed=1)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    way(changed(before, edit), tmp_path / "w")
    with pytest.raises(WeightsError, match=rf"^{tmp_path}/w: .*{text}"):
        load_net(LENET, tmp_path / "w")
    with pytest.raises(WeightsError, match=text):
        net.copy_trained_layers_from(load_weights(tmp_path / "w"))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("text", "edit", "told"),
    [
        (PLAIN.replace("kernel_size: 3", "kernel_size: 3 bias_term: false"), lambda t: None,
         r"no place for 1 tensors of their modules: conv\.bias"),
        (PLAIN.replace('type: "Scale"', 'type: "ReLU"').replace("scale_param { bias_term: true }",
         ""), lambda t: None, r"no place for 2 tensors of their modules: bn\.weight, bn\.bias"),
        (PLAIN, lambda t: t.pop("bn.running_var"), r"no place for 1 .*: bn\.running_mean"),
        (PLAIN, lambda t: t.update({"fc.weight": torch.tensor(1.0)}), "'fc' does not fit layer"),
        (PLAIN, lambda t: t.update({"bn.weight": torch.ones(4, dtype=torch.int32)}), "holds int32"),
        (PLAIN, lambda t: t.update({"bn.bias": torch.ones(5)}), "shape mismatch"),
        (LSTM, lambda t: t.update({"lstm.weight_ih_l0": torch.ones(3, 2),
         "lstm.weight_hh_l0": torch.ones(3, 2)}), "'lstm' does not fit layer 'lstm'"),
    ],
)  # fmt: skip
def test_modules_that_do_not_fit(tmp_path: Path, text: str, edit: Edit, told: str) -> None:
    torch.save(changed(Module().state_dict(), edit), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=rf"w\.pt: .*{told}"):
        load_net(text, tmp_path / "w.pt")


def test_a_scale_without_a_bias_takes_no_bias(tmp_path: Path) -> None:
    """One blob of the right shape, but another one."""
    text = NORM.replace("bias_term: true", "bias_term: false")
    tensors = {**trained(text).state_dict()}
    torch.save(changed(tensors, renamed("scale.weight", "scale.bias")), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"'scale' \(Scale\) has a tensor 'bias' in place of"):
        load_net(text, tmp_path / "w.pt")


@pytest.mark.parametrize("kind", [torch.int64, torch.complex64, torch.float8_e5m2])
def test_numbers_that_are_no_floats(tmp_path: Path, kind: torch.dtype) -> None:
    torch.save({"a.weight": torch.zeros(2, 3).to(kind), "a.bias": torch.ones(2)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"w\.pt: .*tensor '(a\.)?weight'"):
        load_net(SHARED, tmp_path / "w.pt")
    torch.save({"a.weight": torch.eye(2).to_sparse(), "a.bias": torch.ones(2)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"'a\.weight' .* is no plain tensor of numbers"):
        load_net(SHARED, tmp_path / "w.pt")


def test_integers_of_an_archive(tmp_path: Path) -> None:
    npz.write(tmp_path / "w.npz", {"a": [np.ones((2, 3), np.int32), np.ones(2, np.float32)]})
    with pytest.raises(WeightsError, match="'a', tensor '0' holds int32, and weights are floats"):
        load_net(SHARED, tmp_path / "w.npz")


# -- the commands ---------------------------------------------------------------------------


def cli(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(a) for a in arguments])


DATA = """layer { name: "data" type: "DummyData" top: "x" top: "label"
  dummy_data_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } shape { dim: 4 }
    data_filler { type: "constant" value: 0.5 } data_filler { type: "constant" value: 1 } } }
"""
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(DATA + NORM[NORM.index("\n") :] + LOSS, encoding="utf-8")
    Path("solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0 lr_policy: "fixed" max_iter: 1 snapshot_prefix: "s"\n'
        "solver_mode: CPU",
        encoding="utf-8",
    )
    net = trained(Path("net.prototxt").read_text(encoding="utf-8"))
    for suffix in SUFFIXES:
        net.save(f"w{suffix}")
    return tmp_path


def test_test_takes_them_all(folder: Path) -> None:
    scores = []
    for suffix in SUFFIXES:
        done = cli("test", "net.prototxt", "--weights", f"w{suffix}", "-n", 1, "--json")
        assert done.exit_code == 0, done.output
        scores.append(json.loads(done.stdout)[0] | {"model": ""})
    assert all(score == scores[0] for score in scores)


def test_train_begins_with_them(folder: Path) -> None:
    for suffix in (".safetensors", ".pt", ".npz"):
        done = cli("train", "solver.prototxt", "--weights", f"w{suffix}")
        assert done.exit_code == 0, done.output
        assert "Not in the file" not in done.output
        made, given = load_weights("s_iter_1.caffemodel"), load_weights("w.caffemodel")
        for name in ("conv", "scale", "fc"):
            assert all(map(np.array_equal, made[name], given[name])), name


def test_what_train_tells_of_a_modules_layers(folder: Path) -> None:
    torch.save({**Module().state_dict(), "aux.weight": torch.ones(2)}, "m.pt")
    done = cli("train", "solver.prototxt", "--weights", "m.pt")
    assert done.exit_code == 0, done.output
    assert "Not in the file, start from their fillers: slope" in done.output
    assert "Ignoring source layer aux" in done.output


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("the file ran code",)


def one_message(done: Any, name: str) -> None:
    assert done.exit_code == 2, done.output
    assert name in done.stderr
    assert "Traceback" not in done.output
    assert "ran code" not in done.output


@pytest.mark.parametrize("command", ["test net.prototxt", "train solver.prototxt"])
def test_hostile_and_damaged_files_are_one_message(folder: Path, command: str) -> None:
    torch.save({"conv.weight": Bomb()}, "bomb.pt")
    Path("old.pt").write_bytes(pickle.dumps(Bomb(), 2))
    Path("huge.safetensors").write_bytes((99_000_000).to_bytes(8, "little") + b'{"a.0":')
    Path("lfs.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    Path("page.safetensors").write_bytes(b"<!DOCTYPE html><html>404</html>")
    names = ["bomb.pt", "old.pt", "huge.safetensors", "lfs.pt", "page.safetensors"]
    for suffix in (".safetensors", ".pt", ".npz"):
        data = Path(f"w{suffix}").read_bytes()
        for size in (9, len(data) // 2, len(data) - 5):
            Path(f"cut{size}{suffix}").write_bytes(data[:size])
            names.append(f"cut{size}{suffix}")
    for name in names:
        one_message(cli(*command.split(), "--weights", name), name)


def test_tensors_that_need_no_torch_import_none(folder: Path) -> None:
    code = (
        "import sys, caffeio; from caffeio.proto.weights.load import load_weights\n"
        "for end in ('safetensors', 'npz'): assert len(load_weights('w.' + end)) == 5\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_kind_that_was_expected_is_that_of_the_name(tmp_path: Path) -> None:
    words = {"pt": "a PyTorch file", "safetensors": "a safetensors file", "npz": "a NumPy archive",
             "caffemodel": "a caffemodel"}  # fmt: skip
    for end, word in words.items():
        for name, data in (("none", None), ("empty", b""), ("text", b"hello\n")):
            path = tmp_path / f"{name}.{end}"
            if data is not None:
                path.write_bytes(data)
            if name == "text" and end in ("safetensors", "npz"):
                continue  # their readers have words of their own
            with pytest.raises(WeightsError, match=f"{word} was expected"):
                load_weights(path)
