"""A net that classifies windows of images, as R-CNN does.

Source of the behaviour: python/caffe/detector.py (BVLC). There numbers with fractions are used as
indices, which NumPy no longer takes; here they are cut off, as old NumPy did.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffeio.pycaffe import TEST, io
from caffeio.pycaffe.classifier import make_transformer
from caffeio.pycaffe.nets import Net

Array = NDArray[Any]


class Detector(Net):
    """A net in phase TEST with a square image input, and what its windows need.

    `context_pad` pixels on each side of the input show what surrounds the window. `mean`,
    `input_scale`, `raw_scale` and `channel_swap` are Transformer's.
    """

    def __init__(
        self,
        model_file: str,
        pretrained_file: str,
        mean: Array | None = None,
        input_scale: Any = None,
        raw_scale: Any = None,
        channel_swap: Any = None,
        context_pad: int | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = make_transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def detect_windows(
        self, images_windows: Iterable[tuple[str, Sequence[Array]]]
    ) -> list[dict[str, Any]]:
        """Classify windows (ymin, xmin, ymax, xmax) of image files.

        Returns a dict for each window, in order: `window`, `prediction` and `filename`. As in
        pycaffe, a window of just the input's size is processed in place: windows of the same image
        that overlap it see what became of it.
        """
        found: list[dict[str, Any]] = []
        crops = []
        for filename, windows in images_windows:
            image = io.load_image(filename)
            for window in windows:
                crops.append(self.crop(image, window))
                found.append({"window": window, "prediction": None, "filename": filename})
        name = self.inputs[0]
        shape = (len(crops), crops[0].shape[2], *self.blobs[name].data.shape[2:])
        caffe_in = np.zeros(shape, dtype=np.float32)
        for i, crop in enumerate(crops):
            caffe_in[i] = self.transformer.preprocess(name, crop)
        predictions = self.forward_all(None, **{name: caffe_in})[self.outputs[0]]
        for entry, prediction in zip(found, predictions, strict=True):
            entry["prediction"] = prediction
        return found

    def detect_selective_search(self, image_fnames: Sequence[str]) -> list[dict[str, Any]]:
        """Classify the windows that Selective Search proposes for image files.

        Needs the module selective_search_ijcv_with_python of Sergey Karayev, and MATLAB.
        """
        from importlib import import_module

        search = import_module("selective_search_ijcv_with_python")
        files = [os.path.abspath(name) for name in image_fnames]
        windows = search.get_windows(files, cmd="selective_search_rcnn")
        return self.detect_windows(zip(files, windows, strict=False))

    def crop(self, im: Array, window: Array) -> Array:
        """Cut a window (ymin, xmin, ymax, xmax) out of an (H, W, K) image.

        With `context_pad` the result has the input's size, with the surroundings, and the mean
        where the image ends.
        """
        if not self.context_pad:
            top, left, bottom, right = (int(n) for n in window)
            return im[top:bottom, left:right]
        size = self.blobs[self.inputs[0]].width
        box = self._with_context(np.array(window, dtype=np.float64), size)
        full = box[2:] - box[:2] + 1
        scale = size / full
        pad = [round(n) for n in np.maximum(0, -box[:2]) * scale]
        box = np.clip(box, 0.0, np.tile(im.shape[:2], 2))
        clipped = box[2:] - box[:2] + 1
        assert (clipped > 0).all()
        fit = [min(round(n), size - p) for n, p in zip(clipped * scale, pad, strict=True)]
        top, left, bottom, right = box.astype(int)
        inner = io.resize_image(im[top:bottom, left:right], fit)
        crop = np.ones(self.crop_dims, dtype=np.float32) * self.crop_mean
        crop[pad[0] : pad[0] + fit[0], pad[1] : pad[1] + fit[1]] = inner
        return crop

    def _with_context(self, box: Array, size: int) -> Array:
        """The box scaled about its centre so that the window leaves `context_pad` around."""
        assert self.context_pad is not None
        scale = size / (1.0 * size - self.context_pad * 2)
        half = (box[2:] - box[:2] + 1) / 2.0
        middle = box[:2] + half
        grown: Array = np.round(np.concatenate([middle - scale * half, middle + scale * half]))
        return grown

    def configure_crop(self, context_pad: int | None) -> None:
        """Set `context_pad`, and the mean as the padding of images that are not yet processed."""
        name = self.inputs[0]
        order = self.transformer.transpose[name]
        back = [order[i] for i in order]
        self.crop_dims = np.array(self.blobs[name].data.shape[1:])[back]
        self.context_pad = context_pad
        if not context_pad:
            return
        mean = self.transformer.mean.get(name)
        if mean is None:
            self.crop_mean = np.zeros(self.crop_dims, dtype=np.float32)
            return
        image = mean.copy().transpose(back)
        if (swap := self.transformer.channel_swap.get(name)) is not None:
            image = image[:, :, [list(swap).index(i) for i in range(image.shape[2])]]
        if (raw_scale := self.transformer.raw_scale.get(name)) is not None:
            image = image / raw_scale
        self.crop_mean = image
