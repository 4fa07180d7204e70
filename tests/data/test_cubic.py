"""CUBIC of a part has the bits of OpenCV's CUBIC of the whole, compiled or not; so have planes."""

from __future__ import annotations

import errno
import platform
import sys
from collections.abc import Iterator
from functools import cache
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from caffeio.data.transform import cubic
from caffeio.data.transform.cubic import ImagePart, needed
from caffeio.data.transform.image import set_ipp
from caffeio.data.transform.normalize import CropWindow, Image
from caffeio.data.transform.transformer import Transformer
from caffeio.profiles import BVLC, NVIDIA, Profile
from caffeio.proto import caffe_pb2 as pb
from tests.data.helpers import photo

X86 = platform.machine() in ("x86_64", "AMD64")


@pytest.fixture(autouse=True, scope="module")
def no_ipp() -> Iterator[None]:
    before = set_ipp(False)
    yield
    set_ipp(before)


@st.composite
def parts(draw: st.DrawFn) -> tuple[int, int, int, int, ImagePart]:
    """Height and width of an image, to what they are resized, and what of that is kept."""
    height, width = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    near = st.integers(-2, 2)  # sizes that stay, or nearly stay, take other paths in OpenCV
    to_height = draw(st.integers(1, 70) | near.map(lambda d: max(1, height + d)))
    to_width = draw(st.integers(1, 70) | near.map(lambda d: max(1, width + d)))
    y, x = draw(st.integers(0, to_height - 1)), draw(st.integers(0, to_width - 1))
    rows, columns = draw(st.integers(1, to_height - y)), draw(st.integers(1, to_width - x))
    return height, width, to_height, to_width, ImagePart(y, x, rows, columns)


def picture(height: int, width: int, channels: int, seed: int) -> np.ndarray:
    """Noise, or black and white where CUBIC shoots over and is cut off."""
    rng = np.random.default_rng(seed)
    shape = (height, width, channels) if channels > 1 else (height, width)
    image = rng.integers(0, 256, shape).astype(np.uint8)
    return np.where(image > 127, 255, 0).astype(np.uint8) if seed % 2 else image


@settings(deadline=None)  # the first example may compile
@given(sizes=parts(), channels=st.sampled_from([1, 3, 3, 3, 4]), seed=st.integers(0, 99))
@pytest.mark.parametrize("compiled", [False, True])
def test_a_part_is_cut_out_of_the_whole(
    compiled: bool, sizes: tuple[int, int, int, int, ImagePart], channels: int, seed: int
) -> None:
    if compiled and (cubic.kernels() is None or not X86):
        pytest.skip("needs numba, and OpenCV's arithmetic of x86")
    height, width, to_height, to_width, part = sizes
    image = picture(height, width, channels, seed)
    whole = cv2.resize(image, (to_width, to_height), interpolation=cv2.INTER_CUBIC)
    want = whole[part.y : part.y + part.height, part.x : part.x + part.width]
    top = image[: needed(height, to_height, part.y + part.height)]
    resize = cubic.cubic if compiled else cubic._by_opencv
    for rows in (image, top):
        assert np.array_equal(resize(rows, height, (to_width, to_height), part), want)


@pytest.mark.parametrize("size", [(1500, 2000), (375, 500), (333, 251)])
def test_large_pictures(size: tuple[int, int]) -> None:
    if cubic.kernels() is None or not X86:
        pytest.skip("needs numba, and OpenCV's arithmetic of x86")
    image = photo(3, *size)
    rectangle = image[7:-3, 5:-2]
    for to in ((224, 224), (341, 256), (256, 341), (2100, 90)):
        want = cv2.resize(rectangle, to, interpolation=cv2.INTER_CUBIC)
        part = ImagePart(3, 10, to[1] - 3, to[0] - 10)
        assert np.array_equal(cubic.cubic(rectangle, len(rectangle), to, part), want[3:, 10:])


def test_the_loops_compile_where_numba_is() -> None:
    pytest.importorskip("numba")
    assert cubic.kernels() is not None


@pytest.mark.parametrize("cause", ["full", "no compiling"])
def test_where_numba_cannot_compile_opencv_does_it(
    cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    numba = pytest.importorskip("numba")
    monkeypatch.delitem(sys.modules, "caffeio.data.transform.kernels", raising=False)
    if cause == "full":
        monkeypatch.setattr(numba, "njit", Mock(side_effect=OSError(errno.ENOSPC, "full")))
    else:
        monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    monkeypatch.setattr(cubic, "kernels", cache(cubic.kernels.__wrapped__))
    image = picture(30, 40, 3, 0)
    want = cv2.resize(image, (20, 10), interpolation=cv2.INTER_CUBIC)[2:7, 3:9]
    assert np.array_equal(cubic.cubic(image, 30, (20, 10), ImagePart(2, 3, 5, 6)), want)
    assert cubic.loaded_kernels() is None


@pytest.mark.parametrize("profile", [BVLC, NVIDIA], ids=lambda p: p.name)
@pytest.mark.parametrize(
    "text", ["", "scale: 0.0078125 mean_value: 104 mean_value: 117 mean_value: 123",
             "scale: 0.017 mean_value: 104.37", "scale: 1.3 mean_value: [1.1, 2.2, 3.3]"]
)  # fmt: skip
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("width", [1, 7, 8, 29, 32])
def test_compiled_planes_have_the_numbers_of_the_tables(
    text: str, profile: Profile, mirror: bool, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cubic.kernels() is None:
        pytest.skip("needs numba")
    param = text_format.Parse(text, pb.TransformationParameter())
    transformer = Transformer(param, "TEST", profile=profile)
    image = Image(np.random.default_rng(0).integers(0, 256, (40, 33, 3)).astype(np.uint8), False)
    outs = []
    for loops in (cubic.kernels, lambda: None):
        monkeypatch.setattr("caffeio.data.transform.normalize.loaded_kernels", loops)
        outs.append(np.full((3, 30, width), np.nan, np.float32))
        transformer.write(image, CropWindow(2, 1, 30, width, mirror, (40, 33)), outs[-1])
    assert outs[0].tobytes() == outs[1].tobytes()
