"""The ImageData layer: image files named in a list.

Sources: src/caffe/layers/image_data_layer.cpp, src/caffe/util/io.cpp (ReadImageToCVMat).
"""

from __future__ import annotations

import numpy as np

from caffeio.boost_random import CaffeRng
from caffeio.data.base import SourceContext, batch_of
from caffeio.data.batch import SampleTask
from caffeio.data.draws import NO_DRAWS, LayerSeeds, SampleRandom
from caffeio.data.loader import LoaderSource
from caffeio.data.records.image_list import parse_list
from caffeio.data.transform.image import Encoded, Pixels, open_image, resize
from caffeio.data.transform.normalize import Image
from caffeio.layers.transforms import listed_size
from caffeio.proto import caffe_pb2 as pb


def resize_listed(image: Pixels, param: pb.ImageDataParameter) -> Pixels:
    """new_height x new_width; or enlarged so that min_height and min_width (Intel) are met."""
    rows, cols = image.shape[:2]
    height, width = listed_size(param, rows, cols)
    fixed = param.new_height and param.new_width
    return image if (height, width) == (rows, cols) and not fixed else resize(image, width, height)


class ImageSource(LoaderSource):
    """Batches of an ImageData layer: data (N, C, H, W) and labels (N,).

    Every rank reads the whole list, as in real Caffe; with `shuffle` each in an order of its own.
    """

    def __init__(self, layer: SourceContext) -> None:
        super().__init__(layer)
        p = self.param = layer.param.image_data_param
        self.batch_size = batch_of(layer, p.batch_size, "image_data_param")
        self.prefetch = layer.param.data_param.prefetch or 4
        self.transformer = layer.transformer()
        self.path = layer.find(p.source, "image_data_param.source")
        self._lines = parse_list(layer.read_bytes(self.path, "image_data_param.source"))
        layer.check(self._lines, f"{self.path!r} is empty", "image_data_param.source")
        self.epoch_size = len(self._lines)
        self._order = list(range(len(self._lines)))
        self._at = self._number = 0
        self._epoch = 0
        self.skipped: int | None = None  # by rand_skip
        self._exact: CaffeRng | None = None
        self._last: dict[str, int] | None = None  # the last line of every name
        self.random = SampleRandom(
            self.transformer.predrawn, self.key, lookahead=self.transformer.lookahead
        )
        if p.shuffle:
            self._shuffle()
        if p.rand_skip:
            self._skip(int(self.random.batch([2**64 - 1])[0].transformer_rng()))
        self._peek()
        self.start()

    def _shuffle(self) -> None:
        if self._exact is not None:
            self._exact.shuffle(self._order)
            return
        bits = np.random.Philox(key=[self.key, self._epoch << 20 | self.layer.options.rank])
        self._order = np.random.Generator(bits).permutation(len(self._order)).tolist()

    def _skip(self, word: int) -> None:
        skip = word % self.param.rand_skip
        self.layer.check(
            len(self._lines) > skip,
            f"not enough images to skip {skip}: there are {len(self._lines)}",
            "image_data_param.rand_skip",
        )
        self._at = self.skipped = skip

    def _peek(self) -> None:
        name, label = self._lines[self._order[self._at]]
        self.first_good(SampleTask(name, NO_DRAWS, name, 0, label), self._look)

    def _look(self, job: SampleTask) -> Image:
        image = self._read(job.record)
        self.item_shape = self.transformer.output_shape(image)
        return image

    def following(self, job: SampleTask) -> SampleTask | None:
        """The line behind this one in the list."""
        if self._last is None:
            self._last = {name: i for i, (name, _) in enumerate(self._lines)}
        name, label = self._lines[(self._last[job.record] + 1) % len(self._lines)]
        return SampleTask(name, job.draws, name, job.number, label)

    def use_seeds(self, draws: LayerSeeds, thread: CaffeRng) -> None:
        """Repeat real Caffe's shuffles, skips, crops and mirrors."""
        self.layer.check(self._number == 0, "cannot be seeded after its first batch")
        self._order = list(range(len(self._lines)))
        self._at = 0
        if draws.shuffle is not None:
            self._exact = CaffeRng(draws.shuffle)
            self._shuffle()
        if draws.skip is not None:
            self._skip(draws.skip)
        self.repeat(draws.transformer, thread)
        self._peek()
        self.top_shapes[0] = (self.batch_size, *self.item_shape)

    def plan(self) -> list[SampleTask]:
        """The next lines of the list; at its end it is begun (and shuffled) again."""
        o = self.layer.options
        jobs = []
        numbers = [(self._number + i) * o.world + o.rank for i in range(self.batch_size)]
        for number, draws in zip(numbers, self.random.batch(numbers), strict=True):
            name, label = self._lines[self._order[self._at]]
            jobs.append(SampleTask(name, draws, name, number, label))
            self._at += 1
            if self._at >= len(self._lines):
                self._at = 0
                self._epoch += 1
                if self.param.shuffle:
                    self._shuffle()
        self._number += self.batch_size
        self.predraw(jobs, self._size)
        return jobs

    def _size(self, job: SampleTask) -> tuple[int, int]:
        image = self._open(job.record)
        return listed_size(self.param, image.height, image.width)

    def image(self, job: SampleTask) -> tuple[Image | Encoded, float]:
        """Read, and resize if the layer says so; what is not resized is decoded later."""
        image = self._open(job.record)
        size = (image.height, image.width)
        if listed_size(self.param, *size) == size:
            return image, job.label
        return self._resized(image), job.label

    def _open(self, name: str) -> Encoded:
        path = self.layer.join(self.param.root_folder, name)
        return open_image(path, color=self.param.is_color)

    def _resized(self, image: Encoded) -> Image:
        return Image(resize_listed(image.top(image.height), self.param), False)

    def _read(self, name: str) -> Image:
        return self._resized(self._open(name))

    def describe(self, job: SampleTask) -> str:
        """The list and the image."""
        return f"list {self.path!r}, image {job.name!r}"
