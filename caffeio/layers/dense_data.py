"""Data layers of forks whose labels are images: nets with them build, the caller gives their tops.

Sources: src/caffe/layers/dense_image_data_layer.cpp (alexgkendall/caffe-segnet, ENet),
lane_data_layer.cpp and annotated_data_layer.cpp (eric612/MobileNet-YOLO).
"""

from __future__ import annotations

from caffeio.layers.base import Shape, between, exactly, owns
from caffeio.layers.dims import ANY
from caffeio.layers.registry import layer
from caffeio.layers.sources import PictureLayer


@layer("DenseImageData")
class DenseImageData(PictureLayer):
    """Pairs of images of a list: data (N, C, H, W) and labels (N, 1, H, W) of the pixels.

    Labels are label_divide_factor times smaller unless the images are cropped. Without a size in
    the parameters it is CamVid's, 360 x 480.
    """

    tops = exactly(2)
    fields = owns(dense_image_data_param=None)
    batch_message = "dense_image_data_param"

    def item(self, *, usual: bool) -> Shape:
        """Give the crop, else the new size."""
        p, crop = self.param.dense_image_data_param, self.param.transform_param.crop_size
        channels = 3 if p.is_color else 1
        if crop or p.crop_height:
            return (channels, crop or p.crop_height, crop or p.crop_width)
        high, wide = (360, 480) if usual else (ANY, ANY)
        return (channels, p.new_height or high, p.new_width or wide)

    def batch_of(self, batch: int, item: Shape, *, usual: bool = False) -> list[Shape | None]:
        """Give the images and the maps of their labels."""
        p = self.param.dense_image_data_param
        cropped = self.param.transform_param.crop_size or p.crop_height
        divide = 1 if cropped else p.label_divide_factor or 1
        return [(batch, *item), (batch, 1, item[1] // divide, item[2] // divide)]


@layer("LaneData")
class LaneData(PictureLayer):
    """Images with lanes: data, labels, and maps of the lanes that are seg_scales times smaller."""

    tops = between(1, 3)
    fields = owns(data_param=None, annotated_data_param=None)

    def batch_of(self, batch: int, item: Shape, *, usual: bool = False) -> list[Shape | None]:
        """Give the images, one label each, and the maps of the lanes."""
        p = self.param.annotated_data_param
        scale = p.seg_scales or 1
        size = (p.seg_resize_width, p.seg_resize_height)
        if not all(size):
            size = (item[1] // scale, item[2] // scale)
        return [(batch, *item), (batch, 1, 1, 1), (batch, 1, *size)]
