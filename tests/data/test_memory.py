"""MemoryData and DummyData."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caffeio.boost_random import CaffeRng
from caffeio.data import MemorySource
from caffeio.errors import DataError
from caffeio.layers import lookup
from caffeio.layers.sources import usual_shapes
from tests.data.helpers import layer, make_source, photo
from tests.paths import GOLDEN


def memory(more: str = "", batch: int = 2) -> MemorySource:
    source = make_source(layer(
        f'name: "m" type: "MemoryData" top: "data" top: "label" {more} memory_data_param '
        f"{{ batch_size: {batch} channels: 3 height: 4 width: 5 }}"
    ))  # fmt: skip
    assert isinstance(source, MemorySource)
    return source


def test_golden() -> None:
    folder = GOLDEN / "layers" / "MemoryData"
    from tests.data.helpers import net

    source = make_source(net(folder / "two_batches.prototxt").layer[0])
    assert isinstance(source, MemorySource)
    with np.load(folder / "two_batches.npz") as file:
        source.reset(file["memory/data"], file["memory/label"])
        for k in range(int(file["passes"])):
            prefix = f"pass{k}/" if k else ""
            for name, top in zip(("data", "label"), source.next(), strict=True):
                assert np.array_equal(top.numpy(), file[f"{prefix}out/{name}"])


def test_refusals() -> None:
    source = memory()
    with pytest.raises(DataError, match="no data yet"):
        source.next()
    good = np.zeros((4, 3, 4, 5), np.float32)
    for data, labels, message in (
        (good[:3], np.zeros(3), "multiple of batch_size"), (good, np.zeros(3), "4 data but 3"),
        (good[..., :4], np.zeros(4), "expected"), (good[:0], np.zeros(0), "multiple"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            source.reset(data, labels)
    with pytest.raises(DataError, match=r"memory_data_param\.width"):
        make_source(layer('name: "m" type: "MemoryData" top: "d" top: "l" '
                          "memory_data_param { batch_size: 1 channels: 1 height: 1 }"))  # fmt: skip


def test_images_are_transformed_and_used_up() -> None:
    source = memory("transform_param { scale: 0.5 mean_value: 10 crop_size: 0 }")
    images = [photo(i, 4, 5) for i in range(4)]
    source.add_images(images, [3, 1, 4, 1])
    with pytest.raises(DataError, match="until all present ones are used"):
        source.add_images(images, [0] * 4)
    data, labels = source.next()
    want = (images[1].transpose(2, 0, 1).astype(np.float32) - 10) * np.float32(0.5)
    assert np.array_equal(data[1].numpy(), want)
    assert labels.flatten().tolist() == [3, 1]
    source.next()
    source.add_images(images, [0] * 4)
    with pytest.raises(DataError, match="an image becomes"):
        memory().add_images([photo(0, 5, 5)] * 2, [0, 0])


def test_dummy_constants_are_made_once_and_numbers_anew() -> None:
    param = layer(
        'name: "x" type: "DummyData" top: "a" top: "b" dummy_data_param { shape { dim: 2 dim: 3 } '
        'shape { dim: 4 } data_filler { value: 2 } data_filler { type: "uniform" } }'
    )
    source = make_source(param)
    first, second = source.next(), source.next()
    assert first[0] is second[0]
    assert (first[0] == 2).all()
    assert not torch.equal(first[1], second[1])
    rng, mine = CaffeRng(3), CaffeRng(3)
    source.draw_setup(mine)
    for _ in range(2):
        assert source.next()[1].tolist() == rng.uniform(0, 1, 4).tolist()


def test_dummy_legacy_sizes_and_errors() -> None:
    text = 'name: "x" type: "DummyData" top: "a" top: "b" dummy_data_param {{ {} }}'
    old = "num: 2 num: 4 channels: 3 height: 1 width: 5"
    assert make_source(layer(text.format(old))).top_shapes == [(2, 3, 1, 5), (4, 3, 1, 5)]
    for bad in ("num: 2", "shape { dim: 1 } shape { dim: 1 } shape { dim: 1 }"):
        with pytest.raises(DataError, match="given once, or for each"):
            make_source(layer(text.format(bad)))
    three = "shape { dim: 1 } " + "data_filler { } " * 3
    with pytest.raises(DataError, match="data_filler"):
        make_source(layer(text.format(three)))
    unknown = 'shape { dim: 1 } data_filler { type: "nope" }'
    with pytest.raises(Exception, match="nope"):
        make_source(layer(text.format(unknown))).next()


def test_shapes_are_guessed_without_data() -> None:
    def guess(text: str) -> list[tuple[int, ...]]:
        param = layer('name: "x" top: "data" top: "label" ' + text)
        return list(usual_shapes(param, lookup(param.type, "x")))

    crop = "transform_param { crop_size: 224 mean_value: 1 mean_value: 2 mean_value: 3 }"
    assert guess(f'type: "Data" data_param {{ batch_size: 8 }} {crop}') == [(8, 3, 224, 224), (8,)]
    gray = 'type: "Data" data_param { batch_size: 8 } transform_param { force_gray: true }'
    assert guess(gray)[0] == (8, 1, 227, 227)
    sized = 'type: "ImageData" image_data_param { new_height: 6 new_width: 7 is_color: false }'
    assert guess(sized) == [(1, 1, 6, 7), (1,)]
    ssd = "transform_param { resize_param { height: 300 width: 300 } }"
    assert guess(f'type: "AnnotatedData" data_param {{ batch_size: 2 }} {ssd}') == [
        (2, 3, 300, 300), (1, 1, 1, 8),
    ]  # fmt: skip
    small = "transform_param { crop_size: 9 }"
    assert guess(f'type: "WindowData" window_data_param {{ batch_size: 5 }} {small}') == [
        (5, 3, 9, 9), (5,),
    ]  # fmt: skip
    assert guess('type: "HDF5Data" hdf5_data_param { batch_size: 5 }') == [(5, 1), (5, 1)]
