"""What a data layer's class tells of its tops is what its source makes, over a grid of fields."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from caffeio.data import Options
from caffeio.data.db.lmdb import write_lmdb
from caffeio.data.records.annotated_datum import AnnotatedBox, encode_annotated
from caffeio.data.records.datum import encode_datum
from caffeio.errors import CaffeIOError
from caffeio.net.graph import build_graph
from caffeio.net.shapes import NetShapes, infer_net
from caffeio.net.sources import close_sources, open_sources
from caffeio.profiles import BVLC, INTEL, NVIDIA, PROFILES
from caffeio.proto.files import read_net
from tests.data.helpers import photo, raw_lmdb

TRANSFORMS = [
    "", "crop_size: 6", "crop_size: 40", "crop_h: 5 crop_w: 6", "crop_size: 6 crop_h: 5 crop_w: 4",
    "force_color: true", "force_gray: true", "force_color: true force_gray: true",
    "mean_value: 1", "mean_value: 1 mean_value: 2 mean_value: 3", 'mean_file: "m" mean_value: 1',
    "resize_param { height: 12 width: 14 }", "resize_param { height: 12 width: 14 } crop_size: 8",
    "resize_param { height: 12 width: 14 resize_mode: FIT_SMALL_SIZE }",
    "resize_param { height: 12 width: 14 resize_mode: FIT_LARGE_SIZE_AND_PAD }",
    "resize_param { height: 12 }", "resize_param { height: 1 width: 1 } resize_param { height: 2 }",
    "random_resize_param { min_size: 9 max_size: 12 }",
    "random_aspect_ratio_param { } crop_size: 7", "mirror: true scale: 0.5",
    "img_rand_resize_lower: 12 img_rand_resize_upper: 14 crop_size: 6",
]  # fmt: skip
LAYERS = {
    "raw": 'type: "Data" {two} data_param {{ source: "raw" {batch} backend: LMDB }}',
    "gray": 'type: "Data" {one} data_param {{ source: "gray" {batch} backend: LMDB }}',
    "jpeg": 'type: "Data" {two} data_param {{ source: "jpeg" {batch} backend: LMDB }}',
    "png": 'type: "Data" {two} data_param {{ source: "png" {batch} backend: LMDB }}',
    "boxes": 'type: "AnnotatedData" {two} data_param {{ source: "boxes" {batch} backend: LMDB }}',
    "plain": 'type: "AnnotatedData" {two} data_param {{ source: "plain" {batch} backend: LMDB }}',
    "typed": 'type: "AnnotatedData" {two} annotated_data_param {{ anno_type: BBOX }} '
             'data_param {{ source: "plain" {batch} backend: LMDB }}',
    "list": 'type: "ImageData" {two} image_data_param {{ source: "list" {batch} }}',
    "gray list": 'type: "ImageData" {two} '
                 'image_data_param {{ source: "list" {batch} is_color: false }}',
    "sized": 'type: "ImageData" {two} '
             'image_data_param {{ source: "list" {batch} new_height: 20 new_width: 10 }}',
    "least": 'type: "ImageData" {two} '
             'image_data_param {{ source: "list" {batch} min_height: 40 min_width: 50 }}',
    "half": 'type: "ImageData" {two} image_data_param {{ source: "list" {batch} new_height: 20 }}',
    "shuffled": 'type: "ImageData" {two} '
                'image_data_param {{ source: "list" {batch} shuffle: true }}',
    "windows": 'type: "WindowData" {two} window_data_param {{ source: "windows" {batch} }}',
    "padded": 'type: "WindowData" {two} '
              'window_data_param {{ source: "windows" {batch} context_pad: 3 }}',
    "memory": 'type: "MemoryData" {two} '
              'memory_data_param {{ {batch} channels: 3 height: 7 width: 9 }}',
    "flat": 'type: "MemoryData" {two} memory_data_param {{ {batch} channels: 3 width: 9 }}',
    "rows": 'type: "HDF5Data" {two} hdf5_data_param {{ source: "files" {batch} }}',
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data")
    raw_lmdb(out / "raw", 3, height=20, width=30)
    raw_lmdb(out / "gray", 3, height=20, width=30, channels=1)
    boxes = [AnnotatedBox(1, 0, 0.1, 0.1, 0.5, 0.5), AnnotatedBox(2, 0, 0.2, 0.2, 0.9, 0.9)]
    jpeg = encode_datum(data=encoded(".jpg"), label=1, encoded=True)
    kinds = {
        "jpeg": jpeg,
        "png": encode_datum(data=encoded(".png", alpha=True), label=1, encoded=True),
        "boxes": encode_annotated(jpeg, boxes),
        "plain": encode_annotated(jpeg, [], type=None),
    }
    for name, record in kinds.items():
        write_lmdb(out / name, [(b"0", record), (b"1", record)])
    cv2.imwrite(str(out / "a.jpg"), photo(0, 31, 33))
    (out / "list").write_text("a.jpg 3\na.jpg 1\n")
    (out / "windows").write_text("# 0\na.jpg\n3\n31\n33\n2\n1 0.9 1 1 9 9\n0 0.1 2 2 9 9\n")
    h5py = pytest.importorskip("h5py")
    with h5py.File(out / "rows.h5", "w") as file:
        file["x"], file["y"] = np.zeros((4, 3, 5), "f"), np.zeros((4,), "f")
    (out / "files").write_text("rows.h5\n")
    return out


def encoded(suffix: str, *, alpha: bool = False) -> bytes:
    image = photo(0, 25, 35)
    if alpha:
        image = np.dstack([image, image[..., 0]])
    return bytes(cv2.imencode(suffix, image)[1])


def net_of(kind: str, transform: str, batch: int = 2) -> str:
    tops = {"one": 'top: "x"', "two": 'top: "x" top: "y"'}
    text = LAYERS[kind].format(batch=f"batch_size: {batch}", **tops)
    return f'layer {{ name: "d" {text} transform_param {{ {transform} }} }}'


def told(text: str, profile, *search: Path) -> NetShapes:
    return infer_net(build_graph(read_net(text).message), profile=profile, search_path=search)


def made(text: str, profile, folder: Path) -> list[tuple[int, ...]] | str:
    graph = build_graph(read_net(text).message)
    try:
        sources = open_sources(graph, profile, [str(folder)], Options(threads=0))
    except CaffeIOError as error:
        return error.message
    try:
        batch = [tuple(top.shape) for top in sources["d"].next()]
    except CaffeIOError:
        batch = None  # MemoryData has none yet
    finally:
        close_sources(sources)
    shapes = list(sources["d"].top_shapes)
    if batch is not None:  # how many boxes there are depends on the batch
        boxes = [len(shape) == 4 and shape[1:2] + shape[3:] == (1, 8) for shape in shapes]
        cut = [[(*s[:2], *s[3:]) if box else s for s, box in zip(some, boxes, strict=True)]
               for some in (batch, shapes)]  # fmt: skip
        assert cut[0] == cut[1]
    return shapes


def differences(text: str, profile, folder: Path) -> Iterator[str]:
    real = made(text, profile, folder)
    here, away = told(text, profile, folder), told(text, profile)
    if isinstance(real, str):
        for shapes in (here, away):
            for _, message in shapes.problems:
                if message != real:
                    yield f"{text}: told {message!r}, the source says {real!r}"
        return
    if here.problems or away.problems:
        yield f"{text}: told {here.problems + away.problems}, the source has {real}"
        return
    shuffled = "shuffle" in text
    if not shuffled and list(here.layers[0].tops) != real:
        yield f"{text}, {profile.name}: told {here.layers[0].tops}, the source has {real}"
    for shapes in (here, away):
        note = shapes.layers[0].note
        for top, (mine, theirs) in enumerate(zip(shapes.layers[0].tops, real, strict=True)):
            if top and "boxes assumed" in note:
                continue
            for axis, (a, b) in enumerate(zip(mine or theirs, theirs, strict=True)):
                if a not in (-1, b) and not ("3 channels" in note and axis == 1):
                    yield f"{text}, {profile.name}: told {mine} from afar, the source has {real}"


# Without its data nobody knows whether a record is encoded: force_color and force_gray count then.
@pytest.mark.parametrize("kind", [k for k in LAYERS if k not in ("memory", "flat", "rows")])
def test_data_layers(kind: str, folder: Path) -> None:
    wrong = []
    for transform, profile in itertools.product(TRANSFORMS, (BVLC, INTEL, NVIDIA)):
        if profile is not BVLC and not ("crop_h" in transform or "lower" in transform):
            continue
        if "force" in transform and kind in ("raw", "gray"):
            found = told(net_of(kind, transform), profile, folder).layers[0].tops
            if "force_color: true force_gray" not in transform:
                wrong += [] if list(found) == made(net_of(kind, transform), profile, folder) else [
                    f"{kind} {transform}: {found}"]  # fmt: skip
            continue
        wrong += differences(net_of(kind, transform), profile, folder)
    assert not wrong, "\n".join(wrong[:8]) + f"\n{len(wrong)} in all"


@pytest.mark.parametrize("profile", PROFILES.values(), ids=str)
def test_layers_without_transforms(profile, folder: Path) -> None:
    wrong = []
    for kind, batch in itertools.product(("memory", "flat", "rows"), (1, 3)):
        text = net_of(kind, "", batch).replace("transform_param {  }", "")
        wrong += differences(text, profile, folder)
    crop = net_of("memory", "crop_size: 4")  # transform_param is for images that are added
    assert list(told(crop, profile).layers[0].tops) == made(crop, profile, folder)
    assert told(crop, profile).blobs == {"x": (2, 3, 7, 9), "y": (2, 1, 1, 1)}
    assert not wrong, wrong


def test_where_shapes_are_from(folder: Path) -> None:
    text = net_of("raw", "crop_size: 6")
    assert told(text, BVLC).guessed == {"d": "the data are not here: 3 channels assumed"}
    assert told(text, BVLC, folder).guessed == {"d": f"first record of {folder / 'raw'}"}
    assert told(net_of("memory", ""), BVLC).guessed == {}
    assert told(net_of("shuffled", ""), BVLC, folder).blobs["x"] == (2, 3, -1, -1)


def test_labels_of_annotated_records(folder: Path) -> None:
    """A record without boxes' type has a plain label; the rows of others are those of a batch."""
    labels = {"plain": (2,), "typed": (1, 1, 1, 8), "boxes": (1, 1, 2, 8)}
    for kind, shape in labels.items():
        assert made(net_of(kind, ""), BVLC, folder) == [(2, 3, 25, 35), shape]
        assert told(net_of(kind, ""), BVLC, folder).blobs["y"] == shape
