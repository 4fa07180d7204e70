"""Layers that make data, and the one that writes them.

A data layer only knows its tops' shapes; what it reads is a `caffeio.data.DataSource`, which the
net asks for batches. Sources: src/caffe/layers/*_data_layer.cpp, input_layer.cpp,
hdf5_output_layer.cpp.
"""

from __future__ import annotations

from typing import Any, ClassVar

from caffeio.data_shapes import guess_shapes
from caffeio.errors import CaffeIOError
from caffeio.layers.base import Count, LayerType, Shape, at_least, between, exactly, owns
from caffeio.layers.registry import layer


class SourceLayer(LayerType):
    """A layer without bottoms; `setup` finds its tops' shapes.

    Without a source the shapes are those of `guess_shapes`: good for building a net where its data
    are not, replaced by the first record's once a source is attached.
    """

    bottoms: ClassVar[Count] = exactly(0)
    tops: ClassVar[Count] = between(1, 2)
    is_source: ClassVar[bool] = True
    is_data: ClassVar[bool] = True
    reads_data: ClassVar[bool] = True
    differentiable: ClassVar[bool] = False
    compute = "caffeio.ops.sources:placeholders"
    top_sizes: list[Shape]

    def setup(self, *shapes: Shape) -> None:
        """Guess the shapes from the parameters."""
        try:
            self.top_sizes = guess_shapes(self.param)
        except CaffeIOError as error:
            raise self.error(error.message) from None

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Give what the parameters tell, or let one guess."""
        return tuple(self.top_sizes)

    def onnx(self, g: Any, *bottoms: str) -> tuple[str, ...]:
        """The tops are inputs of the graph, under their own names."""
        return self.context.top_names


@layer("Data")
class Data(SourceLayer):
    """Datums of an LMDB or LevelDB: data, and labels with a second top."""

    fields = owns(data_param=None)


@layer("ImageData")
class ImageData(SourceLayer):
    """Image files of a list: data and labels."""

    fields = owns(image_data_param=None)
    tops = exactly(2)


@layer("WindowData")
class WindowData(SourceLayer):
    """Windows of images (R-CNN): data and labels."""

    fields = owns(window_data_param=None)
    tops = exactly(2)


@layer("AnnotatedData")
class AnnotatedData(SourceLayer):
    """Images with boxes (SSD): data and (1, 1, boxes, 8) labels; the YOLO fork adds maps."""

    fields = owns(data_param=None, annotated_data_param=None)
    tops = between(1, 3)


@layer("VideoData")
class VideoData(SourceLayer):
    """Frames of a camera or a video; nets with it build, nothing reads it."""

    fields = owns(video_data_param=None, data_param=None)


@layer("MemoryData")
class MemoryData(SourceLayer):
    """Arrays that the program gives."""

    reads_data = False
    fields = owns(memory_data_param=None)
    tops = exactly(2)


@layer("HDF5Data")
class HDF5Data(SourceLayer):
    """Datasets of HDF5 files, one for each top, of the same name."""

    fields = owns(hdf5_data_param=None)
    tops = at_least(1)

    def setup(self, *shapes: Shape) -> None:
        """Guess the shapes; refuse transform_param as Caffe does."""
        self.check(
            not self.param.HasField("transform_param"), "HDF5Data does not transform data",
            field="transform_param",
        )  # fmt: skip
        super().setup()


@layer("DummyData")
class DummyData(SourceLayer):
    """Constants or random numbers."""

    reads_data = False
    fields = owns(dummy_data_param=None)
    tops = at_least(0)


@layer("Input")
class Input(SourceLayer):
    """Tops that the caller gives; without `input_param` shapes come with the data."""

    reads_data = False
    is_data = False
    fields = owns(input_param=None)
    tops = at_least(0)

    def setup(self, *shapes: Shape) -> None:
        """Take the shapes as they are given: none, one for all, or one for each top."""
        given = self.param.input_param.shape
        tops = len(self.param.top)
        self.check(
            len(given) in (0, 1, tops), f"give no shape, one, or one for each of the {tops} tops",
            field="input_param.shape",
        )  # fmt: skip
        self.top_sizes = guess_shapes(self.param) if len(given) else [(0,)] * tops


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
