"""Batches by a pool of threads: in order, in reused memory, errors where the batch is asked for.

One thread plans (moves the cursor, draws random numbers), the others decode and transform samples
straight into a ring of batches. OpenCV, simplejpeg and numpy let go of the interpreter's lock, so
threads scale and nothing is copied between processes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import cv2
import numpy as np
import torch
from torch import Tensor

from caffeio.boost_random import CaffeRng
from caffeio.data.base import DataSource, Shape, SourceContext
from caffeio.data.batch import Delivery, Parts, Result, SampleTask, Slot
from caffeio.data.cores import local_world, usable_cores
from caffeio.data.draws import Draws, SampleRandom, Word, undecided
from caffeio.data.transform.image import Encoded, set_ipp
from caffeio.data.transform.normalize import CropWindow, Image
from caffeio.data.transform.transformer import Transformer
from caffeio.errors import CaffeIOError, DataError
from caffeio.layers.sources import PictureLayer, Record
from caffeio.memory import memory_error
from caffeio.shape_text import format_shape

CHUNK = 8  # samples a task
_PATIENCE = 1000  # bad records one behind the other
_MOST, _MOST_BYTES = 64, 256 << 20  # batches ahead, whatever `prefetch` says; their bytes
_ROOMY = 32 << 20  # bytes; larger batches are prefetched two at a time, not `prefetch`


class LoaderSource(DataSource):
    """A source of images whose samples are loaded by a pool of threads.

    Subclasses set `batch_size`, `transformer`, `random`, `item_shape`, call `start`, and define
    `plan` and `image`.
    """

    batch_size: int
    transformer: Transformer
    random: SampleRandom
    item_shape: Shape  # (C, H, W) of the first sample after transforms
    prefetch: int = 4
    with_labels: bool = True
    label_rows: int | None = None  # of AnnotatedData's first record
    planar: bool = False  # the records are bare pixels, not image files
    light: bool = False  # samples take less than some 20 us

    def __init__(self, layer: SourceContext) -> None:
        super().__init__(layer)
        self._told = layer.source_layer()  # raises for what its parameters may not say
        self._pool: ThreadPoolExecutor | None = None
        self._planner: ThreadPoolExecutor | None = None
        self._pending: deque[tuple[Slot, Future[Parts]]] = deque()
        self._given: Slot | None = None
        self._closed = False
        self._predrawn = False
        self._skipped: set[str] = set()  # names of bad records that were told
        self._thread_draws, self._thread = 0, CaffeRng(0)

    # -- for subclasses --------------------------------------------------------------------

    @abstractmethod
    def plan(self) -> list[SampleTask]:
        """The jobs of the next batch, in order; called by one thread at a time."""

    @abstractmethod
    def image(self, job: SampleTask) -> tuple[Image | Encoded, float]:
        """The image of a sample before transforms, and its label."""

    def load(self, job: SampleTask, slot: Slot, index: int) -> Result:
        """Load one sample into row `index` of the slot, if it fits there."""
        image, slot.label_rows[index] = self.image(job)
        image, window = self.transformer.place(image, job.draws)
        return self._write(image, window, slot, index)

    def _write(self, image: Image, window: CropWindow, slot: Slot, index: int) -> Result:
        shape = (image.shape[0], window.height, window.width)
        floats = image.pixels.dtype != np.uint8
        if shape != slot.item or (floats and slot.memory.dtype == torch.uint8):
            values = np.empty(shape, np.float32)
            self.transformer.write(image, window, values)
            return Result(shape, values)
        if slot.last:
            self.transformer.write_interleaved(image, window, slot.rows[index])
        else:
            self.transformer.write(image, window, slot.rows[index])
        return Result(shape)

    def finish(self, results: list[Result], slot: Slot) -> tuple[Tensor, ...]:
        """The tops of a batch whose samples are all loaded."""
        data = self._data(results, slot)
        return (data, self.delivery.send(slot.labels)) if self.with_labels else (data,)

    def following(self, job: SampleTask) -> SampleTask | None:
        """The job that takes the place of one whose record is bad; None if there is none."""
        return None

    def describe(self, job: SampleTask) -> str:
        """What a job reads, for messages."""
        return f"{self._name(job)!r} (sample {job.number})"

    def repeat(self, seed: int | None, thread: CaffeRng) -> None:
        """Draw as real Caffe does, whose transformer had this seed (see SampleRandom.repeat).

        What samples draw as they are loaded is drawn beforehand, in order, so that threads can load
        them; only where the thread's generator decides something are they loaded one by one.
        """
        self.random.repeat(seed, thread)
        draws = self.transformer.thread_draws()
        if draws is None:
            self.threads = 0
        elif self.transformer.lookahead:
            self._predrawn = True
            if self.layer.profile.data_reader_thread:  # the main thread's generator
                self._thread_draws, self._thread = draws * self.batch_size, thread

    def predraw(
        self, jobs: list[SampleTask], size: Callable[[SampleTask], tuple[int, int]]
    ) -> None:
        """Draw for the jobs what they will draw; `size` tells an image's height and width."""
        if not self._predrawn:
            return
        for job in jobs:
            words: list[int] = []

            def next_word(draw: Word = job.draws.transformer_rng, words: list[int] = words) -> int:
                words.append(draw())
                return words[-1]

            with suppress(DataError):  # a broken image: the one that loads it will say so
                self.transformer.predraw(*size(job), next_word)
            job.draws = Draws(job.draws.predrawn, iter(words).__next__, undecided)

    # -- running ---------------------------------------------------------------------------

    def start(self) -> None:
        """Fix shapes and memory; called once at the end of construction."""
        options = self.layer.options
        told = self._told
        assert isinstance(told, PictureLayer)
        told.record = Record((self.item_shape,), rows=self.label_rows)
        tops = told.batch_of(self.batch_size, self.item_shape)[: 1 + self.with_labels]
        self.top_shapes = [shape for shape in tops if shape is not None]
        self.delivery = Delivery(self.layer, self.transformer, self.planar)
        self.threads = self._default_threads() if options.threads is None else options.threads
        self._ipp = not (options.exact and self.transformer.needs_exact_cubic())

    def _default_threads(self) -> int:
        """One for small bare pixels (more would wait for the interpreter), else all cores."""
        if self.light:
            return 1
        return max(1, usable_cores() // max(1, local_world()))

    def _ring(self) -> int:
        size = 4 * self.batch_size * int(np.prod(self.item_shape))
        most = max(4, min(_MOST, _MOST_BYTES // max(1, size))) if size <= _ROOMY else 2
        return max(1, min(self.prefetch, most))

    def next(self) -> tuple[Tensor, ...]:
        """The next batch; raises DataError for a sample that cannot be loaded."""
        if self._closed:
            raise self.layer.error("the data source is closed")
        if self._thread_draws:
            self._thread.raw(self._thread_draws)  # real Caffe takes these while it loads the batch
        if self.threads == 0:
            return self._next_here()
        if self._pool is None:
            self._launch()
        if self._given is not None:
            self._submit(self._given)
            self._given = None
        slot, planned = self._pending.popleft()
        try:
            tops = self._finish(planned.result().results(), slot)
        except BaseException:
            self._settle(planned)
            self._pending.append((slot, self._submit_plan(slot)))
            raise
        self._given = slot
        return tops

    def _next_here(self) -> tuple[Tensor, ...]:
        slot = self._given or self.delivery.slot(self.batch_size, self.item_shape)
        self._given = None
        slot.wait()
        jobs = self._plan()
        before = set_ipp(self._ipp)
        try:
            results = [self._load(job, slot, i) for i, job in enumerate(jobs)]
        finally:
            set_ipp(before)
        tops = self._finish(results, slot)
        self._given = slot
        return tops

    def _finish(self, results: list[Result], slot: Slot) -> tuple[Tensor, ...]:
        tops = self.finish(results, slot)
        self.delivery.sent(slot)
        return tops

    def _launch(self) -> None:
        self._pool = ThreadPoolExecutor(
            self.threads, "caffeio-data", initializer=set_ipp, initargs=(self._ipp,)
        )
        self._planner = ThreadPoolExecutor(1, "caffeio-plan")
        for _ in range(self._ring()):
            self._submit(self.delivery.slot(self.batch_size, self.item_shape))
        # one slot more than is in flight: that which the consumer holds
        self._given = self.delivery.slot(self.batch_size, self.item_shape)

    def _submit(self, slot: Slot) -> None:
        self._pending.append((slot, self._submit_plan(slot)))

    def _submit_plan(self, slot: Slot) -> Future[Parts]:
        assert self._planner is not None
        return self._planner.submit(self._plan_batch, slot)

    def _plan_batch(self, slot: Slot) -> Parts:
        assert self._pool is not None
        jobs = self._plan()
        slot.wait()
        return Parts(
            [
                self._pool.submit(self._load_chunk, jobs[i : i + CHUNK], slot, i)
                for i in range(0, len(jobs), CHUNK)
            ]
        )

    def _plan(self) -> list[SampleTask]:
        try:
            return self.plan()
        except DataError as error:
            raise self.layer.wrap(error) from None

    def _load_chunk(self, jobs: Sequence[SampleTask], slot: Slot, start: int) -> list[Result]:
        return [self._load(job, slot, start + i) for i, job in enumerate(jobs)]

    def _load(self, job: SampleTask, slot: Slot, index: int) -> Result:
        if self.layer.options.on_bad_record == "skip":
            return self._load_or_skip(job, slot, index)
        return self._load_one(job, slot, index)

    def _load_or_skip(self, job: SampleTask, slot: Slot, index: int) -> Result:
        """Load the sample, or the first good one behind it."""
        place: SampleTask | None = job
        for _ in range(_PATIENCE):
            if place is None:
                break
            try:
                return self._load_one(place, slot, index)
            except DataError as error:
                first = error
            self._tell(place, first)
            place = self.following(place)
            if place is not None:  # real Caffe stops here, so there are no draws to repeat
                keyed = SampleRandom(self.random.predrawn, self.key, lookahead=2)
                place.draws = keyed.batch([job.number])[0]
        raise self.layer.error(f"no good record in {_PATIENCE} tries; the last one: {first}")

    def _tell(self, job: SampleTask, error: DataError) -> None:
        name = self._name(job)
        if name not in self._skipped:
            self._skipped.add(name)
            if self.layer.options.note is not None:
                self.layer.options.note(f"Skipping a bad record: {error}")

    def first_good(self, job: SampleTask, load: Callable[[SampleTask], Image]) -> Image:
        """The image that tells the shapes: of the first record, or of the first good one."""
        skip = self.layer.options.on_bad_record == "skip"
        for _ in range(_PATIENCE if skip else 1):
            try:
                return load(job)
            except CaffeIOError as problem:
                error = self.layer.error(f"{self.describe(job)}: {problem.message}")
            if skip:
                self._tell(job, error)
            job = self.following(job) or job
        raise error from None

    def _load_one(self, job: SampleTask, slot: Slot, index: int) -> Result:
        try:
            return self.load(job, slot, index)
        except CaffeIOError as error:
            raise self.layer.error(f"{self.describe(job)}: {error.message}") from error
        except MemoryError as error:
            raise memory_error(error, self.describe(job)) from None
        except (cv2.error, OSError, ValueError) as error:  # an error of ours shows itself
            raise self.layer.error(
                f"{self.describe(job)}: {type(error).__name__}: {error}"
            ) from error

    @staticmethod
    def _name(job: SampleTask) -> str:
        name = job.name
        return name if isinstance(name, str) else bytes(name).decode("utf-8", "backslashreplace")

    @staticmethod
    def _settle(planned: Future[Parts]) -> None:
        """Wait for what still runs of a failed batch: it writes to the slot."""
        if planned.cancelled() or planned.exception() is not None:
            return
        planned.result().settle()

    # -- results ---------------------------------------------------------------------------

    def _data(self, results: list[Result], slot: Slot) -> Tensor:
        shape = results[0].shape
        for i, result in enumerate(results):
            if result.shape != shape:
                raise self.layer.error(
                    f"sample {i} of the batch is {format_shape(result.shape, ' x ')}, the first "
                    f"one is {format_shape(shape, ' x ')} (channels, height, width): all samples "
                    "of a batch must be of one size; use crop_size or resize them, or batch_size 1"
                )
        values = [r.values for r in results if r.values is not None]
        if not values:
            return self.delivery.images(slot)
        if len(values) < len(results):
            raise self.layer.error("a batch mixes Datums of bytes and of floats")
        self.item_shape = shape
        return self.delivery.values(np.stack(values))

    def close(self) -> None:
        """Stop the threads; batches in flight are thrown away."""
        if self._closed:
            return
        self._closed = True
        if self._planner is not None:
            self._planner.shutdown(wait=True, cancel_futures=True)
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()
        self._given = None
