"""Weights, states and data in formats of others that were made to hurt: one message each."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from caffeio.errors import WeightsError
from caffeio.proto.weights import npz, safetensors
from tests.reliability.forked import check, one_error, run

NET = """layer { name: "d" type: "HDF5Data" top: "data" top: "label"
  hdf5_data_param { source: "d.txt" batch_size: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def npy(kind: str, shape: str = "(2,)") -> bytes:
    told = kind if kind.startswith("[") else repr(kind)
    head = f"{{'descr':{told},'fortran_order':False,'shape':{shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(40)


@pytest.mark.parametrize(
    "kind", ["<M8[ns]", "<m8[s]", "V8", "|S0", "|S4", "<U4", "<c8", "[('a','<f4')]", "|O"]
)
def test_arrays_that_are_no_real_numbers(kind: str) -> None:
    with zipfile.ZipFile("a.npz", "w") as archive:
        archive.writestr("ip.0.npy", npy(kind))
    Path("a.npy").write_bytes(npy(kind))
    with pytest.raises(WeightsError, match=r"a\.npz"):
        npz.read("a.npz")
    for command in (["show", "a.npz"], ["convert", "a.npz", "o.h5"],
                    ["convert", "a.npy", "o.binaryproto"]):  # fmt: skip
        one_error(run(*command), command[1])
    assert not list(Path().glob("o.*"))


def write_tensors(header: bytes, size: int = 16) -> None:
    Path("a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))


def tensor(first: int, last: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": [(last - first) // 4], "data_offsets": [first, last]}


@pytest.mark.parametrize("size", [12, 16, 1000])
def test_tensors_that_overlap(size: int) -> None:
    write_tensors(json.dumps({"a.0": tensor(0, 8), "a.1": tensor(4, 12)}).encode(), size)
    with pytest.raises(WeightsError, match=r"tensors 'a\.0' and 'a\.1' overlap"):
        safetensors.read("a.safetensors")


def test_tensors_side_by_side_in_any_order_do_not_overlap() -> None:
    held = {"b": tensor(8, 16), "empty": tensor(4, 4), "a": tensor(0, 8)}
    write_tensors(json.dumps(held).encode())
    assert set(safetensors.read("a.safetensors")) == {"a", "b", "empty"}


@pytest.mark.parametrize("where", ["name", "net"])
def test_names_that_are_not_unicode(where: str) -> None:
    told = json.dumps({"layers": [], "net": "\ud800"}) if where == "net" else "{}"
    name = "\ud800.0" if where == "name" else "a.0"
    write_tensors(json.dumps({"__metadata__": {"caffeio": told}, name: tensor(0, 8)}).encode())
    for suffix in ("npz", "pt", "h5"):
        one_error(run("convert", "a.safetensors", f"o.{suffix}"), "not Unicode")


Fill = Callable[[h5py.File], None]


def links(file: h5py.File) -> None:
    file["data"] = h5py.ExternalLink("/etc/passwd", "x")
    file["label"] = h5py.SoftLink("/label")


def groups(file: h5py.File) -> None:
    file.create_group("data/a")
    file.create_group("label")


def records(file: h5py.File) -> None:
    file["data"] = np.zeros(4, [("a", "f4"), ("b", "S3")])
    file.create_dataset("label", (4,), h5py.vlen_dtype(np.float32))


def nothing(file: h5py.File) -> None:
    file["data"], file["label"] = h5py.Empty("f4"), np.float32(1)


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((1 << 40, 4), "f4")
    layout[:4] = h5py.VirtualSource("/dev/zero", "x", (4, 4))
    file.create_virtual_dataset("data", layout)
    file["label"] = np.zeros((4, 1), np.float32)


@pytest.mark.parametrize("fill", [links, groups, records, nothing, virtual])
def test_hdf5_data_that_cannot_be_read(fill: Fill) -> None:
    with h5py.File("d.h5", "w") as file:
        fill(file)
    Path("d.txt").write_text("d.h5\n")
    Path("net.prototxt").write_text(NET)
    check(run("show", "net.prototxt"))
    check(run("lint", "net.prototxt"))
    one_error(run("time", "net.prototxt", "--iterations", "1"), "layer 'd'")


def test_an_archive_of_one_name_twice() -> None:
    held = io.BytesIO()
    np.save(held, np.ones(3, np.float32))
    with warnings.catch_warnings(), zipfile.ZipFile("a.npz", "w") as archive:
        warnings.simplefilter("ignore")  # that a name is there twice
        for name in ("ip.0.npy", "ip.0.npy", "../../x.0.npy", "/abs.0.npy", "\x1b[31m.0.npy"):
            archive.writestr(name, held.getvalue())
    check(run("show", "a.npz"))
    check(run("convert", "a.npz", "o.caffemodel"))
