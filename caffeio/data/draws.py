"""Random numbers of the data layers: Caffe's own order of draws, or a stream for each sample.

With a seed (`random_seed`) the numbers are those of real Caffe. Without one every sample has a
stream of its own, Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3",
SC11) keyed by a seed and the sample's place in the run, so nothing depends on threads or ranks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from caffeio.boost_random import CaffeRng
from caffeio.layers.registry import REGISTRY
from caffeio.layers.sources import SourceLayer
from caffeio.proto import caffe_pb2 as pb

Word = Callable[[], int]  # the next 32-bit number


@dataclass(slots=True)
class Draws:
    """What one sample may draw: numbers drawn beforehand, then as many more as it needs.

    `transformer_rng` is the generator of Caffe's DataTransformer, `thread_rng` that of its thread,
    which decides interpolation, noise and SSD's samples.
    """

    predrawn: Sequence[int]
    transformer_rng: Word
    thread_rng: Word
    _at: int = 0

    def next_word(self) -> int:
        """The next of the numbers drawn beforehand."""
        self._at += 1
        return self.predrawn[self._at - 1]


def _nothing() -> int:
    raise RuntimeError("this sample draws nothing")


def undecided() -> int:
    """Give a word for draws of the thread that decide nothing: whichever it is will do."""
    return 0


NO_DRAWS = Draws((), _nothing, _nothing)


@dataclass(frozen=True)
class LayerSeeds:
    """The words that a data layer takes from the main generator while it is set up."""

    transformer: int | None = None  # seed of the transformer's generator
    shuffle: int | None = None  # seed of the shuffling generator
    skip: int | None = None  # the word behind ImageData's rand_skip
    windows: int | None = None  # seed of WindowData's sampling
    thread: int | None = None  # seed of the thread's own generator


def needs_random(transform: pb.TransformationParameter, phase: str) -> bool:
    """Whether the transformer has a generator at all (DataTransformer::InitRand)."""
    return (
        transform.mirror
        or transform.HasField("random_resize_param")
        or transform.HasField("random_aspect_ratio_param")
        or (phase == "TRAIN" and transform.crop_size > 0)
    )


def draw_setup(
    param: pb.LayerParameter, phase: str, rng: CaffeRng, *, reader_thread: bool = False
) -> LayerSeeds:
    """Draw what setting up layer `param` draws, in Caffe's order, from the main generator.

    Sources: base_data_layer.cpp, image_data_layer.cpp, window_data_layer.cpp, internal_thread.cpp.
    `reader_thread`: Intel's order; its reader thread starts (and draws) first, and no prefetching
    thread follows on a CPU.
    """
    cls = REGISTRY[param.type]
    assert issubclass(cls, SourceLayer)
    if not cls.transforms:
        return LayerSeeds()
    needed = needs_random(param.transform_param, phase)
    word: Callable[[], int] = rng.raw
    if not cls.prefetches:  # the transformer is set up once
        return LayerSeeds(word() if needed else None)
    reading = reader_thread and cls.has_reader
    thread = word() if reading else None
    if needed:
        word()  # seeds a generator that the second InitRand replaces
    own = cls.draw_own(param, word)
    transformer = word() if needed else None
    if not reader_thread:
        thread = word()
    if reading and param.data_param.shuffle and thread is not None:
        own["shuffle"] = int(CaffeRng(thread).raw())
    return LayerSeeds(transformer, **own, thread=thread)


# -- a stream for each sample ----------------------------------------------------------------

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(key: int, samples: NDArray[np.uint64], block: int, blocks: int) -> NDArray[np.uint64]:
    """Words of Philox4x32-10: (len(samples), 4 * blocks), each below 2**32.

    The counter is (block, 0, low and high half of the sample's number), the key's halves the key.
    """
    n = len(samples)
    c = [
        np.broadcast_to(np.arange(block, block + blocks, dtype=np.uint64), (n, blocks)),
        np.zeros((n, blocks), np.uint64),
        np.broadcast_to((samples & _LOW)[:, None], (n, blocks)),
        np.broadcast_to((samples >> _HALF)[:, None], (n, blocks)),
    ]
    k0, k1 = key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = c[0] * _M0, c[2] * _M1
        c = [
            (p1 >> _HALF) ^ c[1] ^ np.uint64(k0), p1 & _LOW,
            (p0 >> _HALF) ^ c[3] ^ np.uint64(k1), p0 & _LOW,
        ]  # fmt: skip
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return np.stack(c, axis=-1).reshape(n, 4 * blocks)


class SampleStream:
    """The words of one sample: a first few are made with the batch, more on demand."""

    __slots__ = ("_at", "_block", "_key", "_sample", "_words")

    def __init__(self, key: int, sample: int, words: list[int], block: int) -> None:
        self._key, self._sample, self._words, self._block, self._at = key, sample, words, block, 0

    def __call__(self) -> int:
        """The next word."""
        if self._at >= len(self._words):
            more = philox(self._key, np.array([self._sample], np.uint64), self._block, 16)
            self._words, self._at = more[0].tolist(), 0
            self._block += 16
        self._at += 1
        return self._words[self._at - 1]


class SampleRandom:
    """Draws for batches: exact (one generator, in order) or by sample (Philox)."""

    def __init__(self, predrawn: int, key: int, *, lookahead: int = 0) -> None:
        self.predrawn = predrawn  # words each sample draws beforehand
        self.key = key
        self._blocks = -(-(predrawn + lookahead) // 4)
        self.transformer_rng: CaffeRng | None = None  # Caffe's DataTransformer's, in exact mode
        self.thread_rng: Word | None = None  # that of Caffe's thread, in exact mode

    def repeat(self, seed: int | None, thread: CaffeRng) -> None:
        """From now on repeat real Caffe, whose transformer (if it draws at all) had this seed."""
        self.transformer_rng = None if seed is None else CaffeRng(seed)
        self.thread_rng = thread.raw

    def batch(self, samples: Sequence[int]) -> list[Draws]:
        """The draws of the samples with these numbers, in order."""
        if self.thread_rng is not None:
            n, rng = self.predrawn, self.transformer_rng
            words = rng.raw(n * len(samples)).tolist() if rng and n else []
            more = rng.raw if rng else self.thread_rng
            return [
                Draws(words[i * n : (i + 1) * n], more, self.thread_rng)
                for i in range(len(samples))
            ]
        rows: list[list[int]] = [[]] * len(samples)
        if self._blocks:
            rows = philox(self.key, np.array(samples, np.uint64), 0, self._blocks).tolist()
        return [self._draws(s, row) for s, row in zip(samples, rows, strict=True)]

    def _draws(self, sample: int, row: list[int]) -> Draws:
        stream = SampleStream(self.key, sample, row[self.predrawn :], self._blocks)
        return Draws(row[: self.predrawn], stream, stream)


def entropy() -> int:
    """A fresh 64-bit key."""
    return int.from_bytes(os.urandom(8), "little")
