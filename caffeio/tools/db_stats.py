"""What a database holds: how many records, of which shapes, how often each label; some to look at.

Every record is read, none is decoded: an image file's size is taken from its header.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

from caffeio.data.db.database import open_db
from caffeio.data.records.annotated_datum import AnnotatedDatum, scan_annotated
from caffeio.data.records.datum import Buffer, Datum, scan_datum
from caffeio.data.transform.image_header import picture_size
from caffeio.errors import DataError

CLASSES = 20  # more labels are not laid out one row each
PER_LABEL = 12


@dataclass
class DbStats:
    """Figures of a database, and whole records to look at, by label."""

    records: int = 0
    size: int = 0  # bytes of the values
    shapes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)  # raw, float, JPEG, PNG ...
    labels: Counter[int] = field(default_factory=Counter)
    boxes: int = 0  # of AnnotatedDatums; `labels` counts them then
    annotated: bool = False
    unlabelled: int = 0
    bad: list[tuple[bytes, str]] = field(default_factory=list)  # the first ones, with the reason
    samples: dict[int, list[bytes]] = field(default_factory=dict)


def db_stats(
    path: str,
    backend: str = "LMDB",
    *,
    samples: int = PER_LABEL,
    progress: Callable[[int, int | None], None] | None = None,
) -> DbStats:
    """Read all records of a database of Datums or AnnotatedDatums.

    samples: how many records are kept of each label, the first ones. Raises DataError if the
    database cannot be read; records that are none are listed.
    """
    found = DbStats()
    with closing(open_db(path, backend)) as db:
        for key, value in db.records():
            if not found.records:
                found.annotated = bytes(value[:1]) == b"\x0a"  # a Datum's first field is a number
            found.records += 1
            found.size += len(value)
            try:
                _add_datum(found, value, samples)
            except DataError as error:
                if len(found.bad) < 10:
                    found.bad.append((bytes(key), error.message))
            if progress is not None and found.records % 5000 == 0:
                progress(found.records, db.size)
    return found


def read_sample(record: Buffer, annotated: bool) -> AnnotatedDatum:
    """A record of either kind; a Datum has no boxes."""
    return scan_annotated(record) if annotated else AnnotatedDatum(scan_datum(record), [])


def _add_datum(found: DbStats, value: Buffer, samples: int) -> None:
    datum, boxes = read_sample(value, found.annotated)[:2]
    found.shapes[_shape(datum)] += 1
    found.kinds[_kind(datum)] += 1
    label = datum.label
    if found.annotated:
        found.boxes += len(boxes)
        found.labels.update(box.group_label for box in boxes)
        label = boxes[0].group_label if boxes else -1
    elif datum.has_label:
        found.labels[label] += 1
    else:
        found.unlabelled += 1
    kept = found.samples.setdefault(label, []) if _room(found, label) else None
    if kept is not None and len(kept) < samples:
        kept.append(bytes(value))


def _room(found: DbStats, label: int) -> bool:
    """Whether another label may have samples: of a thousand classes, some hundred have."""
    return label in found.samples or len(found.samples) < 100


def _shape(datum: Datum) -> str:
    size = (datum.height, datum.width)
    if datum.encoded:
        size = picture_size(datum.data) or size
        channels = datum.channels or "?"
        return f"{channels}x{size[0] or '?'}x{size[1] or '?'}"
    return f"{datum.channels}x{size[0]}x{size[1]}"


def _kind(datum: Datum) -> str:
    if not datum.encoded:
        return "float" if datum.float_data is not None and not len(datum.data) else "pixels"
    head = bytes(datum.data[:4])
    if head[:2] == b"\xff\xd8":
        return "JPEG"
    return "PNG" if head == b"\x89PNG" else "image file"
