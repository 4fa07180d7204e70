"""The Data layer: Datums from LMDB or LevelDB.

Sources: src/caffe/layers/data_layer.cpp; sara-nl src/caffe/data_reader.cpp (shuffle, strides).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from caffeio.boost_random import CaffeRng
from caffeio.data.base import SourceContext, batch_of
from caffeio.data.batch import SampleTask
from caffeio.data.db.buffer import Buffer
from caffeio.data.db.database import Database, KeyTable, open_db
from caffeio.data.db.lmdb import LmdbDatabase
from caffeio.data.draws import LayerSeeds, SampleRandom
from caffeio.data.loader import LoaderSource
from caffeio.data.records.datum import Datum, scan_datum
from caffeio.data.transform.image import Encoded, encoded_size
from caffeio.data.transform.normalize import Image
from caffeio.errors import DataError
from caffeio.proto import caffe_pb2 as pb

_LIGHT = 20_000  # bare values of a record that one thread handles faster than several


Record = tuple[int, Buffer, Buffer | None]


class Records:
    """The records that one rank reads, in order, without end.

    Record i of the endless sequence is for rank i % world: BVLC's counter of records and Intel's
    strides come to the same, and count on through the wrap. With `shuffle` the order is a
    permutation of all records, shuffled again (from its present order) after every pass.
    """

    def __init__(self, db: Database, *, rank: int = 0, world: int = 1, shuffle: bool = False,
                 key: int = 0) -> None:  # fmt: skip
        self._db, self._rank, self._world = db, rank, world
        self._shuffle, self._key = shuffle, key
        self.seed: int | None = None  # of Caffe's shuffling generator, if its numbers are wanted

    def __iter__(self) -> Iterator[Record]:
        """The record's number in the endless sequence of all ranks, its key, its value.

        A shuffled record's value is None: the thread that needs it gets it.
        """
        return self._shuffled() if self._shuffle else self._in_order()

    def _in_order(self) -> Iterator[Record]:
        cursor = self._db.cursor()
        number = 0
        for _ in range(self._rank):
            cursor.advance()
        while True:
            yield number + self._rank, *cursor.item()
            number += self._world
            for _ in range(self._world):
                cursor.advance()

    def _shuffled(self) -> Iterator[Record]:
        table = KeyTable(self._db)
        size = len(table)
        order = list(range(size))
        exact = CaffeRng(self.seed) if self.seed is not None else None
        epoch, number = -1, self._rank
        while True:
            while number // size > epoch:  # ranks may step over a whole pass of a tiny set
                epoch += 1
                if exact is not None:
                    exact.shuffle(order)
                else:
                    bits = np.random.Philox(key=[self._key, epoch])
                    order = np.random.Generator(bits).permutation(size).tolist()
            yield number, table[order[number % size]], None
            number += self._world


class DatabaseSource(LoaderSource):
    """Batches of a Data layer: data (N, C, H, W) and, with two tops, labels (N,).

    A test goes on where the last one stopped; at the end of the data it begins again.
    """

    def __init__(self, layer: SourceContext) -> None:
        super().__init__(layer)
        p = layer.param.data_param
        layer.check(
            1 <= len(layer.param.top) <= 2,
            f"takes 1 or 2 tops, not {len(layer.param.top)}",
            "top",
        )
        self.batch_size = batch_of(layer, p.batch_size, "data_param")
        self.prefetch = max(1, p.prefetch or 4)
        self.with_labels = len(layer.param.top) > 1
        self.transformer = layer.transformer()
        backend = pb.DataParameter.DB.Name(p.backend)
        layer.check(
            not p.shuffle or backend != "LEVELDB", "LevelDB does not support shuffle",
            "data_param.shuffle",
        )  # fmt: skip
        path = layer.find(p.source, "data_param.source")
        try:
            self.db = open_db(path, backend, in_order=not p.shuffle)
        except DataError as error:
            raise layer.wrap(error, "data_param.source") from None
        try:
            self._set_up()
        except BaseException:
            self.db.close()
            raise

    def _set_up(self) -> None:
        layer, o = self.layer, self.layer.options
        self.epoch_size = self.db.size
        profile = layer.profile
        everywhere = profile.tests_on_all_workers or profile.data_sharding == "stride"
        sharded = layer.phase == "TRAIN" or everywhere
        rank, world = (o.rank, o.world) if sharded else (0, 1)
        self._world = world
        shuffle = layer.param.data_param.shuffle
        self._records = Records(self.db, rank=rank, world=world, shuffle=shuffle, key=self.key)
        self._iterator: Iterator[Record] | None = None
        self._taken = 0  # records, by all ranks
        t = self.transformer
        self.random = SampleRandom(t.predrawn, self.key, lookahead=t.lookahead)
        self._peek()
        self.start()

    def _peek(self) -> None:
        """Look at the first record for the shape, and for whether labels are there."""
        key, value = self.db.cursor().item()
        job = SampleTask(value, self.random.batch([0])[0], key, 0)
        image = self.first_good(job, self._look)
        self.planar = image.planar
        self.light = image.planar and image.pixels.size < _LIGHT

    def _look(self, job: SampleTask) -> Image:
        """The image of a record, whose shape becomes that of the tops."""
        image = self.transformer.load(self._datum(self.record(job)))
        self.item_shape = self.transformer.output_shape(image)
        return image

    def following(self, job: SampleTask) -> SampleTask | None:
        """The record behind this one in key order; LevelDB has no order to ask for."""
        if not isinstance(self.db, LmdbDatabase):
            return None
        key, value = self.db.following(bytes(job.name))  # type: ignore[arg-type]
        return SampleTask(value, job.draws, key, job.number + 1)

    @staticmethod
    def _datum(value: Buffer) -> Datum:
        return scan_datum(value)

    def use_seeds(self, draws: LayerSeeds, thread: CaffeRng) -> None:
        """Repeat real Caffe's crops, mirrors and shuffles. Call it before the first `next`."""
        self.layer.check(self._iterator is None, "cannot be seeded after its first batch")
        self.repeat(draws.transformer, thread)
        if self._records._shuffle and self.layer.options.world == 1:
            self._records.seed = draws.shuffle

    def plan(self) -> list[SampleTask]:
        """The next records and their random numbers."""
        if self._iterator is None:
            self._iterator = iter(self._records)
        found = [next(self._iterator) for _ in range(self.batch_size)]
        draws = self.random.batch([number for number, _, _ in found])
        jobs = [
            SampleTask(value, d, key, number)
            for (number, key, value), d in zip(found, draws, strict=True)
        ]
        self.predraw(jobs, self._size)
        return jobs

    def _size(self, job: SampleTask) -> tuple[int, int]:
        datum = self._datum(self.record(job))
        if datum.encoded:
            return encoded_size(datum.data, self.transformer.flag)
        return datum.height, datum.width

    def record(self, job: SampleTask) -> Buffer:
        """The bytes of a job's record."""
        return self.db.get(bytes(job.name)) if job.record is None else job.record  # type: ignore[arg-type]

    def image(self, job: SampleTask) -> tuple[Image | Encoded, float]:
        """Scan the Datum; a file is decoded when it is known what of it is needed."""
        datum = scan_datum(self.record(job))
        if datum.encoded:
            return Encoded(datum.data, self.transformer.flag), datum.label
        return self.transformer.load(datum), datum.label

    def describe(self, job: SampleTask) -> str:
        """The record's key and number, and the database."""
        size = self.db.size
        index = f"record {job.number % size}" if size and not self._records._shuffle else "record"
        return f"{self.db.kind} {self.db.path!r}, {index}, key {self._name(job)!r}"

    def next(self) -> tuple[Tensor, ...]:
        """The next batch; tells when the last record has been taken and the data begin again."""
        tops = super().next()
        if self.on_restart is not None and self.epoch_size:
            before = self._taken // self.epoch_size
            self._taken += self.batch_size * self._world
            for _ in range(self._taken // self.epoch_size - before):
                self.on_restart()
        return tops

    def close(self) -> None:
        """Stop the threads and close the database."""
        was = self._closed
        super().close()
        self._iterator = None
        if not was:
            self.db.close()
