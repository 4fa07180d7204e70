"""Every example in every command's --help runs, in a folder that has the files it names."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from caffeio.cli.main import main
from caffeio.data.db.database import write_db
from caffeio.data.records.datum import encode_datum
from caffeio.net import load_net
from tests import warm
from tests.paths import ROOT

SSD = "caffeio features ssd.prototxt ssd.caffemodel street.jpg --threshold 0.3"
# What cannot run here, and why.
NOT_RUN = {
    "caffeio demo -o demo": "takes minutes: `make demo` is a command of its own",
    "torchrun --nproc-per-node 8 -m caffeio.cli train solver.prototxt": "eight processes",
    "caffeio device-query -gpu 0": "wants a GPU",
    "caffeio device-query -gpu all": "wants a GPU",
    SSD: "wants a detector: tests/cli/test_features.py",
}
NEEDS_A_SHELL = re.compile(r"[|<>;&$`*]|^(?!caffeio )")

LAYERS = """
layer {
  name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } }
}
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer {
  name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { pool: AVE global_pooling: true }
}
layer {
  name: "fc7" type: "InnerProduct" bottom: "pool1" top: "fc7"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } }
}
layer { name: "drop6" type: "Dropout" bottom: "fc7" top: "fc7" }
layer {
  name: "fc8" type: "InnerProduct" bottom: "fc7" top: "fc8"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } }
}
"""
DATA = """
layer {{
  name: "data" type: "Data" top: "data" top: "label" include {{ phase: {phase} }}
  transform_param {{ scale: 0.01 }} data_param {{ source: "{source}" batch_size: 4 backend: LMDB }}
}}
"""
TRAIN_VAL = (
    'name: "small"'
    + DATA.format(phase="TRAIN", source="train_lmdb")
    + DATA.format(phase="TEST", source="test_lmdb")
    + LAYERS
    + """
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc8" bottom: "label" top: "loss" }
layer {
  name: "accuracy" type: "Accuracy" bottom: "fc8" bottom: "label" top: "accuracy"
  include { phase: TEST }
}
"""
)
DEPLOY = """name: "small"
layer {
  name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 16 dim: 16 } }
}
"""
DEPLOY += LAYERS + 'layer { name: "prob" type: "Softmax" bottom: "fc8" top: "prob" }\n'
SOLVER = """net: "train_val.prototxt"
base_lr: {rate} lr_policy: "multistep" gamma: 0.1 stepvalue: 16
display: 8 max_iter: 32 test_iter: 2 test_interval: 32
snapshot: 32 snapshot_prefix: "{prefix}" solver_mode: CPU random_seed: 1
"""
OLD = """name: "old"
layers { name: "c" type: CONVOLUTION bottom: "data" top: "c"
  convolution_param { num_output: 2 kernel_size: 3 } }
input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
"""
CLASSIFY = """import caffe
net = caffe.Net("deploy.prototxt", "model.caffemodel", caffe.TEST)
print(net.forward()["prob"].shape)
"""


def examples() -> Iterator[tuple[str, str]]:
    """Every command with every example of its help."""

    def walk(command: click.Command, path: str) -> Iterator[tuple[str, str]]:
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                yield from walk(inner, f"{path} {name}".strip())
            return
        for line in (command.epilog or "").splitlines():
            if line.startswith("  ") and re.match(r"(caffeio|torchrun|PYTHONPATH=)", line.strip()):
                yield path, line.strip()

    yield from walk(main, "")


def images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (count, 16, 16, 3)).astype(np.uint8)


def make_data(folder: Path) -> None:
    for name, backend in (("train", "LMDB"), ("test", "LMDB"), ("train", "LEVELDB")):
        pictures = images(12, len(name))
        records = (
            (f"{i:08}".encode(), encode_datum(data=picture.transpose(2, 0, 1), label=i % 3))
            for i, picture in enumerate(pictures)
        )
        write_db(folder / f"{name}_{backend.lower()}", records, backend)
    (folder / "data").mkdir()
    shutil.copytree(folder / "train_lmdb", folder / "data" / "train_lmdb")
    for place in ("images", "photos/cat", "photos/dog"):
        (folder / place).mkdir(parents=True)
        for i, picture in enumerate(images(3, len(place))):
            cv2.imwrite(str(folder / place / f"{i}.png"), picture)
    cv2.imwrite(str(folder / "cat.jpg"), images(1, 9)[0])
    for name in ("train.txt", "val.txt"):
        (folder / name).write_text("".join(f"{i}.png {i}\n" for i in range(3)))
    (folder / "list.txt").write_text("".join(f"images/{i}.png {i}\n" for i in range(3)))
    (folder / "names.txt").write_text("one\ntwo\nthree\n")
    (folder / "classes.txt").write_text("cat\ndog\nemu\n")
    (folder / "mnist").mkdir()
    pixels = images(5, 3)[..., 0]
    for name, head, data in (
        ("train-images-idx3", struct.pack(">IIII", 0x803, 5, 16, 16), pixels.tobytes()),
        ("train-labels-idx1", struct.pack(">II", 0x801, 5), bytes(range(5))),
    ):
        (folder / "mnist" / f"{name}-ubyte.gz").write_bytes(gzip.compress(head + data))
    (folder / "cifar-10-batches-bin").mkdir()
    record = bytes([1]) + bytes(3072)
    (folder / "cifar-10-batches-bin" / "data_batch_1.bin").write_bytes(record * 3)
    np.savez(folder / "digits.npz", x_train=pixels, y_train=np.arange(5))
    data = np.random.default_rng(1).random((1, 3, 16, 16), np.float32)
    np.savez(folder / "picture.npz", data=data)


def make_models(folder: Path) -> None:
    for name in ("train_val", "net", "fork", "plain"):
        text = TRAIN_VAL if name in ("train_val", "net") else DEPLOY
        (folder / f"{name}.prototxt").write_text(text)
    (folder / "deploy.prototxt").write_text(DEPLOY)
    (folder / "old_train_val.prototxt").write_text(OLD)
    for name in ("", "_init", "_cyc1", "_cyc2", "_collapse"):
        rate = 0.01 * (len(name) + 1)
        text = SOLVER.format(rate=rate, prefix=f"snap{name}")
        (folder / f"solver{name}.prototxt").write_text(text)
    net = load_net(folder / "train_val.prototxt", phase="TRAIN")
    net.save(folder / "model.caffemodel")
    for name in ("a", "b", "x", "start", "old", "fork", "plain", "snap_iter_78"):
        shutil.copy(folder / "model.caffemodel", folder / f"{name}.caffemodel")
    for name in ("model", "b"):
        net.save(folder / f"{name}.safetensors")
    for place in ("a", "b", "models", "models_old", "models_new", "demo"):
        (folder / place).mkdir()
        for name in ("solver", "train_val"):
            shutil.copy(folder / f"{name}.prototxt", folder / place)


def make_runs(folder: Path) -> None:
    words = ["train", "solver.prototxt", "--set", "snapshot=0", "--set", "snapshot_after_train=0"]
    result = CliRunner().invoke(main, [*words, "--metrics", "train.jsonl"])
    assert result.exit_code == 0, result.output
    for name in ("caffe.INFO", "other_run.log"):
        (folder / name).write_text(result.stderr)
    result = CliRunner().invoke(main, ["convert", "deploy.prototxt", "a.caffemodel", "model.onnx"])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(main, ["image-mean", "train_lmdb", "mean.binaryproto", "-q"])
    assert result.exit_code == 0, result.output
    (folder / "classify.py").write_text(CLASSIFY)
    (folder / "train_net.py").write_text('import sys\nprint "arguments", len(sys.argv)\n')
    (folder / "tests").mkdir()
    (folder / "tests" / "test_net.py").write_text(
        "import unittest, caffe\nclass T(unittest.TestCase):\n    def test(self): caffe.TEST\n"
    )


def make_repository(folder: Path) -> None:
    """One commit on main, one on top of it; in few files and folders, which each example copies."""
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    solver = folder / "models" / "solver.prototxt"
    first = (["init", "-qb", "main", "--template="], ["add", "models"], ["commit", "-qm", "one"])
    for arguments in (*first, ["checkout", "-qb", "mine"]):
        subprocess.run([*git, *arguments], cwd=folder, check=True, timeout=60)
    solver.write_text(solver.read_text().replace("base_lr: 0.01", "base_lr: 0.02"))
    for arguments in (["commit", "-qam", "two"], ["gc", "-q"]):
        subprocess.run([*git, *arguments], cwd=folder, check=True, timeout=60)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    before = Path.cwd()
    os.chdir(folder)
    try:
        make_data(folder)
        make_models(folder)
        make_runs(folder)
        make_repository(folder)
    finally:
        os.chdir(before)
    return folder


# The files that a command makes anew: they are not there before it runs.
MADE = {
    "convert": lambda words: words[-1:] if "-o" not in words else [],
    "convert-imageset": lambda words: [words[2]],
    "db create": lambda words: [w for w in words if w.endswith("_lmdb")],
    "image-mean": lambda words: words[1:2],
    "extract-features": lambda words: words[3].split(","),
}


def outputs(path: str, example: str) -> list[str]:
    words = shlex.split(example)[1 + len(path.split()) :]
    plain = words[: next((i for i, w in enumerate(words) if w.startswith("--")), len(words))]
    return MADE[path](plain) if path in MADE and plain else []


CASES = list(examples())
RUN = [case for case in CASES if case[1] not in NOT_RUN]


def commands() -> dict[str, click.Command]:
    """Every command, and every one of a group, by its words."""
    found: dict[str, click.Command] = {}
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": one for inner, one in command.commands.items()}
    return found


@pytest.mark.parametrize("path", sorted(commands()))
def test_help_fits_a_terminal(path: str) -> None:
    words = [*path.split(), "--help"]
    result = CliRunner().invoke(main, words, terminal_width=80, env={"COLUMNS": "80"})
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 80, [line for line in lines if len(line) > 80]
    assert sum("caffeio " in line and line.startswith("    ") for line in lines) >= 2


def test_hints_name_options_that_are_there() -> None:
    from caffeio.cli import _hints

    known = {path: {o for p in one.params for o in p.opts} for path, one in commands().items()}
    for word, hint in _hints.COMMANDS.items():
        for path, rest in re.findall(r"\bcaffeio ((?:db )?[a-z-]+)\b([^,;(]*)", hint):
            if path not in known:  # a sentence about caffeio
                assert path in ("reads", "downloads") or path.startswith("--"), (word, hint)
                continue
            options = set(re.findall(r"(?<![\w-])-{1,2}[a-z][a-z-]*", rest)) - {"--help"}
            assert options <= known[path], (word, hint)


def test_every_command_has_two_examples() -> None:
    counts: dict[str, int] = {}
    for path, _ in CASES:
        counts[path] = counts.get(path, 0) + 1
    assert {path: n for path, n in counts.items() if n < 2} == {}
    assert set(counts) >= {"train", "test", "show", "db create", "db show", "features"}
    assert {example for _, example in CASES} >= set(NOT_RUN)


@pytest.mark.parametrize(
    ("path", "example"),
    [pytest.param(*case, id=case[1]) for case in CASES if case[1] not in NOT_RUN],
)
def test_example(
    path: str, example: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    shutil.copytree(prepared, folder, symlinks=True)
    monkeypatch.chdir(folder)
    for name in outputs(path, example):
        place = folder / name
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    allowed = {0, 1} if path == "lint" else {0}  # 1: something was found
    if NEEDS_A_SHELL.search(re.sub(r"'[^']*'", "", example)):
        home = tmp_path / "home"
        for inside in (".local/share/bash-completion/completions", ".zfunc",
                       ".config/fish/completions"):  # fmt: skip
            (home / inside).mkdir(parents=True)
        script = tmp_path / "caffeio"
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m caffeio "$@"\n')
        script.chmod(0o755)
        search = f"{tmp_path}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}"
        env = {**os.environ, "HOME": str(home), "PATH": search + os.environ["PATH"],
               "PYTHONPATH": str(ROOT)}  # fmt: skip
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", example], env=env, check=False,
                              capture_output=True, text=True, timeout=120)  # fmt: skip
        assert done.returncode in allowed, done.stderr
        return
    if path == "run":
        options = warm.caffeio(*shlex.split(example)[1:])
        done = subprocess.run(**options, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return
    result = CliRunner().invoke(main, shlex.split(example)[1:], prog_name="caffeio")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in allowed, result.output


def test_outputs_are_found() -> None:
    assert outputs("convert", "caffeio convert a b c.onnx --dynamic-batch") == ["c.onnx"]
    assert outputs("db create", "caffeio db create x y_lmdb --root z") == ["y_lmdb"]
    assert json.dumps(sorted(NOT_RUN))
