"""Every record of a database looked at: is it a Datum, does its picture decode, do sizes agree?

The decoding runs in threads: OpenCV and simplejpeg let go of the interpreter's lock.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice

from caffeio.data.cores import usable_cores
from caffeio.data.db.buffer import Buffer
from caffeio.data.db.database import open_db
from caffeio.data.records.annotated_datum import scan_annotated
from caffeio.data.records.datum import Datum, scan_datum
from caffeio.data.transform.image import decode, set_ipp
from caffeio.errors import CaffeIOError, DataError
from caffeio.memory import is_memory_error, memory_error

CHUNK = 64  # records a task


@dataclass
class Verified:
    """What was found: how many records, of which shapes, and the bad ones in key order."""

    records: int = 0
    shapes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    bad: list[tuple[bytes, str]] = field(default_factory=list)


def verify_db(
    path: str,
    backend: str = "LMDB",
    *,
    threads: int | None = None,
    annotated: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> Verified:
    """Decode every record of the database at `path`; the bad ones are listed, with the reason.

    Records are Datums, or AnnotatedDatums if `annotated`. `progress` is called now and then with
    the records done and their number (None: unknown). Raises DataError if the database itself is
    damaged.
    """
    threads = threads or usable_cores()
    found = Verified()
    with (
        closing(open_db(path, backend)) as db,
        ThreadPoolExecutor(
            threads, "caffeio-verify", initializer=set_ipp, initargs=(True,)
        ) as pool,
    ):
        waiting: deque[Future[Verified]] = deque()
        records = _ordered(db.records(), path)
        while chunk := list(islice(records, CHUNK)):
            waiting.append(pool.submit(_verify, chunk, annotated))
            if len(waiting) > 4 * threads:
                _add_part(found, waiting.popleft().result())
                if progress is not None:
                    progress(found.records, db.size)
        while waiting:
            _add_part(found, waiting.popleft().result())
        if db.size is not None and found.records != db.size:
            raise DataError(f"{path!r} gives {found.records} records and tells {db.size}")
    return found


def _ordered(
    records: Iterator[tuple[Buffer, Buffer]], path: str
) -> Iterator[tuple[Buffer, Buffer]]:
    """The records; their keys must ascend, or a search for one fails."""
    last = b""
    for key, value in records:
        now = bytes(key)
        if now <= last:
            raise DataError(f"{path!r} is damaged: key {now!r} stands behind {last!r}")
        last = now
        yield key, value


def _add_part(found: Verified, part: Verified) -> None:
    found.records += part.records
    found.shapes += part.shapes
    found.bad += part.bad


def _verify(chunk: list[tuple[Buffer, Buffer]], annotated: bool) -> Verified:
    out = Verified(len(chunk))
    for key, value in chunk:
        try:
            datum = scan_annotated(value).datum if annotated else scan_datum(value)
            out.shapes[shape_of(datum)] += 1
        except CaffeIOError as error:
            out.bad.append((bytes(key), error.message))
        except (MemoryError, RuntimeError, ValueError) as error:
            if not is_memory_error(error):
                raise
            out.bad.append((bytes(key), memory_error(error).message))
    return out


def shape_of(datum: Datum) -> tuple[int, ...]:
    """(channels, height, width) of the values, all of them read. Raises DataError."""
    if not datum.encoded:
        return datum.pixels().shape
    pixels = decode(datum.data)
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    told = (datum.channels, datum.height, datum.width)
    if all(told) and told[1:] != (height, width):
        raise DataError(
            f"the picture has {width} x {height} pixels (width, height), the Datum tells "
            f"{told[2]} x {told[1]}"
        )
    return channels, height, width
