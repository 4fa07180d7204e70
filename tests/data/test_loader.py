"""Batches in order, whatever the threads; shards, epochs, errors, memory."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from caffeio.boost_random import CaffeRng
from caffeio.data.batch import Parts, Result, SampleTask, Slot
from caffeio.data.cores import usable_cores
from caffeio.data.db.lmdb import write_lmdb
from caffeio.data.draws import Draws
from caffeio.data.loader import LoaderSource
from caffeio.data.records.datum import encode_datum
from caffeio.data.transform.image import COLOR, encoded_size, set_ipp
from caffeio.data.transform.normalize import Image
from caffeio.data.transform.transformer import Transformer
from caffeio.errors import DataError
from caffeio.profiles import BVLC, INTEL, NVIDIA
from tests.data.helpers import (
    data_layer,
    jpeg_lmdb,
    labels_of,
    make_source,
    photo,
    pixels,
    raw_lmdb,
)

RANDOM = "mirror: true crop_size: 5"


def batches(param: object, count: int, **options: object) -> list[tuple[torch.Tensor, ...]]:
    with make_source(param, **options) as source:  # type: ignore[arg-type]
        return [tuple(t.clone() for t in source.next()) for _ in range(count)]


def same(a: list[tuple[torch.Tensor, ...]], b: list[tuple[torch.Tensor, ...]]) -> bool:
    return all(torch.equal(x, y) for p, q in zip(a, b, strict=True)
               for x, y in zip(p, q, strict=True))  # fmt: skip


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("more", ["", "shuffle: true"])
def test_threads_do_not_matter(tmp_path: Path, seed: int | None, more: str) -> None:
    param = data_layer(raw_lmdb(tmp_path / "db", 11), RANDOM, 9, more)
    runs = [
        batches(param, 5, threads=n, seed=seed, shared_seed=3, profile=INTEL) for n in (0, 1, 3)
    ]
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])


def test_without_any_seed_runs_differ(tmp_path: Path) -> None:
    param = data_layer(raw_lmdb(tmp_path / "db", 11), RANDOM, 9)
    assert not same(batches(param, 3), batches(param, 3))


def test_order_and_wrap(tmp_path: Path) -> None:
    with make_source(data_layer(raw_lmdb(tmp_path / "db", 5), batch=3)) as source:
        assert labels_of(source, 4) == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
        assert source.epoch_size == 5
        assert source.top_shapes == [(3, 3, 8, 9), (3,)]


def test_one_top(tmp_path: Path) -> None:
    param = data_layer(raw_lmdb(tmp_path / "db", 5), batch=2)
    del param.top[1:]
    with make_source(param) as source:
        (data,) = source.next()
        assert data.dtype == torch.float32
        assert source.top_shapes == [(2, 3, 8, 9)]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("profile", [BVLC, INTEL])
def test_shards_of_train_are_disjoint_and_whole(
    tmp_path: Path, world: int, profile: object
) -> None:
    param = data_layer(raw_lmdb(tmp_path / "db", 5), batch=2)
    rows = []
    for rank in range(world):
        with make_source(param, rank=rank, world=world, profile=profile) as source:  # type: ignore[arg-type]
            rows.append(labels_of(source, 5))
    together = [label for step in zip(*rows, strict=True) for label in step]
    assert together == [i % 5 for i in range(len(together))]


def test_shards_of_test(tmp_path: Path) -> None:
    """BVLC's only rank 0 tests, on all records; Intel's ranks share them."""
    param = data_layer(raw_lmdb(tmp_path / "db", 4), batch=2)
    with make_source(param, phase="TEST", rank=1, world=2) as source:
        assert labels_of(source, 2) == [0, 1, 2, 3]
    with make_source(param, phase="TEST", rank=1, world=2, profile=INTEL) as source:
        assert labels_of(source, 2) == [1, 3, 1, 3]


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("shared_seed", [None, 12])
def test_shuffled_epochs(tmp_path: Path, world: int, shared_seed: int | None) -> None:
    param = data_layer(raw_lmdb(tmp_path / "db", 9), batch=3, more="shuffle: true")
    rows = []
    for rank in range(world):
        with make_source(param, rank=rank, world=world, profile=INTEL,
                         shared_seed=shared_seed) as source:  # fmt: skip
            rows.append(labels_of(source, 9))
    together = [label for step in zip(*rows, strict=True) for label in step]
    epochs = [tuple(together[i : i + 9]) for i in range(0, len(together), 9)]
    assert all(sorted(epoch) == list(range(9)) for epoch in epochs)
    assert len(set(epochs)) == len(epochs)  # a new order every time


def test_shuffle_of_a_seeded_caffe(tmp_path: Path) -> None:
    """Main generator -> reader thread -> shuffling generator; the list is shuffled on and on."""
    param = data_layer(raw_lmdb(tmp_path / "db", 9), batch=9, more="shuffle: true")
    order = list(range(9))
    shuffler = CaffeRng(CaffeRng(CaffeRng(42).raw()).raw())
    with make_source(param, seed=42, profile=INTEL) as source:
        for _ in range(3):
            shuffler.shuffle(order)
            assert labels_of(source, 1) == order


def test_leveldb_is_not_shuffled(tmp_path: Path) -> None:
    param = data_layer(tmp_path, more="shuffle: true")
    param.data_param.backend = 0
    with pytest.raises(DataError, match="LevelDB does not support shuffle"):
        make_source(param)


def test_a_batch_stays_until_the_next_is_asked_for(tmp_path: Path) -> None:
    param = data_layer(raw_lmdb(tmp_path / "db", 40), batch=4, more="prefetch: 1")
    with make_source(param, threads=2) as source:
        memory = set()
        for step in range(20):
            data, labels = source.next()
            before = data.clone(), labels.clone()
            memory.add(data.data_ptr())
            threading.Event().wait(0.002)  # the pool is busy with the batches to come
            assert torch.equal(data, before[0])
            assert torch.equal(labels, before[1])
            assert labels[0] == step * 4 % 40
        assert len(memory) == 2


def test_threads_end(tmp_path: Path) -> None:
    before = threading.active_count()
    source = make_source(data_layer(raw_lmdb(tmp_path / "db", 4)), threads=3)
    source.next()
    assert threading.active_count() > before
    source.close()
    source.close()
    assert threading.active_count() == before
    with pytest.raises(DataError, match="closed"):
        source.next()


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_names_layer_source_record_and_key(tmp_path: Path, threads: int) -> None:
    def records() -> object:
        for i in range(6):
            data = b"\xff\xd8\xff\xe0 no image" if i == 4 else encode_datum(data=pixels(i), label=i)
            yield f"key{i}", encode_datum(data=data, encoded=True) if i == 4 else data

    write_lmdb(tmp_path / "db", records())  # type: ignore[arg-type]
    param = data_layer(tmp_path / "db", batch=2)
    with make_source(param, where="net.prototxt:3:1", threads=threads) as source:
        assert labels_of(source, 2) == [0, 1, 2, 3]
        with pytest.raises(DataError) as caught:
            source.next()
        text = str(caught.value)
        for part in ("net.prototxt:3:1: layer 'd' (type Data)", str(tmp_path / "db"), "record 4",
                     "'key4'", "cannot decode"):  # fmt: skip
            assert part in text
        assert labels_of(source, 2) == [0, 1, 2, 3]  # and on it goes


def failing(
    source: LoaderSource, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> LoaderSource:
    """The source, made so that every sample fails."""

    def load(*arguments: object) -> object:
        raise error

    monkeypatch.setattr(source, "load", load)
    return source


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("odd"),
                                   cv2.error("(-215) assertion")])  # fmt: skip
def test_errors_of_a_sample_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, error: Exception
) -> None:
    source = make_source(data_layer(raw_lmdb(tmp_path / "db", 4)), threads=threads)
    assert isinstance(source, LoaderSource)
    with failing(source, monkeypatch, error), pytest.raises(DataError, match="record 0") as caught:
        source.next()
    assert str(error) in str(caught.value)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_mistake_of_our_own_is_not_blamed_on_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    source = make_source(data_layer(raw_lmdb(tmp_path / "db", 4)), threads=threads)
    assert isinstance(source, LoaderSource)
    with failing(source, monkeypatch, TypeError("ours")), pytest.raises(TypeError, match="ours"):
        source.next()


def test_a_failed_batch_is_waited_for_before_its_memory_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may still write into it."""
    source = make_source(data_layer(raw_lmdb(tmp_path / "db", 16), batch=16), threads=2)
    assert isinstance(source, LoaderSource)
    real, started, ended = source._load_chunk, threading.Event(), threading.Event()

    def load(jobs: Sequence[SampleTask], slot: Slot, start: int) -> list[Result]:
        if start == 0:
            started.wait(60)
            raise DataError("broken")
        started.set()
        time.sleep(0.2)  # the other half fails long before
        results = real(jobs, slot, start)
        ended.set()
        return results

    monkeypatch.setattr(source, "_load_chunk", load)
    with source:
        with pytest.raises(DataError, match="broken"):
            source.next()
        assert ended.is_set()


def test_parts_of_a_batch_are_waited_for_together() -> None:
    futures: list[Future[list[Result]]] = [Future() for _ in range(4)]
    parts = Parts(futures)
    one, two = Result((1,)), Result((2,))
    for place, result in ((2, [two]), (0, [one]), (3, [])):
        futures[place].set_result(result)
        assert not parts._ended.is_set()
    futures[1].set_result([two, one])
    assert parts.results() == [one, two, one, two]


def test_the_first_part_that_failed_is_the_one_that_is_told() -> None:
    futures: list[Future[list[Result]]] = [Future() for _ in range(3)]
    parts = Parts(futures)
    futures[2].set_exception(DataError("the last"))
    futures[1].set_exception(DataError("the middle"))
    futures[0].set_result([])
    with pytest.raises(DataError, match="the middle"):
        parts.results()


def test_parts_that_have_not_begun_are_given_up() -> None:
    futures: list[Future[list[Result]]] = [Future() for _ in range(3)]
    parts = Parts(futures)
    futures[1].set_running_or_notify_cancel()
    waiting = threading.Thread(target=parts.settle)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()  # for the one that runs
    futures[1].set_result([])
    waiting.join(60)
    assert [future.cancelled() for future in futures] == [True, False, True]


def test_threads_are_as_many_as_there_are_cores_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


def test_batches_come_where_the_system_knows_no_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    with make_source(data_layer(jpeg_lmdb(tmp_path / "db", 2), "crop_size: 5", 2)) as source:
        assert source.next()[0].shape == (2, 3, 5, 5)


def test_sizes_within_a_batch_must_agree(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "db", ((str(i), encode_datum(data=pixels(i, 4 + i, 5), label=i))
                                 for i in range(3)))  # fmt: skip
    with make_source(data_layer(tmp_path / "db", batch=1)) as source:
        assert [source.next()[0].shape[2] for _ in range(4)] == [4, 5, 6, 4]
    with (
        make_source(data_layer(tmp_path / "db", batch=2)) as source,
        pytest.raises(DataError, match="sample 1 of the batch is 3 x 5 x 5, the first one is"),
    ):
        source.next()


def test_bytes_and_floats_of_one_size(tmp_path: Path) -> None:
    floats = np.linspace(-1, 1, 216, dtype=np.float32)
    rows = [encode_datum(data=pixels(0)), encode_datum(shape=(3, 8, 9), float_data=floats)]
    write_lmdb(tmp_path / "db", [(str(i), row) for i, row in enumerate(rows)])
    with make_source(data_layer(tmp_path / "db", "scale: 2", batch=2)) as source:
        data = source.next()[0].numpy()
    assert np.array_equal(data[1].ravel(), floats * 2)
    assert np.array_equal(data[0], pixels(0).astype(np.float32) * 2)


def test_crops_are_spread_evenly(tmp_path: Path) -> None:
    """Draws of single samples: all places equally often, mirrors half of the time."""
    write_lmdb(tmp_path / "db", [("0", encode_datum(
        data=np.arange(36, dtype=np.uint8).reshape(1, 6, 6)))])  # fmt: skip
    param = data_layer(tmp_path / "db", "mirror: true crop_size: 4", batch=3000)
    with make_source(param, shared_seed=1) as source:
        data = source.next()[0].numpy()[:, 0]
    count = Counter(tuple(row[0, [0, 3]].astype(int)) for row in data)
    assert len(count) == 18
    assert min(count.values()) > 110
    assert max(count.values()) < 230


def test_jpegs_with_native_channels(tmp_path: Path) -> None:
    with make_source(data_layer(jpeg_lmdb(tmp_path / "db", 3), "force_gray: true crop_size: 9",
                                batch=3)) as source:  # fmt: skip
        assert source.next()[0].shape == (3, 1, 9, 9)


def test_seeding_after_the_first_batch_is_refused(tmp_path: Path) -> None:
    with make_source(data_layer(raw_lmdb(tmp_path / "db", 3), RANDOM)) as source:
        source.next()
        with pytest.raises(DataError, match="after its first batch"):
            source.draw_setup(CaffeRng(1))


def test_unknown_types() -> None:
    from tests.data.helpers import layer

    for kind, hint in (("VideoData", "ImageData"), ("Input", "inputs"), ("Foo", "known are")):
        with pytest.raises(DataError, match=hint):
            make_source(layer(f'name: "d" type: "{kind}" top: "data"'))


@pytest.mark.parametrize("profile", [BVLC, NVIDIA])
@pytest.mark.parametrize("channels_last", [False, True])
def test_pixels_for_a_gpu_become_the_same_numbers(
    tmp_path: Path, profile: object, channels_last: bool
) -> None:
    """A GPU gets uint8 pixels and normalises them there: the same path, run here."""
    param = data_layer(
        jpeg_lmdb(tmp_path / "db", 7),
        "mirror: true crop_size: 33 scale: 0.017 mean_value: 104.3 mean_value: 117 mean_value: 1",
    )
    options = {"profile": profile, "channels_last": channels_last, "shared_seed": 4}
    want = batches(param, 3, **options)
    with make_source(param, **options) as source:  # type: ignore[arg-type]
        assert isinstance(source, LoaderSource)
        source.delivery.bare = True
        for wanted in want:
            data, labels = source.next()
            assert torch.equal(data, wanted[0])
            assert torch.equal(labels, wanted[1])
            assert data.stride() == wanted[0].stride()


RECIPE = (
    "mirror: true crop_size: 24 random_aspect_ratio_param { min_area_ratio: 0.08 "
    "aspect_ratio_change: 0.75 resize_param { interp_mode: CUBIC } }"
)


@pytest.mark.parametrize(
    "transform", [RECIPE, "crop_size: 24 random_resize_param { min_size: 30 max_size: 40 }"]
)
@pytest.mark.parametrize("kind", ["jpeg", "raw"])
def test_seeded_windows_do_not_depend_on_threads(tmp_path: Path, transform: str, kind: str) -> None:
    """Rehearsed draws: the same as sample by sample, and the main generator moves on as well."""
    source = jpeg_lmdb(tmp_path / "db", 9)
    if kind == "raw":
        source = raw_lmdb(tmp_path / "raw", 9, height=30, width=35)
    param = data_layer(source, transform, 5)
    runs, rests = [], []
    for threads in (0, 3):
        main = CaffeRng(77)
        with make_source(param, seed=main, profile=INTEL, threads=threads) as opened:
            runs.append([tuple(t.clone() for t in opened.next()) for _ in range(5)])
        rests.append(main.raw())
    assert same(runs[0], runs[1])
    assert rests[0] == rests[1]


def test_predrawing_keeps_the_plain_order(tmp_path: Path) -> None:
    """First all samples' mirror and crop words, then the windows' words, sample by sample."""
    param = data_layer(jpeg_lmdb(tmp_path / "db", 4), RECIPE, 4)
    main = CaffeRng(5)
    main.raw(2)  # reader thread, first InitRand
    words = CaffeRng(main.raw())
    with make_source(param, seed=5, profile=INTEL, threads=2) as source:
        data = source.next()[0].numpy()
    t = Transformer(param.transform_param, "TRAIN", profile=INTEL)
    fixed = words.raw(12).tolist()
    before = set_ipp(False)
    for i in range(4):
        image = cv2.imdecode(cv2.imencode(".jpg", photo(i, 70 + i % 5, 90 - i % 3))[1], -1)
        draws = Draws(fixed[3 * i : 3 * i + 3], words.raw, lambda: 0)
        placed, window = t.place(Image(image, False), draws)
        out = np.empty((3, 24, 24), np.float32)
        t.write(placed, window, out)
        assert np.array_equal(out, data[i])
    set_ipp(before)


def test_several_interpolations_are_rolled_one_by_one(tmp_path: Path) -> None:
    param = data_layer(
        jpeg_lmdb(tmp_path / "db", 4), RECIPE.replace("CUBIC", "CUBIC interp_mode: AREA"), 4
    )
    runs = [batches(param, 3, seed=3, profile=INTEL, threads=n) for n in (0, 2)]
    assert same(*runs)


def test_sizes_from_headers() -> None:
    image = photo(0, 33, 47)
    for kind in ("jpg", "png", "bmp"):
        for pixels_ in (image, image[..., 0]):
            data = cv2.imencode(f".{kind}", pixels_)[1].tobytes()
            assert encoded_size(data) == encoded_size(data, COLOR) == (33, 47)
