"""Rules about the data that a net is shown."""

from __future__ import annotations

from collections.abc import Iterator

from caffeio.converters.lint.model import ERROR, Finding, Fix, NetContext, net_rule
from caffeio.layers.registry import reads_data
from caffeio.net.graph import Node


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
    pairs: dict[str, Node] = {}
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
        if layer.type not in ("Data", "AnnotatedData") or p.HasField("backend"):
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
