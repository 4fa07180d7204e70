"""MemoryData, DummyData and Input: data that are given, or made up.

Sources: src/caffe/layers/memory_data_layer.cpp, dummy_data_layer.cpp, include/caffe/filler.hpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from caffeio.boost_random import CaffeRng
from caffeio.data.base import DataSource, SourceContext, batch_of
from caffeio.data.draws import LayerSeeds, SampleRandom
from caffeio.data.transform.image import Pixels
from caffeio.data.transform.normalize import Image
from caffeio.errors import CaffeIOError
from caffeio.fillers import fill
from caffeio.proto import caffe_pb2 as pb


class MemorySource(DataSource):
    """Batches of arrays that `reset` was given, over and over."""

    def __init__(self, layer: SourceContext) -> None:
        super().__init__(layer)
        p = layer.param.memory_data_param
        self.batch_size = batch_of(layer, p.batch_size, "memory_data_param")
        layer.check(
            1 <= len(layer.param.top) <= 2, f"takes 1 or 2 tops, not {len(layer.param.top)}", "top"
        )
        self._item = (p.channels, p.height, p.width)
        self.transformer = layer.transformer()
        self.top_shapes = list(layer.source_layer().top_shapes)
        self._random = SampleRandom(
            self.transformer.predrawn, self.key, lookahead=self.transformer.lookahead
        )
        self._data = torch.empty(0)
        self._labels = torch.empty(0)
        self._at = self._number = 0
        self._fresh = False  # images were added and are not all used yet

    def use_seeds(self, draws: LayerSeeds, thread: CaffeRng) -> None:
        """Repeat real Caffe's crops and mirrors of added images."""
        self._random.repeat(draws.transformer, thread)

    def reset(self, data: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> None:
        """Give the data: (n, C, H, W) and n labels; n must be a multiple of batch_size.

        As in real Caffe nothing is transformed: transform_param is for `add_images`.
        """
        images = torch.as_tensor(data, dtype=torch.float32)
        classes = torch.as_tensor(labels, dtype=torch.float32).reshape(-1)
        n = len(images)
        self.layer.check(
            tuple(images.shape[1:]) == self._item,
            f"the data are {tuple(images.shape)}, expected (n, {', '.join(map(str, self._item))})",
        )
        self.layer.check(len(classes) == n, f"{n} data but {len(classes)} labels")
        self.layer.check(
            n > 0 and n % self.batch_size == 0,
            f"the number of data, {n}, must be a multiple of batch_size, {self.batch_size}",
        )
        self._data, self._labels = images.contiguous(), classes.view(-1, 1, 1, 1)
        self.epoch_size, self._at, self._fresh = n, 0, False

    def add_images(self, images: Sequence[Pixels], labels: Sequence[int]) -> None:
        """Give uint8 images (H, W[, C]), BGR, which are transformed as transform_param says.

        All of them must be used before more can be added (AddMatVector).
        """
        self.layer.check(not self._fresh, "cannot add images until all present ones are used")
        out = np.empty((len(images), *self._item), np.float32)
        numbers = range(self._number, self._number + len(images))
        for row, pixels, draws in zip(out, images, self._random.batch(numbers), strict=True):
            image, window = self.transformer.place(Image(np.asarray(pixels), False), draws)
            shape = (image.shape[0], window.height, window.width)
            self.layer.check(
                shape == self._item, f"an image becomes {shape}, not {self._item}: set crop_size"
            )
            self.transformer.write(image, window, row)
        self.reset(out, labels)
        self._number += len(images)
        self._fresh = True

    def next(self) -> tuple[Tensor, ...]:
        """The next batch: (N, C, H, W) and (N, 1, 1, 1)."""
        if not len(self._data):
            raise self.layer.error("has no data yet: call reset(data, labels) first")
        part = slice(self._at, self._at + self.batch_size)
        self._at = (self._at + self.batch_size) % len(self._data)
        self._fresh = self._fresh and self._at > 0
        tops = (self._data[part], self._labels[part])[: len(self.top_shapes)]
        device = self.layer.options.device
        return tuple(top.to(device) for top in tops) if device else tops


class DummySource(DataSource):
    """Constants, made once; or random numbers, drawn anew for every batch."""

    def __init__(self, layer: SourceContext) -> None:
        super().__init__(layer)
        p = layer.param.dummy_data_param
        self.top_shapes = list(layer.source_layer().top_shapes)
        for shape in self.top_shapes:
            sizes = " ".join(map(str, shape))
            layer.check(
                all(n >= 0 for n in shape), f"a dim is negative: {sizes}", "dummy_data_param.shape"
            )
            layer.check(
                prod(shape) < 2**31, f"larger than a blob may be: {sizes}", "dummy_data_param.shape"
            )
        count = len(self.top_shapes)
        fillers = list(p.data_filler) or [pb.FillerParameter(type="constant", value=0)]
        layer.check(
            len(fillers) in (1, count),
            f"give no data_filler, one, or one for each of the {count} tops, not {len(fillers)}",
            "dummy_data_param.data_filler",
        )
        self._fillers = fillers * count if len(fillers) == 1 else fillers
        self._rng: CaffeRng | torch.Generator = torch.Generator().manual_seed(
            self.key & (2**63 - 1)
        )
        self._tops = [self._make(i) if f.type == "constant" else None
                      for i, f in enumerate(self._fillers)]  # fmt: skip

    def draw_setup(self, rng: CaffeRng) -> None:
        """Draw from the main generator from now on, at every batch."""
        self._rng = rng

    def _make(self, index: int) -> Tensor:
        out = torch.empty(self.top_shapes[index])
        fill(out, self._fillers[index], 0.0, self._rng, owner=_Owner(self.layer))
        device = self.layer.options.device
        return out.to(device) if device else out

    def overwritten(self, index: int, values: Tensor) -> None:
        """Begin the next batch with them: constants are filled once."""
        if self._tops[index] is not None:
            self._tops[index] = values.clone()

    def constants(self) -> list[Tensor | None]:
        """The tops that never change; None for those that are drawn anew."""
        return list(self._tops)

    def next(self) -> tuple[Tensor, ...]:
        """One tensor a top, filled as data_filler says."""
        tops = (self._make(i) if top is None else top for i, top in enumerate(self._tops))
        return tuple(tops)


class _Owner:
    """Lets fillers name this layer in their errors."""

    def __init__(self, layer: SourceContext) -> None:
        self._layer = layer

    def error(self, message: str, *, field: str | None = None) -> CaffeIOError:
        """An error that names the layer."""
        return self._layer.error(message, f"dummy_data_param.{field}" if field else "")
