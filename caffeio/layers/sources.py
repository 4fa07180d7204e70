"""Layers that make data, and the one that writes them.

A data layer knows its tops' shapes: from its parameters, and from the first record where that is
here. What it reads is a `caffeio.data.DataSource`, which asks this class for the shapes, and which
the net asks for batches. Sources: src/caffe/layers/*_data_layer.cpp, input_layer.cpp,
hdf5_output_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from caffeio.layers.base import (
    Count,
    LayerContext,
    LayerType,
    Shape,
    at_least,
    between,
    exactly,
    owns,
)
from caffeio.layers.dims import ANY, known
from caffeio.layers.registry import layer
from caffeio.layers.transforms import check_transform, listed_size, transformed
from caffeio.proto import caffe_pb2 as pb

SIDE = 227  # of an image of which nothing is known: CaffeNet's


@dataclass(frozen=True)
class Record:
    """What shapes the first record of a data layer has."""

    shapes: tuple[Shape, ...]  # (C, H, W) of the image as it is loaded; HDF5Data: the tops' rows
    place: str = ""  # where it was read, in words
    rows: int | None = None  # AnnotatedData: how many rows of labels; None: a plain label


class SourceLayer(LayerType):
    """A layer without bottoms.

    `told` gives its tops' shapes as far as its parameters and, where it is set, `record` tell
    them. `shapes` has usual sizes for what is not known: a net can be built where its data are not.
    Where a source is attached, its first record decides.
    """

    bottoms: ClassVar[Count] = exactly(0)
    tops: ClassVar[Count] = between(1, 2)
    is_source: ClassVar[bool] = True
    is_data: ClassVar[bool] = True
    reads_data: ClassVar[bool] = True
    differentiable: ClassVar[bool] = False
    compute = "caffeio.ops.sources:placeholders"
    # What real Caffe draws when it sets the layer up (caffeio/data/draws.py).
    transforms: ClassVar[bool] = True  # by a DataTransformer, which may have a generator
    prefetches: ClassVar[bool] = True  # in a thread, which has one
    has_reader: ClassVar[bool] = False  # Intel's reader thread fetches its records
    batch_message: ClassVar[str] = ""  # that holds batch_size and, if it has one, source
    record: Record | None = None
    assumed: tuple[str, ...] = ()  # what `told` takes for granted while the record is not here

    def setup(self, *shapes: Shape) -> None:
        """Check input_param, with which drawing tools tell the shapes of data layers too."""
        given, tops = self.param.input_param.shape, len(self.context.top_names)
        self.check(
            len(given) in (0, 1, tops), f"give no shape, one, or one for each of the {tops} tops",
            field="input_param.shape",
        )  # fmt: skip

    @classmethod
    def summary(cls, param: pb.LayerParameter) -> str | None:
        """Say `train_lmdb, 64 a batch`."""
        if not cls.batch_message or not param.HasField(cls.batch_message):
            return None
        p = getattr(param, cls.batch_message)
        return f"{p.source}, {p.batch_size} a batch" if getattr(p, "source", "") else None

    @classmethod
    def draw_own(cls, param: pb.LayerParameter, draw: Callable[[], int]) -> dict[str, int | None]:
        """Draw what the type takes for itself between the two InitRand of its transformer."""
        return {}

    def sizes(self, *, usual: bool) -> Sequence[Shape | None]:
        """Find the shape of each top that there may be; `usual` sizes for what is not known.

        Without `usual` dimensions that are not known are ANY, and shapes of which nothing is None.
        """
        raise NotImplementedError

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Give what is known of the tops, and usual sizes for the rest."""
        found = self._given() or self.sizes(usual=True)
        return tuple(shape for shape in found[: len(self.context.top_names)] if shape is not None)

    def told(self, *bottoms: Shape) -> tuple[Shape | None, ...]:
        """Give what is known of the tops."""
        return tuple((self._given() or self.sizes(usual=False))[: len(self.context.top_names)])

    def _given(self) -> list[Shape]:
        shapes: list[Shape] = [tuple(map(int, s.dim)) for s in self.param.input_param.shape]
        return shapes * len(self.context.top_names) if len(shapes) == 1 else shapes

    @property
    def note(self) -> str:
        """Where the shapes are from that `told` gives; empty: the parameters say it all."""
        if self._given() or not self.reads_data:
            return ""
        if self.record is not None:
            return self.record.place
        words = " and ".join(self.assumed)
        return f"the data are not here: {words} assumed" if words else "the data are not here"

    def onnx(self, g: Any, *bottoms: str) -> tuple[str, ...]:
        """Make the tops inputs of the graph, under their own names."""
        return self.context.top_names


class PictureLayer(SourceLayer):
    """Batches of images (N, C, H, W) that transform_param changes, and their labels."""

    batch_message = "data_param"

    def setup(self, *shapes: Shape) -> None:
        """Refuse what transform_param may not say."""
        super().setup()

        def fail(message: str, field: str) -> None:
            raise self.error(message, field=f"transform_param.{field}")

        check_transform(self.param.transform_param, fail)

    def batch(self, *, usual: bool) -> int:
        """Find the batch size."""
        return int(getattr(self.param, self.batch_message).batch_size) or (1 if usual else ANY)

    def loaded(self, *, usual: bool) -> Shape:
        """(C, H, W) of the first image, as transform_param gets it."""
        if self.record is not None:
            return self.record.shapes[0]
        t, side = self.param.transform_param, SIDE if usual else ANY
        several = len(t.mean_value) if len(t.mean_value) > 1 else 3 if usual else ANY
        return (1 if t.force_gray else 3 if t.force_color else several, side, side)

    def item(self, *, usual: bool) -> Shape:
        """(C, H, W) of an item of the batch; where the size is known, 3 channels are assumed."""
        loaded = self.loaded(usual=usual)
        channels, *plane = transformed(self.param.transform_param, self.profile, loaded)
        if not known(channels) and known(plane):
            self.assumed += ("3 channels",)
            channels = 3
        return (channels, *plane)

    def sizes(self, *, usual: bool) -> Sequence[Shape | None]:
        """Give the images (N, C, H, W) and the labels."""
        return self.batch_of(self.batch(usual=usual), self.item(usual=usual), usual=usual)

    def batch_of(self, batch: int, item: Shape, *, usual: bool = False) -> list[Shape | None]:
        """Give the tops' shapes for a batch of such items."""
        return [(batch, *item), (batch,)]


@layer("Data")
class Data(PictureLayer):
    """Datums of an LMDB or LevelDB: data, and labels with a second top."""

    has_reader = True
    fields = owns(data_param=None)


@layer("ImageData")
class ImageData(PictureLayer):
    """Image files of a list: data and labels."""

    fields = owns(image_data_param=None)
    tops = exactly(2)
    batch_message = "image_data_param"

    @classmethod
    def draw_own(cls, param: pb.LayerParameter, draw: Callable[[], int]) -> dict[str, int | None]:
        """Draw the seed of the shuffling, and how many images are skipped."""
        p = param.image_data_param
        return {"shuffle": draw() if p.shuffle else None, "skip": draw() if p.rand_skip else None}

    def setup(self, *shapes: Shape) -> None:
        """Refuse half a size."""
        super().setup()
        p = self.param.image_data_param
        for one, other in (("new_height", "new_width"), ("min_height", "min_width")):
            self.check(
                bool(getattr(p, one)) == bool(getattr(p, other)),
                f"{one} and {other} must be set at the same time", field=f"image_data_param.{one}",
            )  # fmt: skip

    def loaded(self, *, usual: bool) -> Shape:
        """Give the size that the list's images get; is_color says how many channels they have."""
        p, side = self.param.image_data_param, SIDE if usual else ANY
        size = (side, side) if self.record is None else self.record.shapes[0][1:]
        return (3 if p.is_color else 1, *listed_size(p, *size))


@layer("WindowData")
class WindowData(PictureLayer):
    """Windows of images (R-CNN), each crop_size wide and high: data and labels."""

    fields = owns(window_data_param=None)
    tops = exactly(2)
    batch_message = "window_data_param"

    @classmethod
    def draw_own(cls, param: pb.LayerParameter, draw: Callable[[], int]) -> dict[str, int | None]:
        """Draw the seed by which windows are chosen."""
        has = param.transform_param.mirror or param.transform_param.crop_size
        return {"windows": draw() if has else None}

    def setup(self, *shapes: Shape) -> None:
        """Check the size of the windows."""
        super().setup()
        crop, pad = self.param.transform_param.crop_size, self.param.window_data_param.context_pad
        self.check(crop > 0, "must be positive", field="transform_param.crop_size")
        self.check(
            crop > 2 * pad, "leaves nothing of crop_size", field="window_data_param.context_pad"
        )


@layer("AnnotatedData")
class AnnotatedData(PictureLayer):
    """Images with boxes (SSD): data and (1, 1, boxes, 8) labels; the YOLO fork adds maps."""

    has_reader = True
    fields = owns(data_param=None, annotated_data_param=None)
    tops = between(1, 3)
    dynamic = True

    def batch_of(self, batch: int, item: Shape, *, usual: bool = False) -> list[Shape | None]:
        """Give rows of labels (in the YOLO fork 300 of 5 an image), and a map of the pixels'."""
        p = self.param.annotated_data_param
        rows = 1 if usual else ANY
        labels: Shape = (1, 1, rows, 8)
        if p.yolo_data_type == 1:
            labels = (batch, 1, 300, 5)
        elif self.record is not None:
            labels = (batch,) if self.record.rows is None else (1, 1, self.record.rows, 8)
        elif not p.HasField("anno_type"):
            self.assumed += ("boxes",)
        size = (p.seg_resize_height, p.seg_resize_width)
        if not all(size):
            size = (item[1] // (p.seg_scales or 1), item[2] // (p.seg_scales or 1))
        return [(batch, *item), labels, (batch, 1, *size)]


@layer("VideoData")
class VideoData(PictureLayer):
    """Frames of a camera or a video; nets with it build, nothing reads it."""

    fields = owns(video_data_param=None, data_param=None)


@layer("MemoryData")
class MemoryData(SourceLayer):
    """Arrays that the program gives; transform_param is for images that it adds."""

    prefetches = False
    reads_data = False
    fields = owns(memory_data_param=None)
    batch_message = "memory_data_param"
    tops = exactly(2)

    def setup(self, *shapes: Shape) -> None:
        """Check that all sizes are given."""
        super().setup()
        for field in ("batch_size", "channels", "height", "width"):
            self.check(
                getattr(self.param.memory_data_param, field) > 0, "must be given and positive",
                field=f"memory_data_param.{field}",
            )  # fmt: skip

    def sizes(self, *, usual: bool) -> Sequence[Shape | None]:
        """Give the images, and labels (N, 1, 1, 1), which real Caffe's are once data are there."""
        p = self.param.memory_data_param
        return [(p.batch_size, p.channels, p.height, p.width), (p.batch_size, 1, 1, 1)]


@layer("HDF5Data")
class HDF5Data(SourceLayer):
    """Datasets of HDF5 files, one for each top, of the same name."""

    transforms = False
    fields = owns(hdf5_data_param=None)
    batch_message = "hdf5_data_param"
    tops = at_least(1)

    def setup(self, *shapes: Shape) -> None:
        """Refuse transform_param, as Caffe does."""
        super().setup()
        self.check(
            not self.param.HasField("transform_param"), "HDF5Data does not transform data",
            field="transform_param",
        )  # fmt: skip

    def sizes(self, *, usual: bool) -> Sequence[Shape | None]:
        """Give a batch of each dataset's rows; without a file one number a row is usual."""
        batch = int(self.param.hdf5_data_param.batch_size) or (1 if usual else ANY)
        if self.record is not None:
            return [(batch, *row) for row in self.record.shapes]
        return [(batch, 1) if usual else None] * len(self.context.top_names)


@layer("DummyData")
class DummyData(SourceLayer):
    """Constants or random numbers."""

    reads_data = False
    fills_once = True
    fields = owns(dummy_data_param=None)
    tops = at_least(0)

    def setup(self, *shapes: Shape) -> None:
        """Check how often the sizes are given."""
        super().setup()
        p, tops = self.param.dummy_data_param, len(self.context.top_names)
        if len(p.shape):
            self.check(
                len(p.shape) in (1, tops), f"must be given once, or for each of the {tops} tops",
                field="dummy_data_param.shape",
            )  # fmt: skip
            return
        self.check(
            all(len(v) in (1, tops) for v in (p.num, p.channels, p.height, p.width)),
            f"num, channels, height and width must be given once, or for each of the {tops} tops",
            field="dummy_data_param",
        )

    def sizes(self, *, usual: bool) -> Sequence[Shape | None]:
        """Give `shape`, or the old num, channels, height, width."""
        p, tops = self.param.dummy_data_param, len(self.context.top_names)
        if len(p.shape):
            shapes: list[Shape] = [tuple(map(int, s.dim)) for s in p.shape]
            return shapes * tops if len(shapes) == 1 else shapes
        old = (p.num, p.channels, p.height, p.width)
        return [tuple(int(v[i] if len(v) > 1 else v[0]) for v in old) for i in range(tops)]


@layer("Input")
class Input(SourceLayer):
    """Tops that the caller gives; without `input_param` shapes come with the data."""

    reads_data = False
    is_data = False
    fields = owns(input_param=None)
    tops = at_least(0)

    @classmethod
    def summary(cls, param: pb.LayerParameter) -> str:
        """Say nothing: its tops' shapes stand beside it."""
        return ""

    def sizes(self, *, usual: bool) -> Sequence[Shape | None]:
        """Nothing is known of tops without input_param."""
        return [(0,) if usual else None] * len(self.context.top_names)


def usual_shapes(param: pb.LayerParameter, cls: type[LayerType]) -> tuple[Shape, ...]:
    """Return the tops' shapes of a data layer of type `cls` as a net without data has them.

    What its parameters do not tell has usual sizes: batches of 1, 3 channels, 227 x 227 pixels,
    one box, one number a row. Raises LayerError for wrong parameters.
    """
    return cls(param, LayerContext(top_names=tuple(param.top))).configure()


@layer("HDF5Output")
class HDF5Output(LayerType):
    """Writes its two bottoms as datasets `data` and `label` of an HDF5 file, at every forward.

    The file is made (and emptied) when the first batch comes. As in real Caffe a second forward
    fails, because the datasets are there already. Blobs of fewer than four axes are written with
    four, as Caffe's legacy shape.
    """

    is_metric = True
    bottoms = exactly(2)
    tops = exactly(0)
    differentiable = False
    fields = owns(hdf5_output_param=("file_name",))
    compute = "caffeio.ops.hdf5_output:hdf5_output"

    def setup(self, *shapes: Shape) -> None:
        """Check the parameters."""
        self.file_name = self.param.hdf5_output_param.file_name
        self.check(bool(self.file_name), "names no file", field="hdf5_output_param.file_name")
        self.check(
            shapes[0][:1] == shapes[1][:1], f"{shapes[0][:1]} data but {shapes[1][:1]} labels"
        )
        for shape in shapes:
            self.check(len(shape) <= 4, "cannot write a blob of more than 4 axes")
        self.written = False

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """There is no top."""
        return ()
