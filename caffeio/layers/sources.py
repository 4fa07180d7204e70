"""Layers that make data, and the one that writes them.

A data layer only knows its tops' shapes; what it reads is a `caffeio.data.DataSource`, which the
net asks for batches. Sources: src/caffe/layers/*_data_layer.cpp, input_layer.cpp,
hdf5_output_layer.cpp.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from caffeio.data_shapes import guess_shapes
from caffeio.errors import CaffeIOError
from caffeio.layers.base import Count, Layer, Shape, at_least, between, exactly, layer


class SourceLayer(Layer):
    """A layer without bottoms; `setup` finds its tops' shapes.

    Without a source the shapes are those of `guess_shapes`: good for building a net where its data
    are not, replaced by the first record's once a source is attached.
    """

    bottoms: ClassVar[Count] = exactly(0)
    tops: ClassVar[Count] = between(1, 2)
    is_source: ClassVar[bool] = True
    differentiable: ClassVar[bool] = False

    def setup(self, *shapes: Shape) -> None:
        """Guess the shapes from the parameters."""
        try:
            self.top_sizes = guess_shapes(self.param)
        except CaffeIOError as error:
            raise self.error(error.message) from None

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Tensors of the right shapes on the meta device: values come from a source."""
        return tuple(torch.empty(shape, device="meta") for shape in self.top_sizes)

    def onnx(self, g: Any, *bottoms: str) -> tuple[str, ...]:
        """The tops are inputs of the graph, under their own names."""
        return self.context.top_names


@layer("Data")
class Data(SourceLayer):
    """Datums of an LMDB or LevelDB: data, and labels with a second top."""


@layer("ImageData")
class ImageData(SourceLayer):
    """Image files of a list: data and labels."""

    tops = exactly(2)


@layer("WindowData")
class WindowData(SourceLayer):
    """Windows of images (R-CNN): data and labels."""

    tops = exactly(2)


@layer("AnnotatedData")
class AnnotatedData(SourceLayer):
    """Images with boxes (SSD): data and (1, 1, boxes, 8) labels; the YOLO fork adds maps."""

    tops = between(1, 3)


@layer("VideoData")
class VideoData(SourceLayer):
    """Frames of a camera or a video; nets with it build, nothing reads it."""


@layer("MemoryData")
class MemoryData(SourceLayer):
    """Arrays that the program gives."""

    tops = exactly(2)


@layer("HDF5Data")
class HDF5Data(SourceLayer):
    """Datasets of HDF5 files, one for each top, of the same name."""

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

    tops = at_least(0)


@layer("Input")
class Input(SourceLayer):
    """Tops that the caller gives; without `input_param` shapes come with the data."""

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
class HDF5Output(Layer):
    """Writes its two bottoms as datasets `data` and `label` of an HDF5 file, at every forward.

    The file is made (and emptied) when the first batch comes. As in real Caffe a second forward
    fails, because the datasets are there already. Blobs of fewer than four axes are written with
    four, as Caffe's legacy shape.
    """

    bottoms = exactly(2)
    tops = exactly(0)
    differentiable = False

    def setup(self, *shapes: Shape) -> None:
        """Check the parameters."""
        self._name = self.param.hdf5_output_param.file_name
        self.check(bool(self._name), "names no file", field="hdf5_output_param.file_name")
        self.check(
            shapes[0][:1] == shapes[1][:1], f"{shapes[0][:1]} data but {shapes[1][:1]} labels"
        )
        for shape in shapes:
            self.check(len(shape) <= 4, "cannot write a blob of more than 4 axes")
        self._written = False

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Write both bottoms; there is no top."""
        data, label = bottoms
        if data.is_meta:
            return ()
        try:
            h5py: Any = import_module("h5py")
        except ImportError:
            raise self.error(
                "writing HDF5 needs the package h5py: pip install 'caffeio[hdf5]'"
            ) from None
        self.check(
            not self._written, f"{self._name!r} has its datasets already: Caffe writes one batch"
        )
        try:
            with h5py.File(os.fspath(self._name), "w") as file:
                for name, blob in (("data", data), ("label", label)):
                    values = blob.detach().cpu().numpy().astype(np.float32)
                    file[name] = values.reshape(values.shape + (1,) * (4 - values.ndim))
        except OSError as error:
            raise self.error(
                f"cannot write {self._name!r}: {error}", field="hdf5_output_param.file_name"
            ) from None
        self._written = True
        return ()
