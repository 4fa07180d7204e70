"""Where the time of a batch of JPEGs goes, stage by stage, and how the loader scales.

    python benchmarks/bench_data_stages.py [--images N] [--rounds N] [--threads N] [--photos FOLDER]

Stages are microseconds of processor time an image, of one core: the same images (500 x 375, drawn,
or photographs brought to that size) and the same random windows in every stage, the stages in turn,
minima and medians of the rounds. `floor` is decoding all of the image, and OpenCV's CUBIC without
IPP, alone: what a loader without any work of its own could do with these libraries. Then what a
thread of several is worth beside a single one, by the kernel's own accounts (Linux): processor time
an image, and how long the loading threads were held up by each other; and what a process of several
is worth that decodes and does nothing else: that is the machine's own limit.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from bench_data import MEAN, RECIPE, TEST, photo
from google.protobuf import text_format
from summary import figure

from caffeio.data import make_source
from caffeio.data.db.lmdb import write_lmdb
from caffeio.data.draws import SampleRandom
from caffeio.data.records.datum import encode_datum
from caffeio.data.transform import cubic
from caffeio.data.transform.cubic import ImagePart
from caffeio.data.transform.image import Encoded, set_ipp
from caffeio.data.transform.normalize import Image
from caffeio.data.transform.transformer import Plan, Transformer
from caffeio.profiles import INTEL
from caffeio.proto import caffe_pb2 as pb

CASES = {
    "recipe TRAIN": ("TRAIN", RECIPE),
    "recipe TEST": ("TEST", TEST),
    "crop and mirror": ("TRAIN", f"{MEAN} mirror: true"),
}
BATCH = 64


def jpegs(count: int, photos: Path | None) -> list[bytes]:
    """JPEGs of quality 92, two in three of them 500 wide and 375 high."""
    files = sorted(photos.glob("*.jpg")) if photos else []
    read = [cv2.imread(str(file)) for file in files]
    kept = [image for image in read if image is not None and min(image.shape[:2]) >= 300]
    found = []
    for i in range(count):
        height, width = (375, 500) if i % 3 else (500, 375)
        image: Any = photo(i, height, width)
        if kept:
            image = kept[i % len(kept)]
            if (image.shape[0] > image.shape[1]) != (height > width):
                height, width = width, height
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        found.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
    return found


def source_of(folder: Path, case: str, threads: int) -> Any:
    phase, transform = CASES[case]
    param = text_format.Parse(
        f'name: "d" type: "Data" top: "data" top: "label" transform_param {{ {transform} }} '
        f'data_param {{ source: "{folder}/jpeg" batch_size: {BATCH} backend: LMDB }}',
        pb.LayerParameter(),
    )
    source = make_source(param, phase=phase, profile=INTEL, threads=threads, shared_seed=1)
    source.next()
    return source


def each(function: Callable[..., Any], *columns: Any) -> Callable[[], list[Any]]:
    return lambda: [function(*row) for row in zip(*columns, strict=True)]


def stages(folder: Path, case: str, files: list[bytes]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name each stage, and what does it to all images."""
    phase, transform = CASES[case]
    param = text_format.Parse(transform, pb.TransformationParameter())
    t = Transformer(param, phase, profile=INTEL)
    random = SampleRandom(t.predrawn, 1, lookahead=t.lookahead)
    encoded = [Encoded(file) for file in files]
    images: list[Any] = [simplejpeg.decode_jpeg(file, colorspace="BGR") for file in files]
    draws = random.batch(list(range(len(files))))
    plans = [t.plan(e.height, e.width, d) for e, d in zip(encoded, draws, strict=True)]

    def whole(image: Any, plan: Plan) -> Any:
        return plan.cut.take(image) if plan.cut else image

    def part(image: Any, plan: Plan, resize: Any) -> Any:
        c, w = plan.cut, plan.window
        assert c is not None
        rectangle = image[c.y : c.y + c.height, c.x : c.x + c.width]
        return resize(rectangle, c.height, c.to, ImagePart(w.y, w.x, w.height, w.width))

    def with_ipp() -> None:
        before = set_ipp(True)
        each(whole, images, plans)()
        set_ipp(before)

    yield "decode, whole", each(lambda f: simplejpeg.decode_jpeg(f, colorspace="BGR"), files)
    yield "decode, what is needed", each(lambda f, p: Encoded(f).top(p.rows()), files, plans)
    if plans[0].cut is not None:
        yield "CUBIC, OpenCV without IPP", each(whole, images, plans)
        yield "CUBIC, OpenCV with IPP", with_ipp
        yield (
            "CUBIC of the crop, OpenCV",
            each(lambda i, p: part(i, p, cubic._by_opencv), images, plans),
        )
        if cubic.kernels() is not None:
            yield (
                "CUBIC of the crop, compiled",
                each(lambda i, p: part(i, p, cubic.cubic), images, plans),
            )
    placed = [t.follow(Image(i, False), p) for i, p in zip(images, plans, strict=True)]
    out = np.empty((len(files), 3, 224, 224), np.float32)
    yield "write float32", each(lambda p, o: t.write(*p, o), placed, out)
    source = source_of(folder, case, 0)
    yield "all of a batch", lambda: [source.next() for _ in range(len(files) // BATCH)]


def show_stages(folder: Path, case: str, files: list[bytes], rounds: int) -> None:
    named = dict(stages(folder, case, files))
    taken: dict[str, list[float]] = {name: [] for name in named}
    for _ in range(rounds):
        for name, run in named.items():
            start = time.process_time()
            run()
            taken[name].append((time.process_time() - start) / len(files) * 1e6)
    print(f"\n{case}: us an image, minimum and median of {rounds} rounds")
    for name, times in taken.items():
        print(f"  {name:28s} {min(times):6.0f} {np.median(times):6.0f}")
    base = [taken[n] for n in ("decode, whole", "CUBIC, OpenCV without IPP") if n in taken]
    ratios = [sum(map(pick, base)) / pick(taken["all of a batch"]) for pick in (min, np.median)]
    print(f"  floor / all of a batch       {ratios[0]:6.2f} {ratios[1]:6.2f}", flush=True)
    figure(f"batch of JPEGs, {case}, 1 core", "decoding all of each and OpenCV's CUBIC alone",
           "at least 1.3", *ratios)  # fmt: skip
    decoding, whole = taken["decode, what is needed"], taken["all of a batch"]
    figure(f"(decoding what is needed alone, {case}, part of the batch's time)", "the batch", "",
           min(decoding) / min(whole), float(np.median(decoding) / np.median(whole)))  # fmt: skip


def scheduled() -> np.ndarray:
    """Seconds for which the loading threads have run, and have waited for a core, so far."""
    found = np.zeros(2)
    for thread in threading.enumerate():
        if thread.name.startswith("caffeio-data"):
            text = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text()
            found += np.array(text.split()[:2], float) / 1e9
    return found


def work(folder: Path, case: str, threads: int, batches: int) -> np.ndarray:
    """Images a second, us of processor time an image, share of its time that a thread is held up.

    Held up by the interpreter's lock, or for want of work; to wait for a core is not counted.
    """
    with source_of(folder, case, threads) as source:
        for _ in range(8):  # as many as may lie ready
            source.next()
        start, before = time.perf_counter(), scheduled()
        for _ in range(batches):
            source.next()
        wall, (ran, waited) = time.perf_counter() - start, scheduled() - before
    images = batches * BATCH
    return np.array([images / wall, ran / images * 1e6, 1 - (ran + waited) / wall / threads])


def decode_alone(files: list[bytes], start: Any, pipe: Any) -> None:
    """Tell how many images a second a process decodes that does nothing else, for two seconds."""
    start.wait()
    began, rounds = time.perf_counter(), 0
    while time.perf_counter() - began < 2:
        for file in files:
            simplejpeg.decode_jpeg(file, colorspace="BGR")
        rounds += 1
    pipe.send(rounds * len(files) / (time.perf_counter() - began))


def rate_of_decoders(files: list[bytes], processes: int) -> float:
    """Images a second of each of so many decoders, the mean."""
    fork = multiprocessing.get_context("fork")
    start, (inlet, outlet) = fork.Barrier(processes), fork.Pipe(duplex=False)
    each = [
        fork.Process(target=decode_alone, args=(files, start, outlet)) for _ in range(processes)
    ]
    for process in each:
        process.start()
    rates = [inlet.recv() for _ in each]
    for process in each:
        process.join()
    return float(np.mean(rates))


def show_limit(files: list[bytes], rounds: int, processes: int) -> None:
    """What a decoder of several is worth, each a process of its own without anything shared."""
    pairs = [
        (rate_of_decoders(files, 1), rate_of_decoders(files, processes)) for _ in range(rounds)
    ]
    one, many = (list(rates) for rates in zip(*pairs, strict=True))
    best, middle = max(many) / max(one), float(np.median(many) / np.median(one))
    print(f"decoders alone, a process each: one of {processes} is worth {middle:.2f} ({best:.2f})")
    figure(f"(images/s of a decoder alone, of {processes} processes)", "one process", "", best,
           middle)  # fmt: skip


def show_scaling(folder: Path, case: str, rounds: int, threads: int) -> None:
    """What a thread of several is worth, on a machine that may be busy with other things too."""
    one, many = [], []
    for _ in range(rounds):
        one.append(work(folder, case, 1, 12))
        many.append(work(folder, case, threads, 12))
    a, b = np.median(one, 0), np.median(many, 0)
    print(
        f"{case}: {a[0]:.0f} images/s with 1 thread, {b[0]:.0f} with {threads}; us an image "
        f"{a[1]:.0f} and {b[1]:.0f}, held up {a[2]:.1%} and {b[2]:.1%}: "
        f"a thread of {threads} is worth {a[1] / b[1] * (1 - b[2]) / (1 - a[2]):.2f}",
        flush=True,
    )
    best = max(m[0] for m in many) / max(o[0] for o in one) / threads
    figure(f"images/s a thread, {case}, {threads} threads", "one thread", "at least 0.95",
           best, b[0] / a[0] / threads)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=128, help="distinct images; 64 are a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs to take instead of drawings")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    set_ipp(False)
    files = jpegs(args.images, args.photos)
    size = sum(map(len, files)) / len(files) / 1e3
    numba = "numba" if cubic.kernels() is not None else "no numba"
    print(f"{len(files)} JPEGs of {size:.0f} kB, {numba}, OpenCV {cv2.__version__}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        records = (
            (f"{i:05d}", encode_datum(data=file, label=i, encoded=True))
            for i, file in enumerate(files)
        )
        write_lmdb(folder / "jpeg", records)
        for case in CASES:
            if args.only in case:
                show_stages(folder, case, files, args.rounds)
        print()
        for case in CASES:
            if args.only in case and args.threads > 1:
                show_scaling(folder, case, args.rounds, args.threads)
        if args.threads > 1:
            show_limit(files, args.rounds, args.threads)


if __name__ == "__main__":
    main()
