"""The transformer against a plain loop over Caffe's formula, and its refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from caffeio.data.draws import Draws
from caffeio.data.transform import augment, nvidia
from caffeio.data.transform.image import set_ipp
from caffeio.data.transform.noise import apply_noise
from caffeio.data.transform.normalize import Image
from caffeio.data.transform.transformer import Transformer
from caffeio.errors import DataError
from caffeio.profiles import BVLC, INTEL, NVIDIA, Profile
from caffeio.proto import caffe_pb2 as pb
from tests.data.helpers import data_layer, make_source, photo, pixels, raw_lmdb


def transformer(
    text: str, phase: str = "TRAIN", mean: Any = None, profile: Profile = BVLC
) -> Transformer:
    param = text_format.Parse(text, pb.TransformationParameter())
    return Transformer(param, phase, mean=mean, profile=profile)


def draws(*words: int) -> Draws:
    own = iter(range(10**6)).__next__
    return Draws(words, own, own)


def run(t: Transformer, image: Image, *words: int) -> np.ndarray:
    image, window = t.place(image, draws(*words))
    out = np.full((image.shape[0], window.height, window.width), np.nan, np.float32)
    t.write(image, window, out)
    return out


def loop(
    planes: np.ndarray, mean: np.ndarray | None, values: list[float], scale: float, window: Any,
    mirror: bool,
) -> np.ndarray:  # fmt: skip
    """DataTransformer::Transform, pixel by pixel."""
    y0, x0, height, width = window
    out = np.empty((len(planes), height, width), np.float32)
    for c in range(len(planes)):
        for y in range(height):
            for x in range(width):
                value = np.float32(planes[c, y0 + y, x0 + x])
                if mean is not None:
                    value = value - mean[c, y0 + y, x0 + x]
                elif values:
                    value = value - np.float32(values[c if len(values) > 1 else 0])
                out[c, y, width - 1 - x if mirror else x] = value * np.float32(scale)
    return out


@given(
    channels=st.integers(1, 5), height=st.integers(3, 9), width=st.integers(3, 9),
    crop=st.sampled_from([0, 1, 3]), mirror=st.booleans(), train=st.booleans(),
    kind=st.sampled_from(["planar", "interleaved", "floats"]),
    mean=st.sampled_from(["none", "one", "each", "file"]),
    scale=st.sampled_from([1.0, 0.017, 1 / 128]), words=st.tuples(*[st.integers(0, 2**32 - 1)] * 3),
)  # fmt: skip
def test_every_path_is_caffes_loop(
    channels: int, height: int, width: int, crop: int, mirror: bool, train: bool, kind: str,
    mean: str, scale: float, words: tuple[int, int, int],
) -> None:  # fmt: skip
    planes: Any = pixels(height * 10 + width, height, width, channels)
    if kind == "floats":
        planes = planes.astype(np.float32) / np.float32(3)
    values = {"one": [104.25], "each": [1.5 * (i + 1) for i in range(channels)]}.get(mean, [])
    text = f"mirror: {str(mirror).lower()} crop_size: {crop} scale: {scale} "
    text += " ".join(f"mean_value: {v}" for v in values)
    image_mean = None
    if mean == "file":
        image_mean = np.random.default_rng(1).random((channels, height, width), np.float32) * 200
    t = transformer(text, "TRAIN" if train else "TEST", image_mean)
    used = list(words[: t.predrawn])
    flip = mirror and used[0] % 2 != 0
    y, x = (height - crop) // 2, (width - crop) // 2
    if crop and train:
        y, x = used[-2] % (height - crop + 1), used[-1] % (width - crop + 1)
    window = (y, x, crop, crop) if crop else (0, 0, height, width)
    image = Image(planes, True)
    if kind == "interleaved":
        whole = np.ascontiguousarray(planes.transpose(1, 2, 0))
        image = Image(whole[:, :, 0] if channels == 1 else whole, False)
    want = loop(planes, image_mean, values, np.float32(t.param.scale), window, flip)
    assert np.array_equal(run(t, image, *used), want)
    image, place = t.place(image, draws(*used))
    rows = np.full((*want.shape[1:], channels), np.nan, np.float32)
    t.write_interleaved(image, place, rows)
    assert np.array_equal(rows.transpose(2, 0, 1), want)
    if kind != "floats":
        bare = np.zeros(rows.shape, np.uint8)
        t.write_interleaved(image, place, bare)
        plain = loop(planes, None, [], 1, window, flip)
        assert np.array_equal(bare.transpose(2, 0, 1), plain)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('mean_file: "x" mean_value: 1', "mean_file and mean_value"),
        ("force_color: true force_gray: true", "both force_color and force_gray"),
        ("random_resize_param { }", "crop_size"),
        ("random_aspect_ratio_param { }", "crop_size"),
        ("resize_param { height: 3 }", "positive"),
        (
            "resize_param { height: 3 width: 3 } resize_param { height: 3 width: 3 }",
            "more than one",
        ),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        transformer(text)


def test_number_of_mean_values() -> None:
    with pytest.raises(DataError, match="1 mean_value or as many as channels: 3, not 2"):
        run(transformer("mean_value: 1 mean_value: 2"), Image(pixels(0), True))


def test_crop_larger_than_the_image() -> None:
    with pytest.raises(DataError, match="9 is larger than the image, whose height is 8"):
        run(transformer("crop_size: 9", "TEST"), Image(pixels(0), True))


def test_force_color_and_gray_need_encoded_images(tmp_path: Path) -> None:
    """Real Caffe only logs an error for raw Datums: the pixels stay as they are."""
    with make_source(data_layer(raw_lmdb(tmp_path / "db", 4), "force_gray: true")) as source:
        assert np.array_equal(source.next()[0][0].numpy(), pixels(0).astype(np.float32))


# -- resizing --------------------------------------------------------------------------------


def resized(text: str, image: np.ndarray) -> np.ndarray:
    param = text_format.Parse(text, pb.ResizeParameter())
    return augment.apply_resize(image, param, iter(range(1000)).__next__)


def test_fit_small_size_covers_the_box() -> None:
    assert resized("resize_mode: FIT_SMALL_SIZE height: 30 width: 30", photo(0, 40, 61)).shape == (
        30, 45, 3,
    )  # fmt: skip
    assert resized("resize_mode: FIT_SMALL_SIZE height: 30 width: 30", photo(0, 61, 40)).shape == (
        45, 30, 3,
    )  # fmt: skip


def test_fit_large_size_pads() -> None:
    text = "resize_mode: FIT_LARGE_SIZE_AND_PAD height: 30 width: 30 pad_value: 7"
    out = resized(text, photo(0, 40, 61))
    inner = cv2.resize(photo(0, 40, 61), (30, 19))
    assert out.shape == (30, 30, 3)
    assert (out[:5] == 7).all()
    assert np.array_equal(out[5:24], inner)
    assert (out[24:] == 7).all()


def test_die_of_several_interpolations() -> None:
    param = text_format.Parse("interp_mode: LINEAR interp_mode: NEAREST", pb.ResizeParameter())
    low = augment.interpolation(param, lambda: 0)
    high = augment.interpolation(param, lambda: 2**32 - 1000)
    assert (low, high) == (cv2.INTER_LINEAR, cv2.INTER_NEAREST)


@pytest.mark.parametrize(
    "words", [[0], [2**31], [2**32 - 129, 1], [2**32 - 128, 2, 3], [2**32 - 1, 2**32 - 100, 4]]
)
def test_one_interpolation_draws_what_a_die_of_one_side_draws(words: list[int]) -> None:
    param = text_format.Parse("interp_mode: CUBIC", pb.ResizeParameter())
    left, right = iter(words), iter(words)
    assert augment.interpolation(param, left.__next__) == cv2.INTER_CUBIC
    augment.uniform(right.__next__, 0, 1)
    assert list(left) == list(right)


def test_random_resize_draws_the_shorter_side() -> None:
    param = text_format.Parse("min_size: 20 max_size: 22", pb.RandomResizeParameter())
    for word, size in ((0, 20), (1, 21), (2, 22), (3, 20)):
        cut = augment.random_resize(40, 61, param, lambda w=word: w, lambda: 0)
        assert cut.take(photo(0, 40, 61)).shape[0] == size


def test_the_fork_takes_the_crop_from_the_image_before_resize() -> None:
    image = photo(0, 40, 61)
    text = "crop_size: 8 resize_param { height: 20 width: 30 }"
    ssd = run(transformer(text, "TEST"), Image(image, False))
    fork = run(transformer(text, "TEST", profile=INTEL), Image(image, False))
    small = cv2.resize(image, (30, 20))
    assert np.array_equal(ssd, small[6:14, 11:19].transpose(2, 0, 1))
    assert np.array_equal(fork, image[6:14, 11:19].transpose(2, 0, 1))
    with pytest.raises(DataError, match="outside of the image before resize_param"):
        run(transformer("crop_size: 8 resize_param { height: 200 width: 200 }", "TEST",
                        profile=INTEL), Image(image, False))  # fmt: skip


def test_crop_h_and_crop_w_of_ssd() -> None:
    image = Image(pixels(0), True)
    assert run(transformer("crop_h: 3 crop_w: 5", "TEST"), image).shape == (3, 3, 5)
    assert run(transformer("crop_h: 3 crop_w: 5", "TEST", profile=INTEL), image).shape == (3, 8, 9)


def test_nvidia_scales_before_it_subtracts() -> None:
    image = photo(3, 12, 14)
    t = transformer("scale: 0.017 mean_value: 104.5 mean_value: 1 mean_value: 2", profile=NVIDIA)
    f = np.float32
    want = image.astype(f) * f(0.017) - np.array([104.5, 1, 2], f) * f(0.017)
    assert np.array_equal(run(t, Image(image, False)), want.transpose(2, 0, 1))


def test_nvidia_resizes_the_shorter_side() -> None:
    param = text_format.Parse(
        "img_rand_resize_lower: 20 img_rand_resize_upper: 30 crop_size: 18",
        pb.TransformationParameter(),
    )
    for word, size in ((0, 20), (10, 30)):
        assert nvidia.nvidia_size(40, 80, param, lambda w=word: w) == (size, 2 * size)
    # never larger than the image unless it is allowed
    assert nvidia.nvidia_size(10, 80, param, lambda: 10) == (10, 80)


def test_exact_cubic_is_not_ipps() -> None:
    """Where OpenCV has IPP the two modes differ by at most 1, and the flag is restored."""
    image = photo(1, 200, 300)
    before = set_ipp(False)
    exact = cv2.resize(image, (90, 60), interpolation=cv2.INTER_CUBIC).astype(int)
    assert set_ipp(before) is False
    fast = cv2.resize(image, (90, 60), interpolation=cv2.INTER_CUBIC).astype(int)
    assert np.abs(exact - fast).max() <= 1


def test_noise_steps() -> None:
    image = photo(2, 20, 24)

    def noise(text: str) -> np.ndarray:
        param = text_format.Parse(text, pb.NoiseParameter())
        return apply_noise(image, param, iter(range(100000)).__next__)

    assert np.array_equal(noise("inverse: true"), 255 - image)
    assert set(np.unique(noise("posterize: true"))) <= {32, 96, 160, 224}
    gray = noise("decolorize: true")
    assert (gray[..., 0] == gray[..., 2]).all()
    peppered = noise("saltpepper: true saltpepper_param { fraction: 0.1 value: 0 }")
    assert 0 < (peppered != image).any(-1).sum() <= 48
    assert noise("hist_eq: true gauss_blur: true erode: true jpeg: 80").shape == image.shape
    assert noise("clahe: true convert_to_hsv: true").shape == image.shape
    assert np.array_equal(image, photo(2, 20, 24))
