"""What people reported of real Caffe's data and trainings, and what must stay as it is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from caffeio.data.db.lmdb import write_lmdb
from caffeio.data.records.datum import encode_datum
from caffeio.data.records.image_list import parse_list
from caffeio.errors import CaffeIOError
from caffeio.proto.weights.solverstate import newest_whole_pair
from caffeio.training import Trainer
from caffeio.training.events import Action, Events, Scores

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (9, 3, 12, 16), np.uint8)
LABELS = np.array([0, 1, 2, 3, 1, 0, 2, 3, 1])
SOLVER = """net: "net.prototxt" base_lr: 0.0001 lr_policy: "fixed" momentum: 0.9
weight_decay: 0.0005 max_iter: 3 random_seed: 1 display: 0
snapshot_prefix: "snap" snapshot_after_train: false
"""
IP = """layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: COUNT weight_filler { type: "gaussian" std: 0.001 } } }
"""
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    records = zip(IMAGES, LABELS, strict=True)
    write_lmdb(
        "rgb", ((f"{i:08d}", encode_datum(data=x, label=y)) for i, (x, y) in enumerate(records))
    )


def data(more: str = "", source: str = "rgb", batch: int = 4) -> str:
    return (
        f'layer {{ name: "data" type: "Data" top: "data" top: "label" {more}\n'
        f'  data_param {{ source: "{source}" backend: LMDB batch_size: {batch} }} }}\n'
    )


def train(net: str, solver: str = "", **events: Any) -> tuple[list[float], Trainer]:
    """The losses of three iterations, and the trainer, closed."""
    Path("net.prototxt").write_text(net)
    Path("solver.prototxt").write_text(SOLVER + solver)
    losses: list[float] = []
    told = Events(iteration=lambda entry: losses.append(float(entry["loss"])), **events)
    with Trainer("solver.prototxt", events=told) as trainer:
        trainer.solve()
    return losses, trainer


def test_names_with_blanks() -> None:
    """BVLC#1935, #1951, PR#5187: all up to the last blank is the name, CRLF or not."""
    lines = b"a b.png 1\ntwo  blanks.png 2\r\nends  3\n00.png 0 1\n"
    assert parse_list(lines) == [
        ("a b.png", 1), ("two  blanks.png", 2), ("ends ", 3), ("00.png 0", 1)
    ]  # fmt: skip


def test_a_test_reads_on_where_the_last_one_ended() -> None:
    """BVLC#2637, #2524: HDF5Data takes the next file when one is used up, across tests."""
    for name, first, count in (("a", 0, 9), ("b", 100, 3)):
        with h5py.File(f"{name}.h5", "w") as file:
            ids = np.arange(first, first + count, dtype=np.float32)
            file["data"] = np.broadcast_to(ids[:, None, None, None], (count, 1, 2, 2))
            file["label"] = np.zeros(count, np.float32)
    Path("files.txt").write_text("a.h5\nb.h5\n")
    source = 'hdf5_data_param { source: "files.txt" batch_size: 4 }'
    Path("test.prototxt").write_text(
        f'layer {{ name: "data" type: "HDF5Data" top: "data" top: "label" {source} }}\n'
        'layer { name: "id" type: "Pooling" bottom: "data" top: "id" pooling_param { pool: AVE'
        ' global_pooling: true } }\nlayer { name: "q" type: "Silence" bottom: "label" }\n'
    )
    seen: list[list[float]] = []

    def test(scores: Scores) -> None:
        seen.append(scores.outputs["id"].reshape(-1).tolist())

    net = data() + IP.replace("COUNT", "4") + LOSS
    solver = 'test_net: "test.prototxt" test_iter: 1 test_interval: 1'
    train(net, solver, test=test)
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 100, 101, 102], [0, 1, 2, 3]]


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float64])
def test_labels_of_hdf5_may_be_of_any_type(kind: type) -> None:
    """BVLC#5524."""
    losses = {}
    for name, dtype in (("float", np.float32), ("other", kind)):
        with h5py.File(f"{name}.h5", "w") as file:
            file["data"] = IMAGES.astype(np.float32)
            file["label"] = LABELS.astype(dtype)
        Path(f"{name}.txt").write_text(f"{name}.h5\n")
        source = f'hdf5_data_param {{ source: "{name}.txt" batch_size: 4 }}'
        layer = f'layer {{ name: "data" type: "HDF5Data" top: "data" top: "label" {source} }}\n'
        losses[name] = train(layer + IP.replace("COUNT", "4") + LOSS)[0]
    assert losses["float"] == losses["other"]


def test_signals_write_hdf5() -> None:
    """BVLC#3678, #2012: one snapshots and goes on, one stops with the snapshot after training."""
    asked: Iterator[Action] = iter([Action.SNAPSHOT, Action.STOP])
    solver = "max_iter: 1000 snapshot_format: HDF5 snapshot_after_train: true"
    text = SOLVER.replace("max_iter: 3", "").replace("snapshot_after_train: false", "")
    Path("net.prototxt").write_text(data() + IP.replace("COUNT", "4") + LOSS)
    Path("solver.prototxt").write_text(text + solver)
    with Trainer("solver.prototxt", events=Events(poll=lambda: next(asked))) as trainer:
        assert not trainer.solve()
    names = sorted(path.name for path in Path().glob("snap_iter_*"))
    wanted = [f"snap_iter_{i}.{kind}.h5" for i in (1, 2) for kind in ("caffemodel", "solverstate")]
    assert names == wanted
    found = newest_whole_pair("snap")
    assert found is not None and found[2] == 2


ACCURACY = """layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc" MORE
  include { phase: TEST } accuracy_param { FIELDS } }
"""


@pytest.mark.parametrize(
    ("classes", "fields", "says"),
    [
        (4, "top_k: 9", r"accuracy_param.top_k: top_k 9 is more than there are classes \(4\)"),
        (2, "", r"label 2 at item 2 is outside 0\.\.1"),
        (4, "ignore_label: 7", None),
        (4, "ignore_label: 1", None),
    ],
)
def test_accuracy(classes: int, fields: str, says: str | None) -> None:
    """BVLC#5949, #4054, PR#2076."""
    more = 'top: "perclass"' if fields == "ignore_label: 1" else ""
    accuracy = ACCURACY.replace("FIELDS", fields).replace("MORE", more)
    net = data() + IP.replace("COUNT", str(classes)) + LOSS + accuracy
    if says is None:
        assert len(train(net, "test_iter: 1 test_interval: 1")[0]) == 3
        return
    with pytest.raises(CaffeIOError, match=says):
        train(net, "test_iter: 1 test_interval: 1")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            "crop_size: 13",
            "crop_size: 13 is larger than the image, whose height is 12 and width 16",
        ),
        (
            'mean_file: "m" mean_value: 3',
            "cannot specify mean_file and mean_value at the same time",
        ),
        ("mean_value: 1 mean_value: 2", "either 1 mean_value or as many as channels: 3, not 2"),
        ("force_color: true force_gray: true", "cannot set both force_color and force_gray"),
    ],
)
def test_transforms_that_do_not_fit(fields: str, says: str) -> None:
    """BVLC#4487, #6064, #1614."""
    net = data(f"transform_param {{ {fields} }}") + IP.replace("COUNT", "4") + LOSS
    with pytest.raises(CaffeIOError, match=says):
        train(net)


def test_several_labels_in_an_lmdb() -> None:
    """BVLC#2407, #2878: floats, or bytes with a scale; SoftmaxWithLoss wants one label."""
    several = RNG.integers(0, 2, (9, 3, 1, 1))
    write_lmdb("floats", ((f"{i:08d}", encode_datum(float_data=y.reshape(-1).astype(np.float32),
                                                    shape=y.shape))
                          for i, y in enumerate(several)))  # fmt: skip
    write_lmdb("bytes", ((f"{i:08d}", encode_datum(data=(255 * y).astype(np.uint8)))
                         for i, y in enumerate(several)))  # fmt: skip

    def net(source: str, loss: str, scale: float) -> str:
        images = data().replace('top: "label"', "")
        labels = data(f"transform_param {{ scale: {scale!r} }}", source)
        labels = labels.replace('name: "data" type: "Data" top: "data"', 'name: "lab" type: "Data"')
        return images + labels + IP.replace("COUNT", "3") + LOSS.replace("SoftmaxWithLoss", loss)

    kind = "SigmoidCrossEntropyLoss"
    floats = train(net("floats", kind, 1.0))[0]
    assert train(net("bytes", kind, 1 / 255))[0] == pytest.approx(floats, rel=1e-6)
    with pytest.raises(CaffeIOError, match="labels"):
        train(net("floats", "SoftmaxWithLoss", 1.0))


def test_iter_size_is_a_larger_batch() -> None:
    """BVLC#4716, PR#1977: eight images at once, or twice four."""
    nets = [data(batch=n) + IP.replace("COUNT", "4") + LOSS for n in (8, 4)]
    whole, parts = (train(net, f"iter_size: {n}") for net, n in zip(nets, (1, 2), strict=True))
    assert parts[0] == pytest.approx(whole[0], rel=1e-5)
    pairs = zip(whole[1].net.params["ip"], parts[1].net.params["ip"], strict=True)
    for one, two in ((a.detach().numpy(), b.detach().numpy()) for a, b in pairs):
        np.testing.assert_allclose(two, one, rtol=0, atol=2e-7 * float(np.abs(one).max()))
