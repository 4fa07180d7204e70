"""make_source: from a data layer's parameters to an open source."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from caffeio.boost_random import CaffeRng
from caffeio.data.base import DataSource, Options, SourceContext
from caffeio.errors import DataError
from caffeio.memory import memory_named
from caffeio.profiles import BVLC, Profile
from caffeio.proto import caffe_pb2 as pb

_CLASSES = {
    "AnnotatedData": "annotated_data.AnnotatedSource",
    "Data": "data.DatabaseSource",
    "DummyData": "memory_data.DummySource",
    "HDF5Data": "hdf5_data.Hdf5Source",
    "ImageData": "image_data.ImageSource",
    "MemoryData": "memory_data.MemorySource",
    "WindowData": "window_data.WindowSource",
}
SOURCE_TYPES = frozenset(_CLASSES)


def make_source(
    param: pb.LayerParameter,
    *,
    phase: str = "TRAIN",
    profile: Profile = BVLC,
    rank: int = 0,
    world: int = 1,
    seed: int | CaffeRng | None = None,
    search_path: Iterable[str] = (),
    where: str = "",
    **options: Any,
) -> DataSource:
    """Open what data layer `param` reads.

    phase: TRAIN or TEST (of the layer, if it names one). rank, world: see Options, whose other
    fields are taken as keywords. seed: `random_seed`, or the main generator at this layer's turn:
    the numbers are real Caffe's then (an int means that nothing was drawn before; BVLC adds the
    rank). Relative paths are looked up from the working directory, then in `search_path`. `where`
    ("file:line:column") goes in front of errors. Raises DataError, also for a rank that is none of
    0..world-1.
    """
    return open_source(
        param, phase=phase, profile=profile, seed=seed, search_path=search_path, where=where,
        options=Options(rank=rank, world=world, **options),
    )  # fmt: skip


def open_source(
    param: pb.LayerParameter,
    *,
    phase: str = "TRAIN",
    profile: Profile = BVLC,
    options: Options,
    seed: int | CaffeRng | None = None,
    search_path: Iterable[str] = (),
    where: str = "",
) -> DataSource:
    """As `make_source`, with the options as one object."""
    if param.HasField("phase"):
        phase = pb.Phase.Name(param.phase)
    layer = SourceContext(param, phase, profile, tuple(search_path), where, options)
    if param.type not in _CLASSES:
        raise _refusal(layer)
    module, name = _CLASSES[param.type].split(".")
    with memory_named(f"layer {param.name!r} (type {param.type})"):
        source: DataSource = getattr(import_module(f"caffeio.data.sources.{module}"), name)(layer)
    if seed is not None:
        try:
            exact = CaffeRng(seed + options.rank) if isinstance(seed, int) else seed
            source.draw_setup(exact)
        except BaseException:
            source.close()
            raise
    return source


def _refusal(layer: SourceContext) -> DataError:
    kind = layer.param.type
    if kind == "VideoData":
        return layer.error(
            "frames of cameras and videos are not read; write the frames out and use ImageData"
        )
    if kind == "Input":
        return layer.error("an Input layer has no source: give its tops to the net as inputs")
    return layer.error(f"no data source reads this type; known are {', '.join(sorted(_CLASSES))}")
