from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caffeio.errors import LayerError
from caffeio.profiles import BVLC, INTEL, Profile
from tests.harness import assert_close, check_case, golden, layer_cases
from tests.layers.tools import backward, make, random
from tests.paths import GOLDEN

LOWEST = np.float32(-3.4028234663852886e38)


@pytest.mark.parametrize("case", layer_cases("Pooling", "SPP"))
def test_golden(case: Any) -> None:
    check_case(case)


FORK = {  # shape of the bottom, pooling_param of golden/fork/diffs
    "pool_max_3s2": ((2, 3, 7, 6), "kernel_size: 3 stride: 2"),
    "pool_max_3s2p1": ((2, 3, 7, 6), "kernel_size: 3 stride: 2 pad: 1"),
    "pool_max_ties": ((2, 3, 7, 6), "kernel_size: 3 stride: 2"),
    "pool_max_partial_window": ((1, 2, 7, 5), "kernel_size: 2 stride: 2"),
    "pool_ave_3s2": ((2, 3, 7, 6), "pool: AVE kernel_size: 3 stride: 2"),
    "pool_ave_3s2p1": ((2, 3, 7, 6), "pool: AVE kernel_size: 3 stride: 2 pad: 1"),
    "pool_ave_partial_window": ((1, 2, 7, 5), "pool: AVE kernel_size: 2 stride: 2"),
    "pool_ave_include_pad_true": (
        (2, 3, 7, 6), "pool: AVE kernel_size: 3 stride: 2 pad: 1 avg_include_pad: true",
    ),
    "pool_ave_include_pad_false": (
        (2, 3, 7, 6), "pool: AVE kernel_size: 3 stride: 2 pad: 1 avg_include_pad: false",
    ),
    "pool_global_ave": ((2, 3, 7, 6), "pool: AVE global_pooling: true"),
    "pool_k1_s2_even": ((1, 2, 6, 6), "kernel_size: 1 stride: 2"),
    "pool_k1_s2_even_ave": ((1, 2, 6, 6), "pool: AVE kernel_size: 1 stride: 2"),
    "pool_two_kernel_values": (
        (2, 3, 7, 6), "kernel_size: 3 kernel_size: 2 stride: 2 stride: 1",
    ),
    "pool_round_mode_floor": ((2, 3, 7, 6), "kernel_size: 3 stride: 2 round_mode: FLOOR"),
}  # fmt: skip


RECORDED = [
    pytest.param(path, id=f"{path.parent.name}/{path.stem}")
    for path in sorted((GOLDEN / "fork" / "diffs").glob("*/pool_*.npz"))
]


@pytest.mark.parametrize("path", RECORDED)
def test_fork_and_bvlc(path: Path) -> None:
    arrays, name, which = golden(path), path.stem, path.parent.name
    shape, fields = FORK[name]
    pool = make(
        f'type: "Pooling" pooling_param {{ {fields} }}', shape,
        profile=INTEL if which == "fork" else BVLC,
    )  # fmt: skip
    x = random(*shape, seed=3)  # the numbers that the recording used
    x = (x.round() if "ties" in name else x).requires_grad_()
    y = pool(x)
    assert_close(y, arrays["y"], "y", 1e-6)
    dx = backward(y, random(*y.shape, seed=4), x)[0]
    assert_close(dx, arrays["dx"], "dx", 1e-6)


def caffe_pool(
    x: np.ndarray, dy: np.ndarray | None, method: str, k: int, s: int, p: int, profile: Profile,
    floor: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Top, mask and bottom diff of one plane (H, W), window by window."""
    sizes = []
    for n in x.shape:
        room = (n + 2 * p - k) / s
        sizes.append(int(np.floor(room) if floor else np.ceil(room)) + 1)
    if p or (profile.pooling_clips_kernel_1 and k == 1):
        sizes = [c - 1 if (c - 1) * s >= n + p else c for c, n in zip(sizes, x.shape, strict=True)]
    y = np.full(sizes, LOWEST if method == "MAX" else 0, np.float32)
    mask = np.full(sizes, -1, np.float32)
    dx = np.zeros_like(x)
    for i, j in np.ndindex(*sizes):
        starts = (i * s - p, j * s - p)
        ends = [min(a + k, n + p) for a, n in zip(starts, x.shape, strict=True)]
        area = (ends[0] - starts[0]) * (ends[1] - starts[1])
        inside = [
            range(max(a, 0), min(b, n)) for a, b, n in zip(starts, ends, x.shape, strict=True)
        ]
        for h in inside[0]:
            for w in inside[1]:
                if method == "AVE":
                    y[i, j] += x[h, w]
                    if dy is not None:
                        dx[h, w] += dy[i, j] / area
                elif x[h, w] > y[i, j]:
                    y[i, j], mask[i, j] = x[h, w], h * x.shape[1] + w
        if method == "AVE":
            with np.errstate(invalid="ignore"):
                y[i, j] = np.float32(y[i, j]) / np.float32(area)
        elif dy is not None and mask[i, j] >= 0:
            dx.flat[int(mask[i, j])] += dy[i, j]
    return y, mask, dx


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["MAX", "AVE"]), st.integers(1, 5), st.integers(1, 4), st.integers(0, 4),
    st.integers(1, 9), st.integers(1, 9), st.booleans(), st.sampled_from([BVLC, INTEL]),
)  # fmt: skip
def test_any_geometry(
    method: str, k: int, s: int, p: int, h: int, w: int, floor: bool, profile: Profile
) -> None:
    p = min(p, k - 1)
    text = f'type: "Pooling" pooling_param {{ pool: {method} kernel_size: {k} stride: {s} pad: {p} '
    text += f"round_mode: {'FLOOR' if floor else 'CEIL'} }}"
    x = random(1, 1, h, w).round().requires_grad_()  # rounded: many ties
    plane = x.detach().numpy()[0, 0]
    if min(h, w) + 2 * p - k <= (-1 if floor else -s):
        with pytest.raises(LayerError, match="larger than the bottom"):
            make(text, (1, 1, h, w), profile=profile)
        return
    pool = make(text, (1, 1, h, w), profile=profile, tops=2 if method == "MAX" else 1)
    tops = pool(x)
    y, mask = tops if isinstance(tops, tuple) else (tops, None)
    diff = random(*y.shape, seed=1)
    top, index, dx = caffe_pool(plane, diff.numpy()[0, 0], method, k, s, p, profile, floor)
    assert pool.top_shapes[0] == (1, 1, *top.shape)
    assert_close(y[0, 0], top, "top", 1e-6)
    if mask is not None:
        np.testing.assert_array_equal(mask.numpy()[0, 0], index)
    assert_close(backward(y, diff, x)[0][0, 0], dx, "bottom diff", 1e-6)


def test_window_behind_the_image() -> None:
    """BVLC without padding: kernel 1 with stride 3 on 5 values has a third window, at 6."""
    x = random(1, 1, 5, 5)
    y, mask = make('type: "Pooling" pooling_param { kernel_size: 1 stride: 3 }', (1, 1, 5, 5),
                   tops=2)(x)  # fmt: skip
    assert y.shape == (1, 1, 3, 3)
    assert torch.equal(y[0, 0, :2, :2], x[0, 0, ::3, ::3])
    assert (y[0, 0, 2] == float(LOWEST)).all()
    assert (y[0, 0, :, 2] == float(LOWEST)).all()
    assert (mask[0, 0, 2] == -1).all()
    intel = make('type: "Pooling" pooling_param { kernel_size: 1 stride: 3 }', (1, 1, 5, 5),
                 profile=INTEL)  # fmt: skip
    assert intel(x).shape == (1, 1, 2, 2)


@pytest.mark.parametrize(("include", "expected"), [("true", 1 / 9), ("false", 1 / 4)])
def test_mkldnn_divisor(include: str, expected: float) -> None:
    """4 values of a corner window of 9: divided by the kernel, or by what is real."""
    text = (
        'type: "Pooling" pooling_param { pool: AVE kernel_size: 3 pad: 1 stride: 2 '
        f"avg_include_pad: {include} }}"
    )
    profile = replace(INTEL, pooling_average="mkldnn")
    y = make(text, (1, 1, 4, 4), profile=profile)(torch.ones(1, 1, 4, 4))
    assert y.shape == (1, 1, 3, 3)
    assert y[0, 0, 0, 0].item() == pytest.approx(4 * expected)
    ceil = 2 / 9 if include == "true" else 1.0  # the last window sticks out of the padding
    assert y[0, 0, 0, 2].item() == pytest.approx(ceil)
    plain = text.replace("pad: 1", "pad: 0").replace("kernel_size: 3", "kernel_size: 2")
    assert make(plain, (1, 1, 5, 5), profile=profile)(torch.ones(1, 1, 5, 5)).eq(1).all()


@pytest.mark.parametrize("pad", [0, 1, 2])
@pytest.mark.parametrize("method", ["MAX", "AVE"])
def test_three_spatial_axes(method: str, pad: int) -> None:
    """A volume whose planes are equal pools to the planes' pooling."""
    plane = random(1, 2, 6, 7)
    flat = f'type: "Pooling" pooling_param {{ pool: {method} kernel_size: 3 stride: 2 pad: {pad} }}'
    y2 = make(flat, (1, 2, 6, 7))(plane)
    fields = f"pool: {method} kernel_size: 1 kernel_size: 3 kernel_size: 3 stride: 1 stride: 2 "
    fields += f"stride: 2 pad: 0 pad: {pad} pad: {pad}"
    tops = 2 if method == "MAX" else 1
    volume = plane[:, :, None].expand(-1, -1, 4, -1, -1).contiguous()
    out = make(f'type: "Pooling" pooling_param {{ {fields} }}', (1, 2, 4, 6, 7), tops=tops)(volume)
    y3, mask = out if isinstance(out, tuple) else (out, None)
    assert_close(y3, y2[:, :, None].expand_as(y3).numpy(), "volume", 1e-6)
    if mask is not None:
        found = volume.flatten(2).gather(2, mask.long().flatten(2)).view_as(y3)
        assert torch.equal(found, y3)


def test_global_pooling_follows_the_input() -> None:
    pool = make('type: "Pooling" pooling_param { pool: AVE global_pooling: true }', (1, 2, 5, 4))
    x = random(3, 2, 7, 9)
    assert_close(pool(x), x.mean((2, 3), keepdim=True).numpy(), "mean")
    pool = make('type: "Pooling" pooling_param { global_pooling: true }', (1, 2, 5, 4))
    x = torch.zeros(1, 2, 3, 3, requires_grad=True)
    dx = backward(pool(x), torch.ones(1, 2, 1, 1), x)[0]
    assert dx.sum() == 2
    assert dx[0, :, 0, 0].tolist() == [1, 1]  # the first of equal values


def test_ceil_mode_of_forks() -> None:
    text = 'type: "Pooling" pooling_param { kernel_size: 3 stride: 2 %s }'
    assert make(text % "", (1, 1, 6, 6)).top_shapes == ((1, 1, 3, 3),)
    assert make(text % "ceil_mode: false", (1, 1, 6, 6)).top_shapes == ((1, 1, 2, 2),)


def test_dilated_maximum() -> None:
    x = random(1, 1, 7, 7)
    text = 'type: "Pooling" pooling_param { kernel_size: 2 dilation: 3 }'
    y = make(text, (1, 1, 7, 7))(x)
    corners = torch.stack([x[..., :4, :4], x[..., 3:, :4], x[..., :4, 3:], x[..., 3:, 3:]])
    assert torch.equal(y, corners.amax(0))


def test_stochastic() -> None:
    text = 'type: "Pooling" pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }'
    x = random(4, 3, 6, 6).abs()
    x[0, 0, :2, :2] = 0
    y = make(text, x.shape, phase="TEST")(x)
    windows = x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    mean = windows.square().sum(-1) / windows.sum(-1)
    assert_close(y, mean.nan_to_num(0.0).numpy(), "TEST")
    torch.manual_seed(0)
    window = torch.tensor([[1.0, 3.0], [0.0, 4.0]]).repeat(100, 100)[None, None].requires_grad_()
    y = make(text, window.shape)(window)
    shares = [(y == v).float().mean().item() for v in (0.0, 1.0, 3.0, 4.0)]
    assert shares == pytest.approx([0, 1 / 8, 3 / 8, 4 / 8], abs=0.02)
    dx = torch.autograd.grad(y, window, torch.ones_like(y))[0]
    assert torch.equal(dx.unfold(2, 2, 2).unfold(3, 2, 2).sum((4, 5)), torch.ones_like(y))
    assert torch.equal((dx * window).unfold(2, 2, 2).unfold(3, 2, 2).sum((4, 5)), y)


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ("kernel_size: 2 pad: 2", (1, 1, 6, 6), r"pooling_param.pad: pad \(2, 2\) must be below"),
        ("kernel_size: 2 kernel_h: 2 kernel_w: 2", (1, 1, 6, 6), "give either kernel_size or"),
        ("stride: 2", (1, 1, 6, 6), "pooling_param.kernel_size: needs 1 value"),
        ("kernel_h: 2", (1, 1, 6, 6), "give both kernel_h and kernel_w, not one alone"),
        ("kernel_size: 2 stride_h: 2", (1, 1, 6, 6), "give both stride_h and stride_w"),
        ("kernel_size: 2 pad_w: 1", (1, 1, 6, 6), "give both pad_h and pad_w"),
        ("kernel_size: 2 kernel_size: 3", (1, 1, 6, 6), "kernel_size: is one value in this Caffe"),
        ("kernel_size: 2 stride: 2 stride: 1", (1, 1, 6, 6), "stride: is one value in this Caffe"),
        ("kernel_size: 0", (1, 1, 6, 6), "must be above 0"),
        ("kernel_size: 2 stride: 0", (1, 1, 6, 6), "pooling_param.stride: must be above 0"),
        ("kernel_size: 2", (6, 6), "needs a bottom of 4 axes"),
        ("global_pooling: true kernel_size: 2", (1, 1, 6, 6), "no kernel may be given"),
        ("global_pooling: true stride: 2", (1, 1, 6, 6), "only pad 0 and stride 1"),
        ("pool: STOCHASTIC kernel_size: 2 pad: 1", (1, 1, 6, 6), "only MAX and AVE can be padded"),
        ("pool: AVE kernel_size: 2 dilation: 2", (1, 1, 6, 6), "only MAX can be dilated"),
        ("pool: DEF kernel_size: 2", (1, 1, 6, 6), "DEF is not supported"),
        ("kernel_size: 9", (1, 1, 6, 6), "larger than the bottom"),
    ],
)
def test_checks(fields: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(LayerError, match=message) as error:
        make(f'type: "Pooling" pooling_param {{ {fields} }}', shape)
    assert str(error.value).startswith("net.prototxt:1:1: layer 'x' (type Pooling)")


def test_only_max_has_a_mask() -> None:
    with pytest.raises(LayerError, match="only MAX has a second top"):
        make('type: "Pooling" pooling_param { pool: AVE kernel_size: 2 }', (1, 1, 4, 4), tops=2)


def test_pyramid_over_a_small_bottom() -> None:
    """5 pixels in 4 bins: kernel 2 would need pad 2, which Caffe refuses."""
    with pytest.raises(LayerError, match="level 2 needs pad"):
        make('type: "SPP" spp_param { pyramid_height: 3 }', (1, 2, 5, 5))
    one = make('type: "SPP" spp_param { pyramid_height: 1 }', (1, 2, 5, 5))
    assert one.top_shapes == ((1, 2, 1, 1),)
