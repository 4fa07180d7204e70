"""Rules about the data that a net is shown."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from caffeio.converters.lint.model import ERROR, Finding, Fix, NetContext, net_rule
from caffeio.data.first_record import Opener, opener
from caffeio.errors import CaffeIOError
from caffeio.layers.base import FOREIGN_FIELD
from caffeio.layers.registry import batch_message, reads_data
from caffeio.layers.unread_fields import unread_fields
from caffeio.net.graph import LayerNode
from caffeio.proto.io.broken import BROKEN_HDF5
from caffeio.proto.io.regular import read_regular


@net_rule("CIO408", "random-test")
def random_test(context: NetContext) -> Iterator[Finding]:
    """Test images are changed at random, so that no two tests give the same figures.

    mirror flips every second image in TEST too; Intel's random_* transforms know no phase.
    """
    for index, layer in enumerate(context.layers):
        t = layer.transform_param
        test_only = context.in_phase(layer, "TEST") and not context.in_phase(layer, "TRAIN")
        if not reads_data(layer.type) or not test_only:
            continue
        if t.mirror:
            fix = Fix("set mirror to false", (f"layer[{index}].transform_param.mirror=false",))
            message = "mirrors test images at random"
            yield context.layer("CIO408", index, message, "transform_param", "mirror", fix=fix)
        resize = t.random_resize_param
        fixed = resize.min_size == resize.max_size and resize.min_size
        if t.HasField("random_aspect_ratio_param") and not t.HasField("random_resize_param"):
            message = "cuts random windows out of test images"
            steps = ("transform_param", "random_aspect_ratio_param")
            yield context.layer("CIO408", index, message, *steps)
        elif t.HasField("random_resize_param") and not fixed:
            message = "resizes test images at random"
            steps = ("transform_param", "random_resize_param")
            yield context.layer("CIO408", index, message, *steps)


@net_rule("CIO409", "phases-differ")
def phases_differ(context: NetContext) -> Iterator[Finding]:
    """Training and test images are scaled in different ways.

    The data layers of the two phases have another scale, mean or crop. What the net learned on
    the one does not hold for the other.
    """
    pairs: dict[str, LayerNode] = {}
    for phase in ("TRAIN", "TEST"):
        graph = context.graphs.get(phase)
        data = [n for n in graph.nodes if reads_data(n.type)] if graph else []
        if len(data) != 1:
            return
        pairs[phase] = data[0]
    train, test = pairs["TRAIN"].param, pairs["TEST"].param
    if pairs["TRAIN"].source_index == pairs["TEST"].source_index or train.type != test.type:
        return
    a, b = train.transform_param, test.transform_param
    index = pairs["TEST"].source_index
    assert index is not None
    for name in ("scale", "mean_file", "mean_value", "crop_size"):
        left, right = getattr(a, name), getattr(b, name)
        if _plain(left) != _plain(right) and not (name == "crop_size" and 0 in (left, right)):
            message = f"{name} is {_words(right)} in TEST, {_words(left)} in TRAIN"
            yield context.layer("CIO409", index, message, "transform_param", name)


def _plain(value: object) -> object:
    return value if isinstance(value, (int, float, str)) else list(value)  # type: ignore[call-overload]


def _words(value: object) -> str:
    plain = _plain(value)
    if isinstance(plain, list):
        return ", ".join(f"{v:g}" for v in plain) or "not set"
    return f"{plain:g}" if isinstance(plain, float) else str(plain) or "not set"


@net_rule("CIO410", "no-backend", ERROR)
def no_backend(context: NetContext) -> Iterator[Finding]:
    """A data layer without `backend` reads LevelDB, and its source looks like an LMDB.

    LEVELDB is the default. Caffe dies when it opens the source.
    """
    for index, layer in enumerate(context.layers):
        p = layer.data_param
        if batch_message(layer.type) != "data_param" or p.HasField("backend"):
            continue
        if "lmdb" in p.source.lower() and context.editable:
            fix = Fix("write backend: LMDB", (f"layer[{index}].data_param.backend=LMDB",))
            message = f"reads {p.source!r} as LevelDB, the default: write backend: LMDB"
            yield context.layer("CIO410", index, message, "data_param", fix=fix)


@net_rule("CIO411", "random-without-crop", ERROR)
def random_without_crop(context: NetContext) -> Iterator[Finding]:
    """random_resize_param and random_aspect_ratio_param need a crop_size; Caffe dies otherwise."""
    for index, layer in enumerate(context.layers):
        t = layer.transform_param
        for name in ("random_resize_param", "random_aspect_ratio_param"):
            if t.HasField(name) and not t.crop_size:
                message = f"{name} needs a crop_size"
                yield context.layer("CIO411", index, message, "transform_param", name)


@net_rule("CIO412", "resize-thrown-away")
def resize_thrown_away(context: NetContext) -> Iterator[Finding]:
    """resize_param together with crop_size: Intel's Caffe crops the image as it was before.

    Only the size of the resized image counts, for the place of the crop. Use random_resize_param
    with equal sizes, or store resized images.
    """
    if not context.profile.data_crop_before_resize:
        return
    for index, layer in enumerate(context.layers):
        t = layer.transform_param
        if layer.type == "Data" and len(t.resize_param) and t.crop_size:
            message = "the crop is cut from the image before resize_param"
            yield context.layer("CIO412", index, message, "transform_param", "resize_param")


@net_rule("CIO415", "hdf5-transformed", ERROR)
def hdf5_transformed(context: NetContext) -> Iterator[Finding]:
    """HDF5Data transforms nothing: Caffe dies at a transform_param. Store what the net reads."""
    for index, layer in enumerate(context.layers):
        if layer.type == "HDF5Data" and layer.HasField("transform_param"):
            yield context.layer("CIO415", index, "HDF5Data transforms nothing", "transform_param")


@net_rule("CIO416", "colour-and-gray", ERROR)
def colour_and_gray(context: NetContext) -> Iterator[Finding]:
    """force_color and force_gray exclude each other; Caffe dies at the set-up."""
    for index, layer in enumerate(context.layers):
        if layer.transform_param.force_color and layer.transform_param.force_gray:
            message = "give force_color or force_gray, not both"
            yield context.layer("CIO416", index, message, "transform_param", "force_gray")


@net_rule("CIO418", "unread-data-field", ERROR)
def unread_data_field(context: NetContext) -> Iterator[Finding]:
    """A fork's field changes the data, and caffeio does not read it: a training stops there.

    With another Caffe the net runs; `caffeio train` opens no source that it would read wrongly.
    """
    for index, layer in enumerate(context.layers):
        for path in unread_fields(layer):
            yield context.layer("CIO418", index, f"{path} {FOREIGN_FIELD}", *path.split("."))


@net_rule("CIO417", "hdf5-datasets", ERROR)
def hdf5_datasets(context: NetContext) -> Iterator[Finding]:
    """An HDF5 file lacks a dataset of a top's name, or its datasets differ in their rows.

    Caffe dies when it opens the file, which may be hours later. Only looked at where the list and
    its files are here, and the package h5py.
    """
    find = opener(context.search)
    for index, layer in enumerate(context.layers):
        if layer.type != "HDF5Data":
            continue
        listing = find(layer.hdf5_data_param.source)
        for message in hdf5_problems(listing, list(layer.top), find) if listing else ():
            yield context.layer("CIO417", index, message, "hdf5_data_param", "source")


def hdf5_problems(listing: Path, tops: list[str], find: Opener) -> Iterator[str]:
    """What is wrong with the HDF5 files of a list, for these tops."""
    try:
        h5py: Any = import_module("h5py")
        names = read_regular(listing).decode("utf-8", "surrogateescape").split()
    except (ImportError, CaffeIOError):
        return
    for name in names:
        path = find(name)
        if path is None:
            continue
        try:
            with h5py.File(path) as file:
                rows = {top: file[top].shape[:1] for top in tops if top in file}
        except BROKEN_HDF5:
            yield f"{name} is no HDF5 file, or has links or types that cannot be read"
            continue
        missing = [top for top in tops if top not in rows]
        if missing:
            yield f"{name} has no dataset {missing[0]!r}, which a top names"
        elif len(set(rows.values())) > 1:
            told = ", ".join(f"{top} {shape[0] if shape else 1}" for top, shape in rows.items())
            yield f"the datasets of {name} differ in their rows: {told}"
