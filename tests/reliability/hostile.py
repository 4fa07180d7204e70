"""A folder of files that lie, end early, never end, or are something else."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import zipfile
from pathlib import Path

import numpy as np

from caffeio.data.db.lmdb import write_lmdb
from caffeio.data.records.datum import encode_datum
from tests.paths import GOLDEN

NET = """
layer { name: "data" type: "Data" top: "data" top: "label"
  data_param { source: "good_lmdb" batch_size: 2 backend: LMDB } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 2 display: 1
snapshot_prefix: "snap" solver_mode: CPU"""


def records(count: int, shape: tuple[int, int, int] = (3, 4, 5)) -> list[tuple[bytes, bytes]]:
    rng = np.random.default_rng(0)
    return [
        (b"%08d" % i, encode_datum(data=rng.integers(0, 256, shape, np.uint8), label=i % 2))
        for i in range(count)
    ]


def jpeg_header(width: int, height: int) -> bytes:
    """A JPEG that claims to be of this size and holds nothing."""
    size = struct.pack(">BHHB", 8, height, width, 3)
    parts = b"".join(bytes([i, 0x11, 0]) for i in (1, 2, 3))
    frame = b"\xff\xc0" + struct.pack(">H", 2 + len(size) + len(parts)) + size + parts
    return b"\xff\xd8" + frame + b"\xff\xda\x00\x0c\x03\x01\x00\x02\x00\x03\x00\x00\x3f\x00\x00"


def _lmdbs(folder: Path) -> None:
    write_lmdb(folder / "good_lmdb", records(200))
    data = (folder / "good_lmdb" / "data.mdb").read_bytes()
    page = 4096

    def put(name: str, content: bytes) -> None:
        (folder / name).mkdir()
        (folder / name / "data.mdb").write_bytes(content)

    put("lmdb_cut_half", data[: len(data) // 2 // page * page])
    put("lmdb_cut_odd", data[: len(data) - 1000])
    put("lmdb_meta_only", data[: 2 * page])
    put("lmdb_no_bytes", b"")
    put("lmdb_foreign", b"not a database at all\n" * 1000)
    put("lmdb_zeros", bytes(len(data)))
    for name, at, value in (
        ("lmdb_wild_root", 16 + 24 + 48 + 40, b"\xff\xff\xff\x00"),  # of the first meta page
        ("lmdb_deep", 16 + 24 + 48 + 6, b"\xff\x7f"),
    ):
        broken = bytearray(data)
        for meta in (0, page):
            broken[meta + at : meta + at + len(value)] = value
        put(name, bytes(broken))
    for number in range(2, min(6, len(data) // page)):
        broken = bytearray(data)
        broken[number * page + 10 : number * page + 16] = b"\x01\x00\xf0\xff\xff\x0f"
        put(f"lmdb_page{number}", bytes(broken))
    write_lmdb(folder / "lmdb_empty", [])
    write_lmdb(folder / "lmdb_words", [(b"a", b"no datum"), (b"b", b"\xff" * 30)])
    write_lmdb(folder / "lmdb_negative", [(b"a", encode_datum(data=b"abc", shape=(-1, -1, 3)))])
    bomb = encode_datum(data=jpeg_header(65500, 65500), label=0, encoded=True)
    write_lmdb(folder / "lmdb_bomb", [(b"a", bomb)])
    huge = encode_datum(data=b"abc", shape=(1 << 30, 1 << 30, 1 << 30), label=1)
    write_lmdb(folder / "lmdb_huge", [(b"a", huge)])


def _lies(folder: Path) -> None:
    """Headers that promise what is not there."""
    head = str({"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 4)}).encode()
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head) + 1) + head + b"\n" + bytes(16)
    (folder / "lie.npy").write_bytes(npy)
    with zipfile.ZipFile(folder / "lie.npz", "w") as archive:
        archive.writestr("ip.0.npy", npy)
    tensor = {"dtype": "F32", "shape": [True, 2], "data_offsets": [False, 8]}
    header = json.dumps({"a.0": tensor}).encode()
    (folder / "bools.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    head = json.dumps({"a.0": {"dtype": "F32", "shape": [1 << 62], "data_offsets": [0, 1 << 64]}})
    (folder / "huge.safetensors").write_bytes(struct.pack("<Q", len(head)) + head.encode())
    bomb = io.BytesIO()
    np.save(bomb, np.zeros(1 << 23, np.float32))
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ip.0.npy", bomb.getvalue())


def make(folder: Path) -> list[Path]:
    """Fill the folder with good files and hostile ones; the hostile ones' paths."""
    (folder / "net.prototxt").write_text(NET)
    (folder / "solver.prototxt").write_text(SOLVER)
    good = next((GOLDEN / "nets").glob("*/*.caffemodel"))
    (folder / "good.caffemodel").write_bytes(good.read_bytes())
    _lmdbs(folder)
    before = {"net.prototxt", "solver.prototxt", "good.caffemodel", "good_lmdb"}
    _lies(folder)
    os.mkfifo(folder / "fifo.prototxt")
    os.mkfifo(folder / "fifo.caffemodel")
    (folder / "zero.prototxt").symlink_to("/dev/zero")
    (folder / "random.caffemodel").symlink_to("/dev/urandom")
    (folder / "null.prototxt").symlink_to("/dev/null")
    (folder / "loop.prototxt").symlink_to("loop.prototxt")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)
        try:
            server.bind("socket.prototxt")
        finally:
            os.chdir(here)
    (folder / "empty.prototxt").write_bytes(b"")
    (folder / "empty.caffemodel").write_bytes(b"")
    (folder / "folder.prototxt").mkdir()
    (folder / "gzip.caffemodel").write_bytes(b"\x1f\x8b\x08\x00" + bytes(50))
    (folder / "half.caffemodel").write_bytes(good.read_bytes()[:-100])
    (folder / "noise.caffemodel").write_bytes(np.random.default_rng(1).bytes(5000))
    (folder / "noise.solverstate").write_bytes(np.random.default_rng(2).bytes(5000))
    (folder / "pickle.pt").write_bytes(
        b"\x80\x02cos\nsystem\nq\x00X\x04\x00\x00\x00trueq\x01\x85Rq."
    )
    (folder / "quotes.prototxt").write_text('name: "' + '\\"' * 20_000)
    (folder / "braces.prototxt").write_text("layer {" * 20_000)
    (folder / "nul.prototxt").write_bytes(b'name: "a\x00b"\n')
    (folder / "control.prototxt").write_bytes(
        b'name: "\x1b]0;owned\x07\xe2\x80\xae"\nlayer { name: "\x1b[2J" type: "\x1b[31m" }\n'
        b"fo\x1b[31mo: 3\n"
    )
    odd = os.fsencode(folder) + b"/caf\xe9\x1b[31m.prototxt"
    Path(os.fsdecode(odd)).write_text(NET)
    return sorted(p for p in folder.iterdir() if p.name not in before)
