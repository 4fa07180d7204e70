"""random_aspect_ratio_param: the windows that the fork chose from recorded draws."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from caffeio.data.transform.augment import random_window
from caffeio.proto import caffe_pb2 as pb
from tests.data.helpers import jpeg_lmdb, make_source
from tests.paths import GOLDEN

DRAWS = GOLDEN / "fork" / "windows" / "draws.jsonl"
PARAMS = {
    "seed": pb.RandomAspectRatioParameter(
        min_area_ratio=0.08, max_area_ratio=1, aspect_ratio_change=0.75
    ),
    "other": pb.RandomAspectRatioParameter(
        min_area_ratio=0.3, max_area_ratio=1, aspect_ratio_change=0.5, max_attempt=2
    ),
    "defaults": pb.RandomAspectRatioParameter(),
}


def words(values: list[int]) -> Callable[[], int]:
    return iter(values).__next__


@pytest.mark.parametrize("conf", PARAMS)
def test_windows_of_recorded_draws(conf: str) -> None:
    seen = fallbacks = 0
    for line in DRAWS.read_text().splitlines():
        case: dict[str, Any] = json.loads(line)
        if case["conf"] != conf:
            continue
        width, height = case["image"]
        draw = words(case["draws"])
        window = random_window(height, width, PARAMS[conf], draw)
        assert (list(window) if window else None) == case["window"]
        with pytest.raises(StopIteration):
            draw()  # exactly these were used
        seen += 1
        fallbacks += window is None
    assert seen >= 30
    assert fallbacks or conf == "defaults"


def test_batches_of_the_recipe(tmp_path: Any) -> None:
    """The seed's TRAIN layer: right shapes, within range, the same whatever the threads."""
    from tests.data.helpers import data_layer

    source = jpeg_lmdb(tmp_path / "db", 10)
    param = data_layer(
        source,
        "mirror: true crop_size: 32 scale: 0.0078125 mean_value: 104 mean_value: 117 "
        "mean_value: 123 random_aspect_ratio_param { min_area_ratio: 0.08 max_area_ratio: 1 "
        "aspect_ratio_change: 0.75 resize_param { interp_mode: CUBIC } }",
        batch=7,
        more="shuffle: true",
    )
    runs = []
    for threads in (0, 1, 4):
        with make_source(param, threads=threads, shared_seed=5) as opened:
            runs.append([tuple(t.clone() for t in opened.next()) for _ in range(4)])
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=True):
            assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    data = runs[0][0][0].numpy()
    assert data.shape == (7, 3, 32, 32)
    assert data.min() >= -123 / 128
    assert data.max() <= 151 / 128
    assert len({row.tobytes() for batch in runs[0] for row in batch[0].numpy()}) == 28
