"""Batches of real Caffe, bit for bit: golden/data, golden/random/data, the fork's transforms."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from caffeio.data import SOURCE_TYPES
from caffeio.profiles import INTEL
from tests.data.helpers import make_source, net
from tests.paths import GOLDEN

CASES = sorted((GOLDEN / "data" / "cases").glob("*.prototxt"))
RANDOM = sorted((GOLDEN / "random" / "data").glob("*.prototxt"))
LAYERS = [p for kind in ("Data", "ImageData", "HDF5Data", "WindowData")
          for p in sorted((GOLDEN / "layers" / kind).glob("*.prototxt"))]  # fmt: skip
TRANSFORMS = GOLDEN / "fork" / "transforms"
MANIFEST = json.loads((TRANSFORMS / "manifest.json").read_text())


def compare(path: Path, folder: Path, key: str, threads: int, **options: bool) -> None:
    param = next(p for p in reversed(net(path).layer) if p.type in SOURCE_TYPES)
    if param.type == "Data" and param.data_param.backend == 0:
        pytest.importorskip("plyvel")
    with np.load(path.with_suffix(".npz")) as file:
        want = {name: file[name] for name in file.files}
    seed = int(want["random_seed"]) if "random_seed" in want else None
    with make_source(
        param,
        phase=str(want["phase"]),
        seed=seed,
        search_path=[str(folder)],
        threads=threads,
        **options,
    ) as source:
        for number in range(int(want["passes"])):
            tops = source.next()
            for name, top in zip(param.top, tops, strict=True):
                value = want[key.format(number=number) + name] if number or seed is not None else (
                    want["out/" + name])  # fmt: skip
                assert np.array_equal(top.numpy(), value), f"{name}, batch {number}"


def test_all_cases_are_here() -> None:
    assert (len(CASES), len(RANDOM), len(MANIFEST)) == (33, 9, 18)


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
@pytest.mark.parametrize("threads", [0, 3])
def test_data(path: Path, threads: int) -> None:
    compare(path, GOLDEN / "data", "pass{number}/out/", threads)


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_data_with_channels_last(path: Path) -> None:
    compare(path, GOLDEN / "data", "pass{number}/out/", 1, channels_last=True)


@pytest.mark.parametrize("path", RANDOM, ids=lambda p: p.stem)
@pytest.mark.parametrize("threads", [0, 3])
def test_random_data(path: Path, threads: int) -> None:
    compare(path, GOLDEN / "random", "pass{number}/", threads)


@pytest.mark.parametrize("path", LAYERS, ids=lambda p: p.stem)
def test_layers(path: Path) -> None:
    compare(path, path.parent, "pass{number}/out/", 1)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("name", MANIFEST)
def test_transforms_of_the_fork(name: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr("caffeio.data.transform.cubic.kernels", lambda: None)
        monkeypatch.setattr("caffeio.data.transform.normalize.loaded_kernels", lambda: None)
    elif "cubic" in name:
        pytest.importorskip("numba")
    param = net(TRANSFORMS / "nets" / f"{name}.prototxt").layer[0]
    with make_source(param, phase="TEST", profile=INTEL, search_path=[str(TRANSFORMS)]) as source:
        data = source.next()[0].numpy()
    found = [hashlib.sha256(np.ascontiguousarray(row).tobytes()).hexdigest() for row in data]
    assert list(data.shape) == MANIFEST[name]["shape"]
    assert found == MANIFEST[name]["sha256_float32"]


@pytest.mark.parametrize("name", ["cubic_64_crop56", "gray_cubic_64_crop56", "crop_only_96"])
def test_channels_last_has_the_same_numbers(name: str) -> None:
    param = net(TRANSFORMS / "nets" / f"{name}.prototxt").layer[0]
    with make_source(
        param, phase="TEST", profile=INTEL, search_path=[str(TRANSFORMS)], channels_last=True
    ) as source:
        data = source.next()[0]
    import torch

    assert data.is_contiguous(memory_format=torch.channels_last)
    found = [
        hashlib.sha256(np.ascontiguousarray(row).tobytes()).hexdigest() for row in data.numpy()
    ]
    assert found == MANIFEST[name]["sha256_float32"]


def test_decoded_pixels() -> None:
    from caffeio.data.db.lmdb import LmdbDatabase
    from caffeio.data.records.datum import scan_datum
    from caffeio.data.transform.image import decode

    facts = json.loads((TRANSFORMS / "images.json").read_text())
    want = {fact["decoded_bgr_sha256"] for fact in facts.values()}
    db = LmdbDatabase(str(TRANSFORMS / "data" / "jpeg_lmdb"))
    found = set()
    for key in list(db.iter_keys()):
        image = decode(scan_datum(db.get(bytes(key))).data)
        found.add(hashlib.sha256(image.tobytes()).hexdigest())
    db.close()
    assert found <= want
    assert len(found) == 13
