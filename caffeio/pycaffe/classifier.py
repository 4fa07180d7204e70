"""A net that classifies images. Source of the behaviour: python/caffe/classifier.py (BVLC)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffeio.pycaffe import TEST, io
from caffeio.pycaffe.nets import Net

Array = NDArray[Any]


def make_transformer(
    net: Net, mean: Array | None, input_scale: Any, raw_scale: Any, channel_swap: Any
) -> io.Transformer:
    """The Transformer of a net's first input: (H, W, K) images, and what is given."""
    name = net.inputs[0]
    transformer = io.Transformer({name: net.blobs[name].data.shape})
    transformer.set_transpose(name, (2, 0, 1))
    if mean is not None:
        transformer.set_mean(name, mean)
    if input_scale is not None:
        transformer.set_input_scale(name, input_scale)
    if raw_scale is not None:
        transformer.set_raw_scale(name, raw_scale)
    if channel_swap is not None:
        transformer.set_channel_swap(name, channel_swap)
    return transformer


class Classifier(Net):
    """A net in phase TEST with an image input, and what its images need.

    Images are resized to `image_dims` (height, width), the input's size if not given, and cropped
    to the input. `mean`, `input_scale`, `raw_scale` and `channel_swap` are Transformer's.
    """

    def __init__(
        self,
        model_file: str,
        pretrained_file: str,
        image_dims: Sequence[int] | None = None,
        mean: Array | None = None,
        input_scale: Any = None,
        raw_scale: Any = None,
        channel_swap: Any = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = make_transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims: Any = np.array(self.blobs[self.inputs[0]].data.shape[2:])
        given = image_dims is not None and len(image_dims) > 0
        self.image_dims: Any = image_dims if given else self.crop_dims

    def predict(self, inputs: Sequence[Array], oversample: bool = True) -> Array:
        """The first output for each of N images (H, W, K): (N, classes).

        With `oversample` it is the mean over ten crops (see io.oversample), and everything behind
        the first axis is flat; without it is that of the centre.
        """
        rows, columns = (int(n) for n in self.image_dims)
        images: Any = np.zeros((len(inputs), rows, columns, inputs[0].shape[2]), dtype=np.float32)
        for i, image in enumerate(inputs):
            images[i] = io.resize_image(image, (rows, columns))
        images = io.oversample(images, self.crop_dims) if oversample else self._centre(images)
        name = self.inputs[0]
        count, height, width, channels = images.shape
        caffe_in: Any = np.zeros((count, channels, height, width), dtype=np.float32)
        for i, image in enumerate(images):
            caffe_in[i] = self.transformer.preprocess(name, image)
        predictions: Array = self.forward_all(None, **{name: caffe_in})[self.outputs[0]]
        if oversample:
            predictions = predictions.reshape((len(predictions) // 10, 10, -1)).mean(1)
        return predictions

    def _centre(self, images: Array) -> Array:
        middle = np.array(self.image_dims) / 2.0
        top, left = (middle - self.crop_dims / 2.0).astype(int)
        bottom, right = (middle + self.crop_dims / 2.0).astype(int)
        return images[:, top:bottom, left:right]
