"""SSD's AnnotatedData: boxes follow the image through every step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from caffeio.boost_random import CaffeRng
from caffeio.data.db.lmdb import write_lmdb
from caffeio.data.records.annotated_datum import AnnotatedBox, encode_annotated
from caffeio.data.records.datum import encode_datum
from caffeio.data.transform import boxes as bx
from caffeio.data.transform.distort import distort
from caffeio.errors import DataError
from caffeio.profiles import INTEL
from caffeio.proto import caffe_pb2 as pb
from tests.data.helpers import layer, make_source, photo

F = np.float32
SIDE = st.floats(0, 1, width=32)
BOX = st.tuples(SIDE, SIDE, SIDE, SIDE).map(
    lambda v: (min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3]))
)


def array(*rows: Sequence[float]) -> np.ndarray:
    return np.array(rows, F).reshape(-1, 4)


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """BBox intersection in plain floats."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


@given(BOX, BOX)
def test_jaccard_and_coverage(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    common = overlap(a, b)
    areas = [(v[2] - v[0]) * (v[3] - v[1]) for v in (a, b)]
    total = sum(areas) - common
    if total > 1e-6:
        assert bx.jaccard(array(a)[0], array(b)[0]) == pytest.approx(common / total, abs=1e-5)
    if areas[0] > 1e-6:
        assert bx.coverage(array(a)[0], array(b)[0]) == pytest.approx(common / areas[0], abs=1e-5)


@given(BOX, BOX)
def test_project(source: tuple[float, ...], box: tuple[float, ...]) -> None:
    size = [source[2] - source[0], source[3] - source[1]]
    if min(size) < 1e-3:
        return
    out, keep = bx.project(array(source)[0], array(box))
    want = [min(max((box[i] - source[i % 2]) / size[i % 2], 0), 1) for i in range(4)]
    assert out[0] == pytest.approx(want, abs=1e-3)
    if overlap(source, box) > 1e-4:
        assert keep[0]
    if overlap(source, box) == 0:
        assert not keep[0]


def resize(text: str) -> pb.ResizeParameter:
    return text_format.Parse(text, pb.ResizeParameter())


def test_boxes_of_a_padded_image() -> None:
    """A 200 x 100 image in a 50 x 50 box: 25 high in the middle."""
    param = resize("resize_mode: FIT_LARGE_SIZE_AND_PAD height: 50 width: 50")
    out = bx.resize_boxes(array([0, 0, 1, 1], [0.5, 0.5, 1, 1]), param, 200, 100)
    assert out.tolist() == [[0, 0.25, 1, 0.75], [0.5, 0.5, 1, 0.75]]
    out = bx.resize_boxes(array([0, 0, 1, 1]), param, 100, 200)
    assert out.tolist() == [[0.25, 0, 0.75, 1]]


@pytest.mark.parametrize("mode", ["WARP", "FIT_SMALL_SIZE"])
def test_boxes_of_a_stretched_image_stay(mode: str) -> None:
    param = resize(f"resize_mode: {mode} height: 50 width: 70")
    box = array([0.25, 0.5, 0.75, 1])
    assert bx.resize_boxes(box, param, 200, 100) == pytest.approx(box, abs=1e-6)


def test_emit_constraint() -> None:
    source = array([0, 0, 0.5, 0.5])[0]
    boxes = array([0.2, 0.2, 0.6, 0.6], [0.4, 0.4, 0.9, 0.9])
    assert bx.emitted(source, boxes, pb.EmitConstraint()).tolist() == [True, False]
    rule = text_format.Parse("emit_type: MIN_OVERLAP emit_overlap: 0.5", pb.EmitConstraint())
    assert bx.emitted(source, boxes, rule).tolist() == [True, False]
    rule.emit_overlap = 0.01
    assert bx.emitted(source, boxes, rule).tolist() == [True, True]


def test_samples_obey_scale_and_aspect() -> None:
    sampler = pb.Sampler(min_scale=0.3, max_scale=0.8, min_aspect_ratio=0.5, max_aspect_ratio=2)
    word = CaffeRng(1).raw
    for _ in range(300):
        x1, y1, x2, y2 = bx.sample_box(sampler, word)
        assert -1e-6 <= x1 < x2 <= 1 + 1e-6
        assert -1e-6 <= y1 < y2 <= 1 + 1e-6
        assert 0.3 - 1e-6 <= np.sqrt((x2 - x1) * (y2 - y1)) <= 0.8 + 1e-6
        assert 0.5 - 1e-5 <= (x2 - x1) / (y2 - y1) <= 2 + 1e-5


def test_samplers_and_constraints() -> None:
    objects = array([0.1, 0.1, 0.4, 0.4])
    text = (
        "sampler { min_scale: 0.3 max_scale: 1 min_aspect_ratio: 0.5 max_aspect_ratio: 2 } "
        "sample_constraint { min_jaccard_overlap: 0.3 } max_sample: 2 max_trials: 200"
    )
    samplers = [text_format.Parse(text, pb.BatchSampler()), pb.BatchSampler(max_sample=1)]
    found = bx.batch_samples(objects, samplers, CaffeRng(3).raw)
    assert len(found) == 3
    for box in found[:2]:
        assert bx.jaccard(box, objects[0]) >= 0.3
    assert found[2].tolist() == [0, 0, 1, 1]  # the default sampler: the whole image
    samplers[1].use_original_image = False
    assert len(bx.batch_samples(objects, samplers, CaffeRng(3).raw)) == 2


def test_only_the_first_measure_that_is_set_decides() -> None:
    """Real Caffe's loop over objects keeps `found` once an object passed the first measure."""
    box, objects = array([0, 0, 0.5, 0.5])[0], array([0, 0, 0.5, 0.5])
    both = text_format.Parse(
        "min_jaccard_overlap: 0.9 min_object_coverage: 2", pb.SampleConstraint()
    )
    assert bx.satisfies(box, objects, both)
    assert not bx.satisfies(box, np.empty((0, 4), F), both)
    assert bx.satisfies(box, np.empty((0, 4), F), pb.SampleConstraint())


# -- the layer -------------------------------------------------------------------------------


def boxes_of(i: int) -> list[AnnotatedBox]:
    return [
        AnnotatedBox(1 + i, j, 0.1 + 0.1 * j, 0.2, 0.5 + 0.1 * j, 0.75, j == 1) for j in range(i)
    ]


def database(path: Path, kind: str = "png", **size: int) -> Path:
    def records() -> Any:
        for i in range(4):
            image = photo(i, size.get("height", 40), size.get("width", 60))
            data = cv2.imencode(f".{kind}", image)[1].tobytes()
            datum = encode_datum(data=data, shape=(3, *image.shape[:2]), label=i, encoded=True)
            yield f"{i}", encode_annotated(datum, boxes_of(i))

    write_lmdb(path, records())
    return path


def anno_layer(source: Path, transform: str = "", anno: str = "", batch: int = 4) -> Any:
    return layer(
        'name: "d" type: "AnnotatedData" top: "data" top: "label" '
        f"transform_param {{ {transform} }} annotated_data_param {{ {anno} }} "
        f'data_param {{ source: "{source}" batch_size: {batch} backend: LMDB }}'
    )


def test_plain(tmp_path: Path) -> None:
    with make_source(anno_layer(database(tmp_path / "db")), phase="TEST") as source:
        assert source.top_shapes == [(4, 3, 40, 60), (1, 1, 1, 8)]  # the first image has no box
        data, labels = source.next()
    want = np.stack([photo(i, 40, 60).transpose(2, 0, 1) for i in range(4)]).astype(F)
    assert np.array_equal(data.numpy(), want)
    rows = [[i, b.group_label, b.instance_id, b.xmin, b.ymin, b.xmax, b.ymax, b.difficult]
            for i in range(4) for b in boxes_of(i)]  # fmt: skip
    assert labels.shape == (1, 1, 6, 8)
    assert labels[0, 0].numpy() == pytest.approx(np.array(rows, F), abs=1e-6)


def test_no_box_at_all(tmp_path: Path) -> None:
    with make_source(anno_layer(database(tmp_path / "db"), batch=1), phase="TEST") as source:
        assert source.next()[1].tolist() == [[[[-1.0] * 8]]]


def test_mirror(tmp_path: Path) -> None:
    param = anno_layer(database(tmp_path / "db"), "mirror: true", batch=4)
    with make_source(param, shared_seed=2) as source:
        data, labels = source.next()
    flipped = []
    for i in range(4):
        want = photo(i, 40, 60).transpose(2, 0, 1).astype(F)
        flipped.append(np.array_equal(data[i].numpy(), want[..., ::-1]))
        assert flipped[-1] or np.array_equal(data[i].numpy(), want)
    assert True in flipped
    assert False in flipped
    for row in labels[0, 0]:
        box = boxes_of(int(row[0]))[int(row[2])]
        x = (1 - box.xmax, 1 - box.xmin) if flipped[int(row[0])] else (box.xmin, box.xmax)
        assert (row[3], row[5]) == pytest.approx(x, abs=1e-6)


def test_crop_and_resize(tmp_path: Path) -> None:
    """SSD resizes first and cuts the middle out of that; boxes are brought along."""
    param = anno_layer(
        database(tmp_path / "db"), "crop_size: 20 resize_param { height: 40 width: 40 }"
    )
    with make_source(param, phase="TEST") as source:
        data, labels = source.next()
    small = cv2.resize(photo(3, 40, 60), (40, 40))[10:30, 10:30]
    assert np.array_equal(data[3].numpy(), small.transpose(2, 0, 1).astype(F))
    row = labels[0, 0][-1]  # image 3, instance 2: x 0.3 .. 0.7, y 0.2 .. 0.75
    assert row[3:7].tolist() == pytest.approx([0.1, 0, 0.9, 1], abs=1e-6)


TRAINING = (
    "mirror: true mean_value: 104 mean_value: 117 mean_value: 123 "
    "resize_param { height: 30 width: 30 interp_mode: LINEAR interp_mode: AREA } "
    "emit_constraint { emit_type: CENTER } "
    "distort_param { brightness_prob: 0.5 brightness_delta: 32 contrast_prob: 0.5 "
    "contrast_lower: 0.5 contrast_upper: 1.5 hue_prob: 0.5 hue_delta: 18 saturation_prob: 0.5 "
    "saturation_lower: 0.5 saturation_upper: 1.5 random_order_prob: 0.5 } "
    "expand_param { prob: 0.5 max_expand_ratio: 4 }"
)
SAMPLERS = "batch_sampler { max_sample: 1 max_trials: 1 } " + " ".join(
    "batch_sampler { sampler { min_scale: 0.3 max_scale: 1 min_aspect_ratio: 0.5 "
    f"max_aspect_ratio: 2 }} sample_constraint {{ min_jaccard_overlap: {v} }} "
    "max_sample: 1 max_trials: 50 }"
    for v in (0.1, 0.5, 0.9)
)


@pytest.mark.parametrize("exact", [False, True])
def test_the_whole_training_chain(tmp_path: Path, exact: bool) -> None:
    param = anno_layer(database(tmp_path / "db", "jpg"), TRAINING, SAMPLERS)
    runs = []
    for threads in (0, 3):
        with make_source(param, threads=threads, shared_seed=4, exact=exact) as source:
            runs.append([tuple(t.clone() for t in source.next()) for _ in range(8)])
    for (data, labels), (other, rows) in zip(*runs, strict=True):
        assert torch.equal(data, other)
        assert torch.equal(labels, rows)
        assert data.shape == (4, 3, 30, 30)
        assert -124 <= data.min() <= data.max() <= 152
        boxes = labels[0, 0]
        assert ((boxes[:, 0] >= 0) & (boxes[:, 0] < 4)).all()
        assert ((boxes[:, 3:5] >= 0) & (boxes[:, 3:5] < boxes[:, 5:7])).all()
        assert (boxes[:, 5:7] <= 1).all()
    assert len({labels.shape for _, labels in runs[0]}) > 1


def test_seeded_runs_repeat(tmp_path: Path) -> None:
    param = anno_layer(database(tmp_path / "db", "jpg"), TRAINING, SAMPLERS)
    runs = []
    for _ in range(2):
        with make_source(param, seed=9, profile=INTEL) as source:
            runs.append([t.clone() for _ in range(3) for t in source.next()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_expansion_keeps_the_pixels_under_the_boxes(tmp_path: Path) -> None:
    """PNG records, no JPEG in between: the image lies somewhere on the mean's colour."""
    param = anno_layer(
        database(tmp_path / "db"),
        "mean_value: 9 mean_value: 8 mean_value: 7 expand_param { prob: 1 max_expand_ratio: 3 }",
        batch=1,
    )
    with make_source(param, shared_seed=1, exact=False) as source:
        for i in range(4):
            data, labels = source.next()
            _, _, height, width = data.shape
            assert height > 40
            for row in labels[0, 0]:
                if row[0] < 0:
                    continue
                box = boxes_of(i)[int(row[2])]
                assert (row[5] - row[3]) * width == pytest.approx(
                    (box.xmax - box.xmin) * 60, abs=1e-3
                )
                assert (row[6] - row[4]) * height == pytest.approx(
                    (box.ymax - box.ymin) * 40, abs=1e-3
                )
            inside = photo(i, 40, 60).astype(F) - np.array([9, 8, 7], F)
            whole = data[0].numpy().transpose(1, 2, 0)
            found = np.argwhere((whole == inside[0, 0]).all(-1))
            assert any(np.array_equal(whole[y : y + 40, x : x + 60], inside) for y, x in found)
            assert (np.abs(whole).sum(-1) == 0).sum() >= height * width - 2400


def test_distortion_is_within_bounds() -> None:
    image = photo(1, 20, 30)
    param = text_format.Parse("brightness_prob: 1 brightness_delta: 10", pb.DistortionParameter())
    for seed in range(20):
        out = distort(image, param, CaffeRng(seed).raw, CaffeRng(seed).raw).astype(int)
        change = out - image
        assert np.abs(change).max() <= 11
        assert len(np.unique(change[(out > 0) & (out < 255)])) == 1
    param = text_format.Parse("random_order_prob: 1", pb.DistortionParameter())
    orders = set()
    for seed in range(40):
        out = distort(image, param, CaffeRng(seed).raw, CaffeRng(seed).raw)
        order = tuple(next(c for c in range(3) if np.array_equal(out[..., k], image[..., c]))
                      for k in range(3))  # fmt: skip
        orders.add(order)
    assert len(orders) == 6


@pytest.mark.parametrize(
    ("transform", "anno", "message"),
    [
        ("expand_param { max_expand_ratio: 1 }", "", "above 1"),
        ("distort_param { contrast_lower: 2 contrast_upper: 1 }", "", "contrast_lower"),
        ("", "batch_sampler { sampler { max_scale: 2 } }", "max_scale <= 1"),
        ("resize_param { resize_mode: FIT_SMALL_SIZE height: 9 width: 9 }", "", "batch_size 1"),
    ],
)
def test_refusals(tmp_path: Path, transform: str, anno: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_source(anno_layer(database(tmp_path / "db"), transform, anno))
