"""The AnnotatedData layer of SSD: images with boxes.

Sources: src/caffe/layers/annotated_data_layer.cpp and data_transformer.cpp of SSD and the sara
fork. Per image: distort, expand, sample a part, then transform_param; boxes follow each step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from caffeio.boost_random import CaffeRng
from caffeio.data.base import SourceContext
from caffeio.data.batch import Result, SampleTask, Slot
from caffeio.data.db.buffer import Buffer
from caffeio.data.draws import Draws, LayerSeeds
from caffeio.data.records.annotated_datum import scan_annotated
from caffeio.data.records.datum import Datum
from caffeio.data.sources.data import DatabaseSource
from caffeio.data.transform import boxes as bx
from caffeio.data.transform.augment import uniform
from caffeio.data.transform.distort import check_distort, distort
from caffeio.data.transform.image import Pixels, decode, encode
from caffeio.data.transform.normalize import Image
from caffeio.errors import DataError
from caffeio.proto import caffe_pb2 as pb

_F = np.float32
_WHOLE = np.array([0, 0, 1, 1], _F)


@dataclass
class Annotated:
    """An image on its way, and its boxes: rows of (label, instance, difficult) and corners."""

    image: Image
    size: tuple[int, int]  # height and width that the Datum tells
    facts: np.ndarray[tuple[int, int], np.dtype[np.float32]]
    corners: bx.Boxes
    label: float
    encoded: bool
    samples: list[bx.Boxes]


class AnnotatedSource(DatabaseSource):
    """Batches of an AnnotatedData layer: data (N, C, H, W) and labels (1, 1, boxes, 8).

    A label row is (item, class, instance, xmin, ymin, xmax, ymax, difficult); without any box there
    is one row of -1. Records without an annotation type give plain labels (N,).

    With `exact` every intermediate image goes through a JPEG of quality 95, as in real Caffe.
    """

    def __init__(self, layer: SourceContext) -> None:
        self.anno = layer.param.annotated_data_param
        self._samplers = list(self.anno.batch_sampler)
        t = layer.param.transform_param
        for i, sampler in enumerate(self._samplers):
            _checked(layer, f"annotated_data_param.batch_sampler[{i}].sampler",
                     lambda s=sampler: bx.check_sampler(s.sampler))  # fmt: skip
        if t.HasField("distort_param"):
            _checked(layer, "transform_param.distort_param",
                     lambda: check_distort(t.distort_param))  # fmt: skip
        if t.HasField("expand_param"):
            layer.check(
                t.expand_param.max_expand_ratio > 1, "must be above 1",
                "transform_param.expand_param.max_expand_ratio",
            )  # fmt: skip
        for resize in t.resize_param:
            small = resize.resize_mode == pb.ResizeParameter.FIT_SMALL_SIZE
            layer.check(
                not small or layer.param.data_param.batch_size == 1,
                "FIT_SMALL_SIZE needs batch_size 1", "transform_param.resize_param",
            )  # fmt: skip
        self._typed = True
        self._prepared_in_plan = False
        super().__init__(layer)

    def _set_up(self) -> None:
        _, value = self.db.cursor().item()
        first = scan_annotated(value)
        self._typed = first.has_type or self.anno.HasField("anno_type")
        self.label_rows = max(1, len(first.boxes)) if self._typed else None
        super()._set_up()
        self.random.predrawn += 1  # which sample
        self.random._blocks = max(self.random._blocks, 8)

    @staticmethod
    def _datum(value: Buffer) -> Datum:
        return scan_annotated(value).datum

    def use_seeds(self, draws: LayerSeeds, thread: CaffeRng) -> None:
        """Repeat real Caffe's draws: all images one by one, in two rounds a batch."""
        super().use_seeds(draws, thread)
        self.threads = self._thread_draws = 0
        self._predrawn, self._prepared_in_plan = False, True
        self._thread = thread

    def plan(self) -> list[SampleTask]:
        """The next records; in exact mode already distorted, expanded and sampled."""
        if not self._prepared_in_plan:
            return super().plan()
        fixed, self.random.predrawn = self.random.predrawn, 0
        try:
            jobs = super().plan()
        finally:
            self.random.predrawn = fixed
        for job in jobs:
            job.record = self._prepare(job)
        if self.random.transformer_rng is None:  # real Caffe gives it one now, needed or not
            self.random.transformer_rng = CaffeRng(int(self._thread.raw()))
        for job in jobs:
            count = fixed if job.record.samples else fixed - 1
            words = self.random.transformer_rng.raw(count).tolist()
            job.draws = Draws(words, job.draws.transformer_rng, job.draws.thread_rng)
        return jobs

    # -- one image -------------------------------------------------------------------------

    def load(self, job: SampleTask, slot: Slot, index: int) -> Result:
        """Load one image into its row; the boxes are the result's extra."""
        item = job.record if self._prepared_in_plan else self._prepare(job)
        if item.samples:
            chosen = job.draws.next_word() % len(item.samples)
            self._crop(item, item.samples[chosen])
        elif not self._prepared_in_plan:
            job.draws.next_word()  # drawn beforehand for a choice that there is not
        t = self.transformer
        before = item.image
        mirror_word = job.draws.predrawn[job.draws._at] if t.mirror else 0
        image, window = t.place(item.image, job.draws)
        full = window.full
        crop = np.array(
            [
                _F(window.x) / _F(full[1]),
                _F(window.y) / _F(full[0]),
                _F(window.x + window.width) / _F(full[1]),
                _F(window.y + window.height) / _F(full[0]),
            ],
            _F,
        )
        size = item.size if min(item.size) > 0 else before.shape[1:]
        self._annotate(item, crop, resized=True, mirror=bool(mirror_word % 2), size=size)
        slot.label_rows[index] = item.label
        rows = np.concatenate([item.facts[:, :2], item.corners, item.facts[:, 2:]], 1)
        result = self._write(image, window, slot, index)
        result.extra = rows
        return result

    def _prepare(self, job: SampleTask) -> Annotated:
        """Decode, distort, expand and sample."""
        found = scan_annotated(self.record(job))
        datum = found.datum
        if self._typed and self.with_labels and not found.has_type:
            raise DataError("the record misses its annotation type")
        given = self.anno.HasField("anno_type")
        known = self.anno.anno_type == pb.AnnotatedDatum.BBOX if given else found.type == 0
        if self._typed and not known:
            raise DataError("unknown annotation type: only BBOX is implemented")
        facts = np.array([[b.group_label, b.instance_id, b.difficult] for b in found.boxes], _F)
        corners = np.array([[b.xmin, b.ymin, b.xmax, b.ymax] for b in found.boxes], _F)
        item = Annotated(
            self.transformer.load(datum), (datum.height, datum.width), facts.reshape(-1, 3),
            corners.reshape(-1, 4), datum.label, datum.encoded, [],
        )  # fmt: skip
        param, thread_rng = self.transformer.param, job.draws.thread_rng
        if param.HasField("distort_param"):
            if not item.encoded:
                raise DataError("distort_param needs encoded images")
            self._take(
                item,
                distort(
                    item.image.pixels, param.distort_param, thread_rng, job.draws.transformer_rng
                ),
            )
        if param.HasField("expand_param"):
            self._expand(item, param.expand_param, job.draws)
        item.samples = bx.batch_samples(item.corners, self._samplers, thread_rng)
        return item

    def _take(self, item: Annotated, pixels: Pixels) -> None:
        """Go on with these pixels; in exact mode after a JPEG of them, as in real Caffe."""
        if item.encoded and self.layer.options.exact:
            pixels = decode(encode(pixels, "jpg"), self.transformer.flag)
        item.image = Image(pixels, False)
        item.size = (pixels.shape[0], pixels.shape[1])

    @staticmethod
    def _pixels(item: Annotated) -> Pixels:
        """(H, W) or (H, W, C)."""
        pixels = item.image.pixels
        if not item.image.planar:
            return pixels
        if pixels.dtype != np.uint8:
            raise DataError("expand_param and batch_sampler need images of bytes")
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))

    def _expand(self, item: Annotated, param: pb.ExpansionParameter, draws: Draws) -> None:
        """Put the image somewhere on a larger canvas of the mean's colour."""
        if (
            uniform(draws.thread_rng, 0, 1) > _F(param.prob)
            or abs(param.max_expand_ratio - 1) < 1e-2
        ):
            return
        factor = uniform(draws.thread_rng, 1, param.max_expand_ratio)
        pixels = self._pixels(item)
        height, width = pixels.shape[:2]
        new_h, new_w = int(_F(height) * factor), int(_F(width) * factor)
        top = math.floor(uniform(draws.thread_rng, 0, new_h - height))
        left = math.floor(uniform(draws.thread_rng, 0, new_w - width))
        canvas = self._canvas((new_h, new_w, *pixels.shape[2:]), item.encoded)
        canvas[top : top + height, left : left + width] = pixels
        source = np.array(
            [-_F(left) / _F(width), -_F(top) / _F(height),
             _F(new_w - left) / _F(width), _F(new_h - top) / _F(height)], _F,
        )  # fmt: skip
        self._take(item, canvas)
        self._annotate(item, source)

    def _canvas(self, shape: tuple[int, ...], encoded: bool) -> Pixels:
        t = self.transformer
        if not encoded:
            return np.full(shape, ord(" "), np.uint8)  # what the code does, meant or not
        if t.mean is not None:
            if t.mean.shape[1:] != shape[:2]:
                raise DataError("with a mean_file the expanded image must have the mean's size")
            return t.mean.transpose(1, 2, 0).astype(np.int32).astype(np.uint8).reshape(shape)
        canvas = np.zeros(shape, np.uint8)
        if len(t.means):
            channels = shape[2] if len(shape) == 3 else 1
            values = np.clip(np.rint(t.means_of(channels)), 0, 255).astype(np.uint8)
            canvas[:] = values if len(shape) == 3 else values[0]
        return canvas

    def _crop(self, item: Annotated, box: bx.Boxes) -> None:
        """Cut out a sampled box, corners cut down to whole pixels."""
        pixels = self._pixels(item)
        clipped = bx.clip(box)
        height, width = pixels.shape[:2]
        x1, y1 = clipped[0] * _F(width), clipped[1] * _F(height)
        x2, y2 = clipped[2] * _F(width), clipped[3] * _F(height)
        part = pixels[int(y1) : int(y1) + int(y2 - y1), int(x1) : int(x1) + int(x2 - x1)]
        if not part.size:
            raise DataError("a sampled box is smaller than a pixel")
        self._take(item, np.ascontiguousarray(part))
        self._annotate(item, clipped)

    def _annotate(
        self,
        item: Annotated,
        source: bx.Boxes,
        *,
        resized: bool = False,
        mirror: bool = False,
        size: tuple[int, ...] = (),
    ) -> None:
        """Bring the boxes into the coordinates of `source`; drop those that are outside of it."""
        param = self.transformer.param
        corners = item.corners
        resizes = list(param.resize_param) if resized else []
        for resize in resizes:
            corners = bx.resize_boxes(corners, resize, size[1], size[0])
        projected, keep = bx.project(source, corners)
        if param.HasField("emit_constraint"):
            keep &= bx.emitted(source, corners, param.emit_constraint)
        item.facts, corners = item.facts[keep], projected[keep]
        if mirror:
            corners = corners.copy()
            corners[:, [0, 2]] = _F(1) - corners[:, [2, 0]]
        for resize in resizes:
            corners = bx.extrapolate(corners, resize, size[1], size[0], source)
        item.corners = corners

    # -- the batch -------------------------------------------------------------------------

    def finish(self, results: list[Result], slot: Slot) -> tuple[Tensor, ...]:
        """Data and the rows of all boxes."""
        tops = super().finish(results, slot)
        if not (self.with_labels and self._typed):
            return tops
        rows = [np.concatenate([np.full((len(r.extra), 1), i, _F), r.extra], 1)
                for i, r in enumerate(results)]  # fmt: skip
        labels = np.concatenate(rows)
        if not len(labels):
            labels = np.full((1, 8), -1, _F)
        return tops[0], self.delivery.send(torch.from_numpy(labels[None, None]))


def _checked(layer: SourceContext, field: str, check: object) -> None:
    try:
        check()  # type: ignore[operator]
    except DataError as error:
        raise layer.wrap(error, field) from None
