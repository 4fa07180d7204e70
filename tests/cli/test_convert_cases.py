"""Conversions that once told less than the truth: what public reports and files have shown."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import caffeio
from caffeio.proto.files import read_net
from caffeio.proto.weights.load import load_weights, write_caffemodel
from tests.cli.converting import bad, good, run
from tests.paths import GOLDEN, ROOT

ort = pytest.importorskip("onnxruntime")
CASES = ROOT / "tests" / "cases" / "convert"


def case(name: str, folder: Path) -> Path:
    """The files of a case in a folder of their own."""
    return Path(shutil.copytree(CASES / name, folder / name))


def onnx_run(path: Path, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def near(found: np.ndarray, wanted: Any, least: float = 1e-6) -> bool:
    wanted = np.asarray(wanted)
    return bool(np.abs(found - wanted).max() <= 1e-5 * max(np.abs(wanted).max(), least))


def random_input(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def test_a_layer_known_by_its_filler_alone(tmp_path: Path) -> None:
    folder = case("filler_not_exported", tmp_path)
    files = folder / "net.prototxt", folder / "w.caffemodel"
    result = good(*files, folder / "m.onnx")
    assert "layer 'temper' is not in the weights: scale 2.606 by its filler" in result.stderr
    x = random_input(1, 3, 5, 5)
    wanted = caffeio.load_net(*files)({"data": torch.from_numpy(x)})["prob"].detach().numpy()
    assert near(onnx_run(folder / "m.onnx", data=x)["prob"], wanted)
    good(*files, folder / "deploy.prototxt", "--deploy")
    kept = {x.name: x for x in read_net(folder / "deploy.prototxt").message.layer}
    assert kept["temper"].scale_param.filler.value == np.float32(2.606)
    net = caffeio.load_net(folder / "deploy.prototxt", files[1])
    assert near(net({"data": torch.from_numpy(x)})["prob"].detach().numpy(), wanted)


def test_explicit_batch_statistics(tmp_path: Path) -> None:
    folder = case("bn_use_global_stats_false", tmp_path)
    good(folder / "net.prototxt", folder / "w.caffemodel", folder / "m.onnx")
    with np.load(folder / "io.npz") as file:
        arrays = dict(file)
    assert near(onnx_run(folder / "m.onnx", data=arrays["in_data"])["r"], arrays["out_r"])
    good(folder / "net.prototxt", folder / "w.caffemodel", folder / "d.prototxt", "--deploy")
    assert "use_global_stats: false" in (folder / "d.prototxt").read_text()


def test_layers_without_a_partner(tmp_path: Path) -> None:
    folder = case("missing_layer_silent", tmp_path)
    net, renamed, lacks = (
        folder / n for n in ("net.prototxt", "nofc.caffemodel", "noscale.caffemodel")
    )
    for target in ("m.onnx", "m.caffemodel"):
        message = bad(net, renamed, folder / target)
        assert "layer 'fc'" in message and "'fc8_old'" in message
        assert not (folder / target).exists()
    for target in ("d.prototxt", "m.safetensors"):
        text = (
            run(net, renamed, folder / target, "--deploy")
            if target == "d.prototxt"
            else run(net, renamed, folder / target)
        )
        assert "layer 'fc'" in text.stderr and "'fc8_old'" in text.stderr
    result = good(net, renamed, folder / "m.onnx", "--untrained")
    assert "layer 'fc' is not in the weights" in result.stderr
    assert "layer 'fc8_old' of the weights is not in the net" in result.stderr
    result = good(net, lacks, folder / "n.onnx")
    assert "layer 'scale1' is not in the weights: scale 1, bias 0" in result.stderr
    x = random_input(1, 3, 6, 6)
    wanted = caffeio.load_net(net, lacks)({"data": torch.from_numpy(x)})["prob"].detach().numpy()
    assert near(onnx_run(folder / "n.onnx", data=x)["prob"], wanted)


def test_wrong_shapes_are_all_named(tmp_path: Path) -> None:
    folder = case("missing_layer_silent", tmp_path)
    net = read_net(folder / "net.prototxt").message
    blobs = {
        k: v for k, v in load_weights(folder / "nofc.caffemodel").copy().items() if k != "fc8_old"
    }
    blobs["conv1"] = [np.zeros((4, 2, 3, 3), np.float32), np.zeros(4, np.float32)]
    blobs["fc"] = [np.zeros((5, 7), np.float32)]
    write_caffemodel(folder / "odd.caffemodel", net, blobs)
    for target in ("m.onnx", "m.caffemodel", "m.pt", "d.prototxt"):
        more = ["--deploy"] if target == "d.prototxt" else []
        message = bad(folder / "net.prototxt", folder / "odd.caffemodel", folder / target, *more)
        assert "'conv1'" in message and "'fc'" in message, message


def test_nvidias_scale_told_by_fillers(tmp_path: Path) -> None:
    folder = case("nvidia_scale_filler", tmp_path)
    good(folder / "net.prototxt", folder / "w.caffemodel", folder / "m.onnx")
    with np.load(folder / "io.npz") as file:
        arrays = dict(file)
    assert near(onnx_run(folder / "m.onnx", data=arrays["in_data"])["r"], arrays["out_r"])
    good(folder / "net.prototxt", folder / "w.caffemodel", folder / "d.prototxt", "--deploy")
    net = caffeio.load_net(folder / "d.prototxt", folder / "w.caffemodel")
    found = net({"data": torch.from_numpy(arrays["in_data"])})["r"].detach().numpy()
    assert near(found, arrays["out_r"])


def test_a_net_without_weights(tmp_path: Path) -> None:
    folder = case("untrained_zero", tmp_path)
    text = (
        (folder / "net.prototxt")
        .read_text()
        .replace(
            "kernel_size: 3 }", 'kernel_size: 3 weight_filler { type: "constant" value: 0.5 } }'
        )
    )
    (folder / "filled.prototxt").write_text(text)
    message = bad(folder / "net.prototxt", folder / "m.onnx")
    assert "no weights are given" in message and "--untrained" in message
    result = good(folder / "net.prototxt", folder / "m.onnx", "--untrained")
    assert "UNTRAINED" in result.stderr
    good(folder / "filled.prototxt", folder / "f.onnx", "--untrained")
    x = random_input(1, 3, 8, 8)
    wanted = caffeio.load_net(folder / "filled.prototxt")({"data": torch.from_numpy(x)})
    for name, value in onnx_run(folder / "f.onnx", data=x).items():
        assert np.abs(value).max() > 0.1
        assert near(value, wanted[name].detach().numpy())


def test_random_fillers_are_verified_too(tmp_path: Path) -> None:
    (tmp_path / "n.prototxt").write_text(
        'layer { name: "in" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }\n'
        'layer { name: "f" type: "InnerProduct" bottom: "a" top: "f" inner_product_param {'
        ' num_output: 4 weight_filler { type: "xavier" } } }'
    )
    result = good(tmp_path / "n.prototxt", tmp_path / "m.onnx", "--untrained")
    assert "UNTRAINED" in result.stderr
    found = onnx_run(tmp_path / "m.onnx", a=random_input(2, 3))["f"]
    assert np.abs(found).max() > 0.01


def test_weights_are_not_overwritten(tmp_path: Path) -> None:
    folder = case("missing_layer_silent", tmp_path)
    net, weights = folder / "net.prototxt", folder / "noscale.caffemodel"
    before = weights.read_bytes()
    message = bad(net, weights)
    assert f"caffeio convert {net} {weights} OUTPUT" in message
    assert weights.read_bytes() == before
    message = bad(net, weights, "--untrained")
    assert "--force" in message
    assert weights.read_bytes() == before
    assert "is there already" in bad(weights, net)  # the net that belongs to it
    assert "UNTRAINED" in good(net, folder / "new.caffemodel", "--untrained").stderr


def test_outputs_are_replaced_if_they_are_our_own(tmp_path: Path) -> None:
    folder = case("missing_layer_silent", tmp_path)
    net, weights = folder / "net.prototxt", folder / "noscale.caffemodel"
    for name in ("m.onnx", "m.safetensors", "m.npz"):
        good(net, weights, folder / name)
        good(net, weights, folder / name)  # the same again
    good(net, weights, folder / "m.onnx", "--input-shape", "data=2,3,6,6")
    (folder / "other.onnx").write_bytes(b"precious")
    message = bad(net, weights, folder / "other.onnx")
    assert "--force" in message
    assert (folder / "other.onnx").read_bytes() == b"precious"
    good(net, weights, folder / "other.onnx", "--force")
    assert (folder / "other.onnx").stat().st_size > 100
    assert "is a folder" in bad(net, weights, folder, "--to", "onnx")


def test_other_ways_to_name_files(tmp_path: Path) -> None:
    folder = case("missing_layer_silent", tmp_path)
    net, weights = folder / "net.prototxt", folder / "noscale.caffemodel"
    good(net, weights, "-o", folder / "a.onnx")
    good(net, "--weights", weights, folder / "b.onnx")
    good(net, "--weights", weights, "-o", folder / "c.onnx")
    assert (folder / "a.onnx").read_bytes() == (folder / "c.onnx").read_bytes()
    message = bad(folder / "d.onnx", net, weights)
    assert f"caffeio convert {net} {weights} {folder / 'd.onnx'}" in message
    assert "an input and an output" in bad(net)
    assert "an input and an output" in bad("--weights", weights)


# --- reading


@pytest.mark.parametrize("command", ["convert", "show"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("t20", "is cut off: layer 3 of the file ('fc'), which begins at byte"),
        ("page", "is a web page, not the file: the download went wrong"),
        ("lfs", "Git LFS pointer"),
    ],
)
def test_broken_downloads(name: str, words: str, command: str, tmp_path: Path) -> None:
    folder = case("broken_download", tmp_path)
    path = folder / f"{name}.caffemodel"
    args = [folder / "net.prototxt", path, folder / "m.onnx"] if command == "convert" else [path]
    result = run(*args, command=command)
    assert result.exit_code == 2
    assert words in result.stderr, result.stderr


def test_comments_of_any_encoding(tmp_path: Path) -> None:
    folder = case("gbk_text", tmp_path)
    path = folder / "comment.prototxt"
    assert run(path, command="show").exit_code == 0
    assert run(path, command="lint").exit_code in (0, 1)
    assert run(path, path, command="diff").exit_code == 0
    good(path, folder / "m.onnx", "--untrained")
    name = folder / "name.prototxt"
    for command in ("show", "diff"):
        args = [name, name] if command == "diff" else [name]
        result = run(*args, command=command)
        assert result.exit_code == 2
        assert f"{name}:4:15: the string is not UTF-8" in result.stderr


def test_upgrade_writes_what_can_be_read(tmp_path: Path) -> None:
    folder = case("upgrade_unknown_enum", tmp_path)
    result = run(folder / "net.prototxt", folder / "up.prototxt", command="upgrade")
    assert result.exit_code == 1
    assert "layer type UNPOOLING is unknown" in result.stderr
    assert read_net(folder / "up.prototxt").message.layer[2].type == "UNPOOLING"
    folder = case("c3d", tmp_path)
    result = run(folder / "v1.prototxt", folder / "up.prototxt", command="upgrade")
    assert result.exit_code == 1
    assert "input_dim 12 is left out" in result.stderr
    kinds = [layer.type for layer in read_net(folder / "up.prototxt").message.layer]
    assert kinds == ["Input", "CONVOLUTION3D", "ReLU", "POOLING3D"]


def test_what_the_weights_tell_of_an_input(tmp_path: Path) -> None:
    (tmp_path / "n.prototxt").write_text(
        'layer { name: "d" type: "Data" top: "data" top: "label" data_param { source: "absent" } }'
        'layer { name: "c" type: "Convolution" bottom: "data" top: "c"'
        " convolution_param { num_output: 2 kernel_size: 5 } }"
        'layer { name: "p" type: "Pooling" bottom: "c" top: "p"'
        " pooling_param { kernel_size: 2 stride: 2 } }"
        'layer { name: "f" type: "InnerProduct" bottom: "p" top: "f"'
        " inner_product_param { num_output: 3 } }"
    )
    blobs = {
        "c": [np.ones((2, 1, 5, 5), np.float32), np.zeros(2, np.float32)],
        "f": [np.ones((3, 2 * 12 * 12), np.float32), np.zeros(3, np.float32)],
    }
    write_caffemodel(tmp_path / "w.caffemodel", read_net(tmp_path / "n.prototxt").message, blobs)
    message = bad(tmp_path / "n.prototxt", tmp_path / "w.caffemodel", tmp_path / "m.onnx")
    assert "takes 1 channel" in message and "--input-shape data=1,1,28,28" in message
    shape = ("--input-shape", "data=1,1,28,28")
    good(tmp_path / "n.prototxt", tmp_path / "w.caffemodel", tmp_path / "m.onnx", *shape)


def test_batch_norm_of_older_nvidia_files(tmp_path: Path) -> None:
    folder = case("nvidia_bn_1c11", tmp_path)
    files = folder / "net.prototxt", folder / "nvshape.caffemodel"
    message = bad(*files, folder / "m.onnx")
    assert "the file's is 1 4 1 1, the net's is 4" in message and "--caffe nvidia" in message
    good(*files, folder / "m.onnx", "--caffe", "nvidia")


def test_the_nets_own_data_is_used(tmp_path: Path) -> None:
    folder = GOLDEN / "solvers"
    net = tmp_path / "n.prototxt"
    net.write_text(
        'layer { name: "d" type: "Data" top: "data" top: "label" include { phase: TEST }'
        f' data_param {{ source: "{folder / "lmdb"}" batch_size: 5 backend: LMDB }}'
        " transform_param { mean_value: 128 scale: 0.0039 } }\n"
        'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"'
        ' inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }\n'
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }'
    )
    blobs = {"ip": [random_input(10, 432), random_input(10)]}
    write_caffemodel(tmp_path / "w.caffemodel", read_net(net).message, blobs)
    result = good(net, tmp_path / "w.caffemodel", tmp_path / "m.onnx")
    assert "on 3 random inputs and a batch of its own data" in result.stdout, result.stdout
    assert "before the Softmax" in result.stdout


def test_merged_and_half_precision_weights_are_run(tmp_path: Path) -> None:
    folder = case("missing_layer_silent", tmp_path)
    net = read_net(folder / "net.prototxt")
    rng = np.random.default_rng(0)
    blobs = dict(load_weights(folder / "nofc.caffemodel").copy().items())
    blobs["fc"] = blobs.pop("fc8_old")
    blobs["scale1"] = [rng.uniform(1, 2, 4).astype(np.float32) for _ in range(2)]
    full = tmp_path / "full.caffemodel"
    write_caffemodel(full, net.message, blobs)
    result = good(full, tmp_path / "i.caffemodel", "--to-dialect", "intel", "--merge-batch-norm")
    assert "largest relative difference against the result" in result.stdout
    halves = {k: [a.astype(np.float16) for a in v] for k, v in blobs.items()}
    half = tmp_path / "h.caffemodel"
    write_caffemodel(half, net.message, halves, dialect="nvidia", raw_data=True)
    result = good(half, tmp_path / "b.caffemodel", "--to-dialect", "bvlc")
    assert "largest relative difference against the result" in result.stdout


def test_a_head_that_reads_the_label(tmp_path: Path) -> None:
    folder = case("train_head_label", tmp_path)
    shape = ("--untrained", "--input-shape", "data=1,1,6,6")
    message = bad(folder / "net.prototxt", folder / "m.onnx", *shape)
    assert "layer 'fc6' (MarginInnerProduct) reads 'label'" in message
    assert "--output-blob, e.g. fc5" in message
    good(folder / "net.prototxt", folder / "m.onnx", *shape, "--output-blob", "fc5")
    assert onnx_run(folder / "m.onnx", data=random_input(1, 1, 6, 6))["fc5"].shape == (1, 5)


@pytest.mark.parametrize("name", ["v1", "ndconv"])
def test_three_dimensional_forks_are_refused(name: str, tmp_path: Path) -> None:
    folder = case("c3d", tmp_path)
    message = bad(folder / f"{name}.prototxt", folder / "m.onnx", "--untrained")
    assert f"{name}.prototxt:" in message and "no known Caffe has it" in message


def test_an_indicator_of_another_fork_is_refused(tmp_path: Path) -> None:
    """yalecyu's ContinuationIndicator has no bottom and fields of its own."""
    folder = case("crnn_indicator", tmp_path)
    message = bad(folder / "net.prototxt", tmp_path / "o.onnx", "--untrained")
    assert "net.prototxt:7:" in message and "batch_size" in message
    assert not (tmp_path / "o.onnx").exists()


def test_lint_finds_a_deploy_net_whose_test_phase_does_not_build(tmp_path: Path) -> None:
    folder = case("deploy_with_accuracy", tmp_path)
    result = run(folder / "net.prototxt", command="lint")
    assert result.exit_code == 1, result.output
    assert "CIO200" in result.output and "label" in result.output
    good(folder / "net.prototxt", tmp_path / "o.onnx", "--untrained")  # the metric goes


@pytest.mark.parametrize("name", ["nd_conv", "c3d_v1", "unpooling_v1"])
def test_fix_does_not_damage_files_of_unknown_forks(name: str, tmp_path: Path) -> None:
    path = case("lint_fix_breaks", tmp_path) / f"{name}.prototxt"
    before = path.read_bytes()
    result = run("--fix", path, command="lint")
    assert result.exit_code == 1, result.output
    assert path.read_bytes() == before
