"""Images a second: our data sources beside torch's DataLoader, in one run.

    python benchmarks/bench_data.py [--images N] [--batch N] [--threads 1,2] [--rounds N]
                                    [--lmdb DIR]

Both read the same LMDB of JPEGs and do the same work with the same decoder and resizer: the data
layer of the ResNet-50 recipe (random area and aspect, CUBIC to 224, mirror, mean, scale to float32
NCHW), its TEST layer (shorter side 256, centre crop), a plain random crop, and raw 28 x 28 Datums.
The DataLoader has as many workers (processes) as we have threads; for raw Datums we use one.
Rounds are interleaved; figures are medians, the ratio is ours over theirs. Beside them stands the
processor time of a sample, all threads and processes together, which other load on the machine
disturbs less. `exact` is real Caffe's CUBIC (no Intel IPP in OpenCV).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from google.protobuf import text_format
from summary import figure

from caffeio.data import make_source
from caffeio.data.db.lmdb import LmdbDatabase, write_lmdb
from caffeio.data.draws import Draws
from caffeio.data.records.datum import encode_datum, scan_datum
from caffeio.data.transform.image import set_ipp
from caffeio.data.transform.transformer import Transformer
from caffeio.profiles import INTEL
from caffeio.proto import caffe_pb2 as pb

MEAN = "scale: 0.0078125 mean_value: 104 mean_value: 117 mean_value: 123 crop_size: 224"
CUBIC = "resize_param { interp_mode: CUBIC }"
RECIPE = (
    f"{MEAN} mirror: true random_aspect_ratio_param {{ min_area_ratio: 0.08 max_area_ratio: 1 "
    f"aspect_ratio_change: 0.75 {CUBIC} }}"
)
TEST = f"{MEAN} random_resize_param {{ min_size: 256 max_size: 256 {CUBIC} }}"
CASES = [  # name, phase, transform_param, database, exact
    ("recipe TRAIN, exact", "TRAIN", RECIPE, "jpeg", True),
    ("recipe TRAIN, fast", "TRAIN", RECIPE, "jpeg", False),
    ("recipe TEST, exact", "TEST", TEST, "jpeg", True),
    ("recipe TEST, fast", "TEST", TEST, "jpeg", False),
    ("crop and mirror", "TRAIN", f"{MEAN} mirror: true", "jpeg", True),
    ("raw 1x28x28", "TRAIN", "scale: 0.00390625", "raw", True),
]


def photo(index: int, height: int, width: int) -> np.ndarray:
    """Something with the edges and textures of a photograph."""
    rng = np.random.default_rng(index)
    image = np.zeros((height, width, 3), np.float32)
    for cells in (4, 12, 40, 120):
        noise = rng.standard_normal((cells, cells, 3)).astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) * 60 / cells**0.4
    return np.clip(image + 128, 0, 255).astype(np.uint8)


def write(folder: Path, images: int) -> None:
    def jpegs() -> Iterator[tuple[str, bytes]]:
        for i in range(images):
            sides = (375, 500) if i % 3 else (500, 375)
            data = cv2.imencode(".jpg", photo(i, *sides), [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
            yield f"{i:08d}", encode_datum(data=data.tobytes(), label=i, encoded=True)

    if not (folder / "jpeg").exists():
        write_lmdb(folder / "jpeg", jpegs())
        digit = photo(0, 28, 28)[None, :, :, 0]
        raw = encode_datum(data=np.ascontiguousarray(digit), label=1)
        write_lmdb(folder / "raw", ((f"{i:08d}", raw) for i in range(4000)))


class Records(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """What one would write for a DataLoader: the same steps, sample by sample."""

    def __init__(self, path: str, transform: str, phase: str, exact: bool) -> None:
        self.path, self.exact = path, exact
        param = text_format.Parse(transform, pb.TransformationParameter())
        self.transformer = Transformer(param, phase, profile=INTEL)
        self.db: Any = None
        db = LmdbDatabase(path)
        self.keys = [bytes(key) for key in db.iter_keys()]
        db.close()

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if self.db is None:
            self.db = LmdbDatabase(self.path)
            set_ipp(not self.exact)
            self.random = np.random.default_rng(os.getpid())
            self.word = lambda: int(self.random.integers(0, 1 << 32))
        datum = scan_datum(self.db.get(self.keys[index]))
        t = self.transformer
        fixed = [self.word() for _ in range(t.predrawn)]
        image, window = t.place(t.load(datum), Draws(fixed, self.word, self.word))
        out = np.empty((image.shape[0], window.height, window.width), np.float32)
        t.write(image, window, out)
        return torch.from_numpy(out), datum.label


def processor_seconds(pids: list[int]) -> float:
    """User and system time of processes so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(next_batch: Callable[[], Any], images: int, batch: int, pids: list[int]) -> np.ndarray:
    """Images a second, microseconds of processor time an image."""
    batches = max(1, images // batch)
    start, busy = time.perf_counter(), processor_seconds(pids)
    for _ in range(batches):
        next_batch()
    wall, busy = time.perf_counter() - start, processor_seconds(pids) - busy
    return np.array([batches * batch / wall, busy / (batches * batch) * 1e6])


def endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def compare(
    args: argparse.Namespace, folder: Path, case: tuple[str, str, str, str, bool], threads: int
) -> None:
    name, phase, transform, database, exact = case
    path = str(folder / database)
    shuffle = "shuffle: true" if phase == "TRAIN" else ""
    param = text_format.Parse(
        f'name: "d" type: "Data" top: "data" top: "label" transform_param {{ {transform} }} '
        f'data_param {{ source: "{path}" batch_size: {args.batch} backend: LMDB {shuffle} }}',
        pb.LayerParameter(),
    )
    loader = torch.utils.data.DataLoader(
        Records(path, transform, phase, exact), args.batch, shuffle=phase == "TRAIN",
        num_workers=threads, drop_last=True, persistent_workers=True,
    )  # fmt: skip
    theirs = endless(loader)
    next(theirs)
    workers = [worker.pid for worker in loader._iterator._workers]
    images = args.images if database == "jpeg" else 8000
    ours, torchs = [], []
    options = {"phase": phase, "profile": INTEL, "exact": exact}
    options["threads"] = threads if database == "jpeg" else None
    for _ in range(args.rounds):
        with make_source(param, **options) as source:  # a new one: it does not read on meanwhile
            source.next()
            ours.append(measure(source.next, images, args.batch, [os.getpid()]))
        for _ in range(2 * threads):
            next(theirs)
        torchs.append(measure(theirs.__next__, images, args.batch, [os.getpid(), *workers]))
    mine, other = np.median(ours, 0), np.median(torchs, 0)
    print(
        f"{name:22s} {mine[0]:8.0f} {other[0]:8.0f} {mine[0] / other[0]:6.2f} "
        f"{mine[1]:9.0f} {other[1]:8.0f} {mine[1] / other[1]:6.2f}",
        flush=True,
    )
    ratio = np.max(ours, 0)[0] / np.max(torchs, 0)[0]
    figure(f"images/s, {name}, threads: {threads}", "DataLoader, same decoder", "at least 1.0",
           ratio, mine[0] / other[0])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512, help="JPEGs a round")
    parser.add_argument("--batch", type=int, default=64)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", default=f"1,{cores}" if cores > 1 else "1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lmdb", type=Path, help="keep the databases in this folder")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.lmdb or Path(temporary)
        folder.mkdir(exist_ok=True)
        write(folder, args.images)
        size = (folder / "jpeg" / "data.mdb").stat().st_size / args.images / 1e3
        print(f"{args.images} JPEGs of {size:.0f} kB, batch {args.batch}")
        for threads in map(int, args.threads.split(",")):
            print(
                f"{f'{threads} threads':22s} {'images/s':>8s} {'torch':>8s} {'ratio':>6s} "
                f"{'CPU us':>9s} {'torch':>8s} {'ratio':>6s}"
            )
            for case in CASES:
                if args.only in case[0]:
                    compare(args, folder, case, threads)


if __name__ == "__main__":
    main()
