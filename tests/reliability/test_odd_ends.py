"""Rows of the fault list that stand alone: counts that lie, code that exits, pipes that close."""

from __future__ import annotations

import json
import os
import resource
import zlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

import h5py
import numpy as np
import pytest

from caffeio.errors import CaffeIOError
from caffeio.net import load_net
from tests.reliability import hostile
from tests.reliability.forked import check, one_error, run

NET = 'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 2 dim: 1 } } }\n'


def test_hdf5_that_unpacks_to_far_more(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        data = file.create_dataset("data/ip/0", (1 << 27,), "f4", chunks=(1 << 20,),
                                   compression="gzip")  # fmt: skip
        zeros = zlib.compress(bytes(4 << 20))
        for first in range(0, 1 << 27, 1 << 20):
            data.id.write_direct_chunk((first,), zeros)
    assert (tmp_path / "bomb.h5").stat().st_size < 2_000_000
    message = one_error(run("show", "bomb.h5", cwd=tmp_path, memory=400 << 20), "data/ip/0")
    assert "1.1 GB are wanted" in message


@pytest.mark.parametrize("command", ["train", "test"])
def test_a_prefetch_of_thousands_of_millions(command: str, tmp_path: Path) -> None:
    hostile.make(tmp_path)
    net = (tmp_path / "net.prototxt").read_text()
    (tmp_path / "net.prototxt").write_text(net.replace("LMDB }", "LMDB prefetch: 4000000000 }"))
    arguments = ["solver.prototxt"] if command == "train" else ["net.prototxt", "good.caffemodel"]
    ended = check(run(command, *arguments, cwd=tmp_path, memory=2 << 30, seconds=60))
    assert ended.code == 0, ended


LAYER = """
import sys
import caffe
class Exits(caffe.Layer):
    def setup(self, bottom, top):
        if self.param_str == "setup": sys.exit(0)
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)
    def forward(self, bottom, top):
        if self.param_str == "forward": sys.exit(0)
    def backward(self, top, down, bottom):
        raise SystemExit(0)
"""


@pytest.mark.parametrize("where", ["import", "setup", "forward", "backward"])
def test_code_that_exits(where: str, tmp_path: Path) -> None:
    """`sys.exit(0)` in a Python layer is no success."""
    code = "import sys; sys.exit(0)" if where == "import" else LAYER
    (tmp_path / f"exits_{where}.py").write_text(code)
    layer = f'python_param {{ module: "exits_{where}" layer: "Exits" param_str: "{where}" }}'
    (tmp_path / "net.prototxt").write_text(
        "force_backward: true\n" + NET
        + f'layer {{ name: "p" type: "Python" bottom: "d" top: "p" loss_weight: 1 {layer} }}'
    )  # fmt: skip
    command = ["time", "net.prototxt", "--allow-python", "--iterations", "1", "--phase", "TRAIN"]
    message = one_error(run(*command, cwd=tmp_path), "layer 'p'")
    assert "exit" in message.lower()


OUTPUT = """
layer { name: "d" type: "Input" top: "a" top: "b"
  input_param { shape { dim: 2 dim: 60000 } shape { dim: 2 } } }
layer { name: "o" type: "HDF5Output" bottom: "a" bottom: "b"
  hdf5_output_param { file_name: "out.h5" } }
"""


def test_hdf5_output_replaces_a_file_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that is full the old file stays, and no half of a new one."""
    monkeypatch.chdir(tmp_path)
    Path("out.h5").write_bytes(b"old")
    import torch

    inputs = {"a": torch.ones(2, 60000), "b": torch.ones(2)}
    net = load_net(OUTPUT)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(CaffeIOError, match=r"layer 'o'.*cannot write 'out.h5'"):
            net(inputs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert Path("out.h5").read_bytes() == b"old"
    assert [path.name for path in Path().iterdir()] == ["out.h5"]
    load_net(OUTPUT)(inputs)
    with h5py.File("out.h5") as file:
        assert np.array_equal(file["data"][:, :, 0, 0], np.ones((2, 60000), np.float32))


def test_sarif_names_files_by_uris(tmp_path: Path) -> None:
    name = "a b#?%[é].prototxt"
    (tmp_path / name).write_text('layer { name: "x" type: "Nothing" }')
    for path in (name, str(tmp_path / name)):
        out = check(run("lint", "--format", "sarif", path, cwd=tmp_path)).out
        result = json.loads(out)["runs"][0]["results"][0]
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        parts = urlsplit(uri)
        assert not parts.query and not parts.fragment and uri.isascii() and " " not in uri
        assert parts.scheme == ("file" if path.startswith("/") else "")
        assert unquote(parts.path) == path


@pytest.mark.parametrize(
    "command",
    [
        ["show", "net.prototxt"],
        ["show", "net.prototxt", "--json"],
        ["show", "net.prototxt", "--html"],
        ["lint", "net.prototxt"],
        ["diff", "net.prototxt", "other.prototxt"],
        ["layers"],
        ["edit", "net.prototxt", "name=x", "-o", "-"],
    ],
    ids=lambda words: "-".join(words).replace(".prototxt", ""),
)
def test_readers_that_go(command: list[str], tmp_path: Path) -> None:
    """`caffeio ... | head -0` ends in silence, with the code of SIGPIPE."""
    layers = [f'layer {{ name: "{i}" type: "Nothing" bottom: "d" top: "{i}" }}' for i in range(99)]
    (tmp_path / "net.prototxt").write_text(NET + "\n".join(layers))
    (tmp_path / "other.prototxt").write_text(NET)
    read, write = os.pipe()
    os.close(read)
    try:
        ended = run(*command, cwd=tmp_path, stdout=write)
    finally:
        os.close(write)
    assert ended.code == 141, ended
    assert "Traceback" not in ended.err and "Error" not in ended.err


@pytest.mark.parametrize("command", [["--help"], ["show", "--help"], ["--version"]], ids=" ".join)
def test_help_that_nobody_can_read(command: list[str], tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        assert run(*command, cwd=tmp_path, stdout=write).code == 141
        assert "No space left" in one_error(run(*command, cwd=tmp_path, stdout=full))
        for broken in (write, full):
            ended = run("nothing", cwd=tmp_path, stdout=broken, stderr=broken)
            assert ended.code in (2, 141) and not ended.text
    finally:
        os.close(write)
        os.close(full)


def test_programs_of_layers_with_names_that_torch_cannot_read_back(tmp_path: Path) -> None:
    """torch.export writes any name of a module, and fails on its own brackets and commas."""
    text = 'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 3 } } }\n'
    bottom = "d"
    for number, name in enumerate(
        ("a\\033[31m", "a\\033(31m", "fc[1], x;y", "\\342\\200\\256", "ip/1x1")
    ):
        text += f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "t{number}" '
        text += "inner_product_param { num_output: 2 weight_filler { type: 'xavier' } } }\n"
        bottom = f"t{number}"
    (tmp_path / "net.prototxt").write_text(text)
    ended = check(run("convert", "net.prototxt", "o.pt2", "--untrained", cwd=tmp_path))
    assert ended.code == 0, ended
