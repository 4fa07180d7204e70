"""Nets with absurd fields, wrong wires and wrong types: each runs, or ends in an error of ours."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caffeio.errors import CaffeIOError
from caffeio.net import load_net
from tests.paths import GOLDEN, nightly

READERS = ("Data", "ImageData", "WindowData", "HDF5Data", "HDF5Output", "Python", "MemoryData")
FILES = [
    path for path in sorted(GOLDEN.glob("layers/*/*.prototxt")) if path.parent.name not in READERS
]
VALUES = (  # numbers, and what is none
    *("0", "-1", "1", "2", "3", "7", "100", "-2", "0.5", "1.5", "-0.5", "1e30", "-1e30", "nan"),
    *("inf", "2147483647", "-2147483648", "4294967295", "99999999999", "1e-40"),
    *('""', '"x"', "true"),
)
WORDS = ("SUM", "MAX", "AVE", "PROD", "MEAN", "ASUM", "VALID", "NONE", "TRAIN", "STOCHASTIC")
# what is replaced, and by what; \0 is the place itself
CHANGES = [
    (re.compile(r"(?<=: )-?[0-9.]+(?=[ \n}])"), VALUES),
    (re.compile(r'(?:bottom|top): "[^"]*"'), ["", "\0 \0", 'bottom: "data"', 'top: "y"']),
    (re.compile(r"dim: -?\d+"), ["", "\0 dim: 2", "dim: 0"]),
    (re.compile(r"(?<=: )[A-Z_]{3,}(?=[ \n}])"), WORDS),
    (re.compile(r'(?<=type: )"[^"]*"'), [f'"{p.parent.name}"' for p in FILES] + ['"constant"']),
]


def changed(text: str, rng: random.Random) -> str:
    """The net with one thing, seldom more, that is not as it was."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        pattern, values = rng.choices(CHANGES, (6, 2, 1, 1, 1))[0]
        places = list(pattern.finditer(text))
        if places:
            place = rng.choice(places)
            value = rng.choice(values).replace("\0", place[0])
            text = text[: place.start()] + value + text[place.end() :]
    return text


def run_all(text: str, phase: str, rng: random.Random) -> bool:
    """Build, run and differentiate a net; False if it is refused with an error of ours."""
    generator = torch.Generator().manual_seed(rng.randrange(1000))
    try:
        net = load_net(text, phase=phase, seed=1)
        inputs = {}
        for name in net.inputs:
            shape = net.blob_shapes[name]
            kind = rng.randrange(3)
            value = torch.ones(shape) if kind == 0 else torch.randn(shape, generator=generator)
            value = value.mul(3).round() if kind == 1 else value
            inputs[name] = value.requires_grad_() * 1
        net(inputs)
        if net.loss.requires_grad:
            net.loss.backward()
    except CaffeIOError as error:
        assert str(error)
        return False
    return True


def check(seed: int) -> bool:
    rng = random.Random(seed)
    path = rng.choice(FILES)
    os.chdir(path.parent)
    return run_all(changed(path.read_text(), rng), rng.choice(("TRAIN", "TEST")), rng)


@pytest.fixture(autouse=True)
def stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path.cwd())


def test_changed_nets() -> None:
    runs = sum(check(seed) for seed in range(400))
    assert 40 < runs < 360  # neither all nor none


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
          deadline=None, max_examples=60)  # fmt: skip
@given(st.data())
def test_any_text(data: st.DataObject) -> None:
    """A net with a piece of any text put over a part of it."""
    path = data.draw(st.sampled_from(FILES))
    text = path.read_text()
    at = data.draw(st.integers(0, len(text)))
    pieces = st.text(max_size=12) | st.sampled_from([*VALUES, "}", "{", "layer {", "#", ":"])
    piece = data.draw(pieces)
    length = data.draw(st.integers(0, 12))
    os.chdir(path.parent)
    run_all(text[:at] + piece + text[at + length :], "TRAIN", random.Random(0))


@nightly
def test_many_changed_nets() -> None:
    for seed in range(10_000, 40_000):
        check(seed)


CONV = '"Convolution" convolution_param { num_output: 3 kernel_size: 1 %s }'
WRONG = [
    ('"Convolution" convolution_param { num_output: 0 kernel_size: 1 }', "num_output"),
    ('"Convolution" convolution_param { num_output: 3 kernel_size: 0 }', "kernel"),
    (CONV % "group: 2", "group"),
    (CONV % "pad: 4294967295", "larger than a blob"),
    (CONV % 'weight_filler { type: "nobody" }', "nobody"),
    ('"Pooling" pooling_param { kernel_size: 0 }', "kernel"),
    ('"Pooling" pooling_param { kernel_size: 2 stride: 0 }', "stride"),
    ('"Pooling" pooling_param { kernel_size: 2 stride: 4294967295 }', "more than an int"),
    ('"InnerProduct" inner_product_param { num_output: 3 axis: 9 }', "axis"),
    ('"InnerProduct" inner_product_param { num_output: 2147483647 }', "larger than a blob"),
    ('"Softmax" softmax_param { axis: -7 }', "axis"),
    ('"Slice" slice_param { slice_point: 9 }', "slice"),
    ('"Reshape" reshape_param { shape { dim: -1 dim: -1 } }', "-1"),
    ('"Reshape" reshape_param { shape { dim: 5 } }', "5"),
    ('"LRN" lrn_param { local_size: 2 }', "local_size"),
    ('"Scale" scale_param { num_axes: 9 }', "9 axes"),
    ('"Exp" exp_param { base: -3 }', "base"),
    ('"Log" log_param { base: 1 }', "base"),
    ('"Dropout" dropout_param { dropout_ratio: 1.5 }', "ratio"),
    ('"Nobody"', "Nobody"),
]


@pytest.mark.parametrize(("kind", "says"), WRONG, ids=[kind[:60] for kind, _ in WRONG])
def test_absurd_fields(kind: str, says: str) -> None:
    text = (
        'layer { name: "in" type: "Input" top: "data" '
        "input_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } } } "
        f'layer {{ name: "x" bottom: "data" top: "y" type: {kind} }}'
    )
    with pytest.raises(CaffeIOError, match=says):
        net = load_net(text, phase="TRAIN")
        net({"data": torch.ones(2, 3, 4, 4)})
