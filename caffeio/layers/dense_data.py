"""Data layers of forks whose labels are images: nets with them build, the caller gives their tops.

Sources: src/caffe/layers/dense_image_data_layer.cpp (alexgkendall/caffe-segnet, ENet),
lane_data_layer.cpp and annotated_data_layer.cpp (eric612/MobileNet-YOLO).
"""

from __future__ import annotations

from caffeio.data_shapes import guess_shapes
from caffeio.layers.base import Shape, between, exactly, owns
from caffeio.layers.registry import layer
from caffeio.layers.sources import SourceLayer
from caffeio.proto import caffe_pb2 as pb


@layer("DenseImageData")
class DenseImageData(SourceLayer):
    """Pairs of images of a list: data (N, C, H, W) and labels (N, 1, H, W) of the pixels.

    Labels are label_divide_factor times smaller unless the images are cropped. Without a size in
    the parameters it is CamVid's, 360 x 480.
    """

    tops = exactly(2)
    fields = owns(dense_image_data_param=None)

    def setup(self, *shapes: Shape) -> None:
        """Find the shapes in the parameters."""
        p, crop = self.param.dense_image_data_param, self.param.transform_param.crop_size
        channels = 3 if p.is_color else 1
        height, width = p.new_height or 360, p.new_width or 480
        divide = p.label_divide_factor or 1
        if crop or p.crop_height:
            height, width = (crop, crop) if crop else (p.crop_height, p.crop_width)
            divide = 1
        batch = p.batch_size or 1
        label = (batch, 1, height // divide, width // divide)
        self.top_sizes = [(batch, channels, height, width), label]


@layer("LaneData")
class LaneData(SourceLayer):
    """Images with lanes: data, labels, and maps of the lanes that are seg_scales times smaller."""

    tops = between(1, 3)
    fields = owns(data_param=None, annotated_data_param=None)

    def setup(self, *shapes: Shape) -> None:
        """Find the shapes in the parameters."""
        copy = pb.LayerParameter()
        copy.CopyFrom(self.param)
        copy.type = "Data"
        data, *_ = guess_shapes(copy)
        p = self.param.annotated_data_param
        scale = p.seg_scales or 1
        size = (p.seg_resize_width, p.seg_resize_height)
        if not all(size):
            size = (data[2] // scale, data[3] // scale)
        self.top_sizes = [data, (data[0], 1, 1, 1), (data[0], 1, *size)][: len(self.param.top)]
