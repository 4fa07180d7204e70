"""NVIDIA's batches, which several workers share; those of other Caffes are each worker's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffeio.errors import NetError
from caffeio.net.recipe import NetRecipe
from caffeio.net.worker_batch import FIELDS, share_batches
from caffeio.profiles import PROFILES
from caffeio.proto.files import read_net

TYPES = ("Data", "HDF5Data", "ImageData", "MemoryData", "WindowData")
NET = "".join(
    f'layer {{ name: "{kind}" type: "{kind}" top: "{kind}" {field} {{ batch_size: 12 }} }}\n'
    for kind, field in zip(TYPES, FIELDS, strict=True)
)
MORE = """
layer { name: "unset" type: "Data" top: "unset" data_param { source: "db" } }
layer { name: "train" type: "Data" top: "t" include { phase: TRAIN } data_param { batch_size: 7 } }
layer { name: "in" type: "Input" top: "in" input_param { shape { dim: 12 dim: 3 } } }
layer { name: "dummy" type: "DummyData" top: "d" dummy_data_param { shape { dim: 12 } } }
"""


def recipe(folder: Path, profile: str, phase: str = "TEST", text: str = NET + MORE) -> NetRecipe:
    path = folder / "net.prototxt"
    path.write_text(text)
    return NetRecipe.of_file(read_net(path), phase=phase, profile=profile)


def test_each_worker_takes_its_part(tmp_path: Path) -> None:
    """Of the five fields that say one, in layers that take part; the net as read stays."""
    whole = recipe(tmp_path, "nvidia")
    text = str(whole.message)
    part = share_batches(whole, 4)
    layers = {layer.name: layer for layer in part.message.layer}
    assert [getattr(layers[n], f).batch_size for n, f in zip(TYPES, FIELDS, strict=True)] == [3] * 5
    assert not layers["unset"].data_param.HasField("batch_size")
    assert layers["train"].data_param.batch_size == 7
    assert list(layers["in"].input_param.shape[0].dim) == [12, 3]
    assert list(layers["dummy"].dummy_data_param.shape[0].dim) == [12]
    assert str(whole.message) == text
    assert share_batches(whole, 1) is whole


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != "nvidia"])
def test_a_batch_is_each_workers_own_elsewhere(profile: str, tmp_path: Path) -> None:
    whole = recipe(tmp_path, profile)
    assert share_batches(whole, 5) is whole


@pytest.mark.parametrize(("phase", "workers", "line"), [("TRAIN", 2, 8), ("TEST", 5, 1)])
def test_what_cannot_be_shared_is_named(
    phase: str, workers: int, line: int, tmp_path: Path
) -> None:
    total = {8: "7 is", 1: "12 is"}[line]
    with pytest.raises(NetError) as error:
        share_batches(recipe(tmp_path, "nvidia", phase), workers)
    text = str(error.value)
    assert f"net.prototxt:{line}:1: layer" in text
    assert f"data_param.batch_size {total} the batch of all workers together" in text
    assert f"{workers} workers cannot share it evenly" in text


def test_a_batch_smaller_than_the_workers(tmp_path: Path) -> None:
    with pytest.raises(NetError, match="give 16, or another number of workers"):
        share_batches(recipe(tmp_path, "nvidia", text=NET), 16)
