"""Weights, solver states, means and LMDBs against each other."""

from __future__ import annotations

import numpy as np
import pytest

from caffeio.converters.diff.compare import Settings, compare
from caffeio.converters.diff.lmdb_diff import diff_lmdbs
from caffeio.converters.diff.weights_diff import diff_arrays
from caffeio.converters.diff.weights_report import report
from caffeio.converters.source import Source
from caffeio.proto import caffe_pb2 as pb
from tests.paths import GOLDEN

NAMES = ("a", "b")


def blobs(**layers):
    return {name: [np.asarray(a, np.float32) for a in arrays] for name, arrays in layers.items()}


def test_equal_arrays():
    a = blobs(conv=[np.ones((2, 3)), [1, 2]], fc=[[3]])
    diff = diff_arrays(a, a, NAMES)
    assert diff.same
    assert "All blobs are equal (3 blobs, 9 values)." in report(diff).headline[0].text


def test_figures_of_one_blob():
    a = blobs(fc=[[1, 2, -4, 0]])
    b = blobs(fc=[[1, 2.5, -4, 0]])
    (blob,) = diff_arrays(a, b, NAMES).blobs
    assert (blob.max_abs, blob.mean_abs, blob.largest, blob.unequal) == (0.5, 0.125, 4, 1)
    assert blob.relative == 0.125
    assert blob.norm_left == pytest.approx(np.sqrt(21))
    assert blob.norm_right == pytest.approx(np.sqrt(1 + 6.25 + 16))
    assert blob.norm_diff == 0.5
    assert sum(blob.histogram) == 4 and blob.histogram[0] == 3
    assert blob.histogram[9] == 1  # 0.125 of the largest: between 0.1 and 1


def test_figures_over_several_chunks(monkeypatch):
    from caffeio.converters.diff import weights_diff

    generator = np.random.default_rng(0)
    a = generator.normal(size=1000).astype(np.float32)
    b = a + generator.normal(size=1000).astype(np.float32) * np.float32(1e-3)
    whole = diff_arrays({"x": [a]}, {"x": [b]}, NAMES).blobs[0]
    monkeypatch.setattr(weights_diff, "CHUNK", 64)
    parts = diff_arrays({"x": [a]}, {"x": [b]}, NAMES).blobs[0]
    assert parts.histogram == whole.histogram
    assert parts.max_abs == whole.max_abs
    assert parts.mean_abs == pytest.approx(whole.mean_abs, rel=1e-12)


def test_tolerances():
    a, b = blobs(fc=[[1, 2, 4]]), blobs(fc=[[1, 2, 4.001]])
    assert not diff_arrays(a, b, NAMES).same
    assert diff_arrays(a, b, NAMES, tol=1e-3).same
    assert not diff_arrays(a, b, NAMES, tol=1e-4).same
    assert diff_arrays(a, b, NAMES, atol=0.01).same
    assert "within the tolerance" in report(diff_arrays(a, b, NAMES, tol=1e-3)).headline[0].text


def test_nan_is_equal_to_nan_and_to_nothing_else():
    a, b = blobs(fc=[[np.nan, 1]]), blobs(fc=[[2, 1]])
    assert diff_arrays(a, a, NAMES).same
    diff = diff_arrays(a, b, NAMES, tol=100, atol=100)
    assert not diff.same
    assert report(diff).data["blobs"][0]["relative"] is None


def test_layers_that_came_went_or_were_renamed():
    a = blobs(conv=[[1, 2]], old=[[3, 4, 5]], same=[[7]], wide=[[1, 2]], count=[[1], [2]])
    b = blobs(
        conv=[[1, 2]], new=[[6]], other=[[3, 4, 5]], same=[[7]], wide=[[1, 2, 3]], count=[[1]]
    )
    diff = diff_arrays(a, b, NAMES)
    assert diff.renamed == [("old", "other")]
    assert (diff.removed, diff.added) == ([], ["new"])
    assert diff.reshaped == ["wide[0]: 2 and 3", "count: 2 blobs and 1"]
    assert not diff.same


def test_legacy_shapes_are_the_same_blob():
    a = {"fc": [np.ones((1, 1, 3, 4), np.float32)]}
    b = {"fc": [np.ones((3, 4), np.float32)]}
    assert diff_arrays(a, b, NAMES).same
    assert not diff_arrays(a, {"fc": [np.ones((4, 3), np.float32)]}, NAMES).same


def test_blobs_are_named_by_the_type():
    a = blobs(bn=[[1], [2], [3]], s=[[1], [2]])
    b = blobs(bn=[[2], [2], [4]], s=[[1], [3]])
    diff = diff_arrays(a, b, NAMES, types={"bn": "BatchNorm", "s": "Scale"})
    assert [x.name for x in diff.blobs if x.unequal] == ["mean", "factor", "bias"]


def test_snapshots_of_caffe():
    folder = GOLDEN / "nets" / "residual_inplace"
    path = folder / "weights.caffemodel"
    if not path.exists():
        pytest.skip("no weights among the golden nets")
    source = Source("weights", path, "caffemodel")
    assert compare(source, source, Settings(follow_nets=False)).data["same"]


def lmdb_of(path, records):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path)) as env, env.begin(write=True) as txn:
        for key, label in records.items():
            datum = pb.Datum(channels=1, height=1, width=2, data=b"ab", label=label)
            txn.put(key.encode(), datum.SerializeToString())
    return path


def test_lmdbs(tmp_path):
    a = lmdb_of(tmp_path / "a", {"1": 0, "2": 0, "4": 5})
    b = lmdb_of(tmp_path / "b", {"1": 0, "3": 1, "4": 6})
    diff = diff_lmdbs(a, b, NAMES)
    assert (diff.equal, diff.changed, diff.only_left, diff.only_right) == (1, 1, 1, 1)
    assert diff.examples == {
        "only left": ["2"],
        "only right": ["3"],
        "changed": ["4: label 5 -> 6"],
    }
    assert diff.labels_changed == 1 and not diff.same
    assert diff_lmdbs(a, a, NAMES).same


def test_lmdbs_that_differ_in_keys_only(tmp_path):
    a = lmdb_of(tmp_path / "a", {"1": 0, "2": 1})
    b = lmdb_of(tmp_path / "b", {"01": 0, "02": 1})
    assert diff_lmdbs(a, b, NAMES).same_in_order
