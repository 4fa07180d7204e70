"""What is fuzzed: each target reads bytes as a kind of file, and may fail in one way only.

A target raises nothing but CaffeIOError, ends soon, and holds arrays no larger than what the bytes
hold (`check_sizes`). `run.py` feeds it; `test_fuzz.py` replays what was found.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import numpy as np

from caffeio.converters import safetensors
from caffeio.converters.from_onnx.compile import compile_model
from caffeio.converters.from_onnx.load import load_model
from caffeio.converters.onnx.build import build
from caffeio.converters.onnx.export import to_model
from caffeio.data.db.lmdb import LmdbDatabase, _checked
from caffeio.data.db.lmdb_pages import check_lmdb
from caffeio.errors import CaffeIOError
from caffeio.net import load_net
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.dialect.dialect import decode, detect, encode
from caffeio.proto.files import decode_text, read_net
from caffeio.proto.io import mapped
from caffeio.proto.io.mapped import HDF5_SIGNATURE, foreign
from caffeio.proto.text.text_format import format_message, parse
from caffeio.proto.weights.blobproto import read_blobproto
from caffeio.proto.weights.hdf5_reader import Dataset, ExoticError, Hdf5Group, read_tree
from caffeio.proto.weights.load import Weights, load_weights
from caffeio.proto.weights.npz import read as read_npz
from caffeio.proto.weights.solverstate import read_solverstate
from tests.paths import GOLDEN

_FOLDER = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


_INPUT = (
    'layer { name: "d" type: "Input" top: "d" '
    "input_param { shape { dim: 1 dim: 2 dim: 6 dim: 6 } } }\n"
)
_CONV = (
    'layer { name: "c" type: "Convolution" bottom: "d" top: "c" '
    "convolution_param { num_output: 2 kernel_size: 3 } }\n"
)
_POOL = (
    'layer { name: "p" type: "Pooling" bottom: "d" top: "p" pooling_param { kernel_size: 2 } }\n'
    'layer { name: "s" type: "Softmax" bottom: "p" top: "s" }\n'
)
_PRODUCT = (
    'layer { name: "i" type: "InnerProduct" bottom: "d" top: "i" '
    "inner_product_param { num_output: 2 } }\n"
)
_NETS = (_CONV + 'layer { name: "r" type: "ReLU" bottom: "c" top: "c" }\n', _POOL, _PRODUCT)


def put(data: bytes) -> Path:
    """The data as a file."""
    path = _FOLDER / f"{os.getpid()}.bin"
    path.unlink(missing_ok=True)  # a map of the last one may still be alive
    path.write_bytes(data)
    return path


def check_sizes(arrays: Iterable[np.ndarray], data: bytes) -> None:
    """No array has memory of its own beyond what the file holds."""
    own = sum(array.nbytes for array in arrays)
    assert own <= len(data), f"{own} bytes of arrays from {len(data)} bytes"


def _walk(weights: Weights, data: bytes) -> None:
    arrays = []
    for index in range(len(weights.layers)):
        try:
            arrays += weights.arrays(index)
            arrays += [a for a in weights.diff_arrays(index) if a is not None]
        except CaffeIOError:
            continue
    check_sizes(arrays, data)
    assert all(isinstance(name, str) for name in weights)


def weights(data: bytes) -> None:
    """A binary caffemodel."""
    if data[:8] != HDF5_SIGNATURE:
        opened = mapped.open_map
        mapped.open_map = lambda path: memoryview(data)  # files cost more than the reading
        try:
            found = load_weights("memory.caffemodel")
        finally:
            mapped.open_map = opened
        _walk(found, data)


def solverstate(data: bytes) -> None:
    """A binary solver state."""
    if data[:8] != HDF5_SIGNATURE:
        check_sizes(read_solverstate(put(data)).history, data)


def blobproto(data: bytes) -> None:
    """A mean file."""
    check_sizes([read_blobproto(put(data))], data)


def hdf5(data: bytes) -> None:
    """HDF5, by the reader of ours; h5py, which reads rarer kinds, is C and not fuzzed here."""
    try:
        tree = read_tree(data)
    except ExoticError:
        return
    for dataset in _datasets(tree):
        size = int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize
        assert dataset.offset == -1 or 0 <= dataset.offset <= len(data) - size
    path = put(data)
    for read in (lambda: _walk(load_weights(path), data), lambda: read_solverstate(path)):
        try:
            read()
        except CaffeIOError:
            continue


def _datasets(group: Hdf5Group) -> list[Dataset]:
    out = []
    for member in group.members.values():
        out += [member] if isinstance(member, Dataset) else _datasets(member)
    return out


def tensors(data: bytes) -> None:
    """A safetensors file."""
    _walk(safetensors.read(put(data)), data)


def npz(data: bytes) -> None:
    """A NumPy archive of weights; its arrays may be packed, so their sizes are not the file's."""
    weights = read_npz(put(data))
    assert all(weights.arrays(i) is not None for i in range(len(weights.layers)))


def onnx(data: bytes) -> None:
    """An ONNX model on its way to Caffe's layers."""
    path = put(data).rename(_FOLDER / f"{os.getpid()}.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, on numbers that no model has
        compile_model(load_model(path), where="x")


def sniff(data: bytes) -> None:
    """The guess at what a file is."""
    foreign(data)


def text(data: bytes) -> None:
    """A prototxt: read with its upgrades as a net and as a solver, and printed again."""
    content = decode_text(data)
    for kind in (pb.NetParameter, pb.SolverParameter):
        try:
            parsed = parse(content, kind)
        except CaffeIOError:
            continue
        assert len(format_message(parsed.message)) <= 100 * (len(content) + 100)
    read_net(content + "\n")


def nets(data: bytes) -> None:
    """A binary net: its dialect is found, it is decoded, and encoded again."""
    found = detect(data)
    decoded = decode(data, "NetParameter", found.dialect)
    encode(decoded.message, found.dialect, unknown=decoded.unknown, lost=[])


def lmdb(data: bytes) -> None:
    """The walk over an LMDB's pages; what it calls good is read by LMDB itself."""
    path = put(data)
    try:
        check_lmdb(str(path), "x")
        db = LmdbDatabase(str(path), may_be_empty=True)
    finally:
        _checked.clear()
    for _, value in db.records():
        bytes(value)
    db.close()


TARGETS: dict[str, tuple[Callable[[bytes], None], tuple[str, ...]]] = {
    "weights": (weights, ("nets/*/*.caffemodel", "logs/upgrade/*.caffemodel")),
    "solverstate": (solverstate, ("solvers/*/*.solverstate", "fork/lr/*/*.solverstate")),
    "blobproto": (blobproto, ("data/*/*.binaryproto", "layers/InfogainLoss/assets/*.binaryproto")),
    "hdf5": (hdf5, ("nets/siamese_shared/*.h5", "solvers/hdf5_shared/*.h5")),
    "lmdb": (lmdb, ("data/db/raw_*/data.mdb", "solvers/lmdb/data.mdb")),
    "tensors": (tensors, ()),
    "npz": (npz, ()),
    "onnx": (onnx, ()),
    "sniff": (sniff, ("solvers/sgd_fixed/*.prototxt",)),
    "text": (text, ("solvers/*/*.prototxt", "layers/*/*.prototxt", "nets/*/net.prototxt")),
    "nets": (nets, ("nets/*/*.caffemodel", "logs/upgrade/*.caffemodel")),
}


def run_one(target: Callable[[bytes], None], data: bytes) -> None:
    """Run a target; a user's error is a good end."""
    try:
        target(data)
    except CaffeIOError as error:
        assert str(error)


def good_files(name: str) -> list[bytes]:
    """Files that the target reads without an error."""
    good = [p.read_bytes() for pattern in TARGETS[name][1] for p in sorted(GOLDEN.glob(pattern))]
    if name == "tensors":
        path = _FOLDER / "seed"
        safetensors.write(path, {"a": [np.ones((2, 3), np.float32), np.zeros(2)], "b": []})
        good.append(path.read_bytes())
    if name == "npz":
        path = _FOLDER / "seed.npz"
        np.savez(path, **{"a.0": np.ones((2, 3), np.float32), "a.1": np.zeros(2)})
        good.append(path.read_bytes())
    if name == "onnx":
        good += _models()
    if name in ("nets", "weights"):
        good += _layers()
    return good


@cache
def _layers() -> tuple[bytes, ...]:
    """Nets of one layer each, with the first values of its blobs: short, so that they run fast."""
    out = set()
    for path in sorted(GOLDEN.glob("nets/*/*.caffemodel")):
        for layer in pb.NetParameter.FromString(path.read_bytes()).layer:
            for blob in layer.blobs:
                count = min(len(blob.data), 3)
                del blob.data[count:], blob.diff[:]
                blob.shape.dim[:] = [count]
            out.add(pb.NetParameter(layer=[layer]).SerializeToString())
    return tuple(sorted(out, key=len))[:60]


@cache
def _models() -> tuple[bytes, ...]:
    """ONNX models of some nets."""
    out = []
    for net in _NETS:
        made = load_net(_INPUT + net)
        out.append(to_model(build(made), made).SerializeToString())
    return tuple(out)


def seeds(name: str) -> list[bytes]:
    """What mutations begin with: good files, and the cases found so far."""
    corpus = Path(__file__).parent / "corpus" / name
    return good_files(name) + [p.read_bytes() for p in sorted(corpus.glob("*"))]
