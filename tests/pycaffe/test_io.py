"""caffe.io: blobs, datums, images."""

from __future__ import annotations

import io as standard_io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from caffeio.pycaffe import io
from caffeio.pycaffe._resize import scipy_zoom, skimage_resize
from caffeio.pycaffe.proto import caffe_pb2
from tests.paths import GOLDEN

FOLDER = GOLDEN / "pycaffe"
IMAGES = sorted((FOLDER / "images").iterdir())


@pytest.fixture(scope="module")
def golden() -> Any:
    return np.load(FOLDER / "io.npz")


FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


@given(arrays(np.float32, array_shapes(min_dims=0, max_dims=5), elements=FLOATS))
def test_blobs_both_ways(array: np.ndarray) -> None:
    blob = io.array_to_blobproto(array, diff=2 * array)
    assert list(blob.shape.dim) == list(array.shape) and not blob.HasField("num")
    back = io.blobproto_to_array(blob)
    assert back.dtype == np.float64 and back.shape == array.shape
    np.testing.assert_array_equal(back, array)
    np.testing.assert_array_equal(io.blobproto_to_array(blob, return_diff=True), 2 * array)
    [again] = io.blobprotovector_str_to_arraylist(io.arraylist_to_blobprotovector_str([array]))
    np.testing.assert_array_equal(again, array)


def test_shapes_of_blobs() -> None:
    blob = caffe_pb2.BlobProto(data=range(6))
    with pytest.raises(ValueError, match="reshape"):
        io.blobproto_to_array(blob)
    blob.shape.dim.extend([3, 2])
    assert io.blobproto_to_array(blob).shape == (3, 2)
    blob.num, blob.channels, blob.height, blob.width = 1, 1, 2, 3
    assert io.blobproto_to_array(blob).shape == (1, 1, 2, 3)  # the old form goes first
    assert io.blobproto_to_array(caffe_pb2.BlobProto(data=[123])) == 123
    only_num = caffe_pb2.BlobProto(num=6, data=range(6))
    with pytest.raises(ValueError, match="reshape"):
        io.blobproto_to_array(only_num)


def test_datums() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    datum = io.array_to_datum(pixels, label=np.int64(7))
    assert (datum.channels, datum.height, datum.width, datum.label) == (2, 3, 4, 7)
    assert datum.data == pixels.tobytes() and not datum.float_data
    back = io.datum_to_array(datum)
    np.testing.assert_array_equal(back, pixels)
    back[:] = 0  # a copy of its own
    floats = io.array_to_datum(pixels.astype(np.int32))
    assert not floats.data and not floats.HasField("label")
    assert io.datum_to_array(floats).dtype == np.float64
    np.testing.assert_array_equal(io.datum_to_array(floats), pixels)
    with pytest.raises(ValueError, match=r"^Incorrect array shape\.$"):
        io.array_to_datum(pixels[0])
    with pytest.raises(TypeError):
        io.array_to_datum(pixels, label=1.5)
    strided = io.array_to_datum(pixels.transpose(2, 0, 1)[::2])
    np.testing.assert_array_equal(io.datum_to_array(strided), pixels.transpose(2, 0, 1)[::2])


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
@pytest.mark.parametrize("color", [True, False])
def test_load_image(golden: Any, path: Path, color: bool) -> None:
    image = io.load_image(str(path), color)
    # scikit-image 0.14 drops transparency before it makes grey, today's blends with white
    name = "rgb.png" if path.name == "rgba.png" and not color else path.name
    wanted = golden[f"load/{name}/{color}"]
    assert image.dtype == np.float32 and image.shape == wanted.shape
    # one last bit of float32: scikit-image multiplies by 1/255, in single or in double
    np.testing.assert_allclose(image, wanted, rtol=1.2e-7, atol=6e-8)
    with open(path, "rb") as file:
        np.testing.assert_array_equal(io.load_image(file, color=color), image)
    data = standard_io.BytesIO(path.read_bytes())
    np.testing.assert_array_equal(io.load_image(data, color=color), image)


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        io.load_image(tmp_path / "none.png")
    for content in (b"", b"no image"):
        (tmp_path / "x.png").write_bytes(content)
        with pytest.raises(OSError, match=r"cannot identify image file .*x\.png"):
            io.load_image(tmp_path / "x.png")


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_resize_image(golden: Any, dtype: str) -> None:
    for number, size in enumerate(golden["cases"]):
        image = golden[f"resize/{number}/{dtype}/in"]
        before = image.copy()
        wanted = golden[f"resize/{number}/{dtype}/out"]
        found = io.resize_image(image, size)
        assert found.dtype == np.float32
        # values up to 255 in float32, sums in double: some last bits; uint8 of many channels is
        # rounded, and half a step may fall to either side
        atol = 1.0 if dtype == "uint8" and image.shape[-1] not in (1, 3) else 5e-5
        np.testing.assert_allclose(found, wanted, rtol=0, atol=atol, err_msg=f"case {number}")
        assert np.mean(np.abs(found - wanted) > 5e-5) < 0.01
        np.testing.assert_array_equal(image, before)


def test_resizing_by_hand() -> None:
    """The border mixes with 0; anti-aliasing would give other numbers for the smaller image."""
    image = np.array([[0.0, 1.0, 1.0, 0.5]])[..., None]
    wide = skimage_resize(image, 1, 8, 1)[0, :, 0]
    np.testing.assert_allclose(wide, [0, 0.25, 0.75, 1, 1, 0.875, 0.625, 0.375])
    small = skimage_resize(image, 1, 2, 1)[0, :, 0]
    np.testing.assert_allclose(small, [0.5, 0.75])
    np.testing.assert_array_equal(skimage_resize(image, 1, 2, 0)[0, :, 0], [1, 0.5])
    zoomed = scipy_zoom(image, 1, 7, 1)[0, :, 0]
    np.testing.assert_allclose(zoomed, [0, 0.5, 1, 1, 1, 0.75, 0.5])
    cubic = skimage_resize(image, 1, 8, 3)[0, :, 0]
    assert cubic.max() == 1  # clipped to the image's range
    np.testing.assert_allclose(cubic[2], 0.796875)  # a quarter before pixel 1, by hand
    for order in (2, 4, 5):
        with pytest.raises(NotImplementedError, match=f"interp_order {order}"):
            skimage_resize(image, 2, 2, order)
        with pytest.raises(NotImplementedError, match=f"interp_order {order}"):
            scipy_zoom(image, 2, 2, order)


def test_constant_images_and_other_orders() -> None:
    flat = np.full((3, 4, 3), 7, np.uint8)
    np.testing.assert_array_equal(io.resize_image(flat, (5, 5)), np.full((5, 5, 3), 7, np.float32))
    ramp = np.arange(12.0).reshape(3, 4, 1)
    near = io.resize_image(ramp, (6, 8), interp_order=0)
    np.testing.assert_array_equal(near, np.repeat(np.repeat(ramp, 2, 0), 2, 1))


def test_oversample(golden: Any) -> None:
    images, wanted = golden["oversample/in"], golden["oversample/out"]
    np.testing.assert_array_equal(io.oversample(images, (6, 9)), wanted)
    np.testing.assert_array_equal(io.oversample(list(images), np.array([6, 9])), wanted)


def transformer() -> io.Transformer:
    made = io.Transformer({"data": (2, 3, 11, 12)})
    made.set_transpose("data", (2, 0, 1))
    return made


def test_transformer(golden: Any) -> None:
    t = transformer()
    t.set_channel_swap("data", (2, 1, 0))
    t.set_raw_scale("data", 255)
    t.set_input_scale("data", 0.017)
    t.set_mean("data", golden["tr/mean"])
    np.testing.assert_allclose(t.mean["data"], golden["tr/mean_used"], rtol=1e-6)
    out = t.preprocess("data", golden["tr/in"])
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, golden["tr/out"], rtol=1e-5, atol=1e-5)
    back = t.deprocess("data", golden["tr/out"][None])
    np.testing.assert_allclose(back, golden["tr/back"], rtol=1e-6, atol=1e-6)
    plain = transformer()
    plain.set_mean("data", np.array([104.0, 117.0, 123.0]))
    found = plain.preprocess("data", golden["tr2/in"])
    np.testing.assert_allclose(found, golden["tr2/out"], rtol=1e-5, atol=5e-5)


def test_preprocess_works_in_place_as_pycaffe_s() -> None:
    t = transformer()
    t.set_raw_scale("data", 2)
    image = np.ones((11, 12, 3), np.float32)
    out = t.preprocess("data", image)
    assert image[0, 0, 0] == 2 and np.shares_memory(out, image)
    t.set_channel_swap("data", (2, 1, 0))
    t.preprocess("data", image)
    assert image[0, 0, 0] == 2  # swapped channels are a copy
    listed = io.Transformer({"data": [2, 3, 11, 12]})  # a list never equals the image's shape
    assert not np.shares_memory(listed.preprocess("data", image), image)


def test_what_transformers_refuse() -> None:
    t = transformer()
    with pytest.raises(Exception, match=r"^nope is not one of the net inputs: {'data'"):
        t.preprocess("nope", np.zeros((1, 1, 3)))
    with pytest.raises(Exception, match=r"^Transpose order needs to have the same number of dim"):
        t.set_transpose("data", (1, 0))
    with pytest.raises(Exception, match=r"^Channel swap needs to have the same number of dim"):
        t.set_channel_swap("data", (1, 0))
    with pytest.raises(ValueError, match=r"^Mean channels incompatible with input\.$"):
        t.set_mean("data", np.zeros(4))
    with pytest.raises(ValueError, match=r"^Mean shape invalid$"):
        t.set_mean("data", np.zeros((1, 3, 11, 12)))
    same = np.zeros((3, 11, 12))
    t.set_mean("data", same)
    assert t.mean["data"] is same
    gray = io.Transformer({"data": (1, 1, 4, 5)})
    gray.set_mean("data", np.ones((4, 5)))
    assert gray.mean["data"].shape == (4, 5)
