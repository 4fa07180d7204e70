"""HDF5Data: files in a row, rows in a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffeio.errors import DataError
from caffeio.proto import caffe_pb2 as pb
from tests.data.helpers import layer, make_source

h5py = pytest.importorskip("h5py")


def files(folder: Path, *counts: int, width: int = 2) -> Path:
    start = 0
    for i, count in enumerate(counts):
        rows = np.arange(start, start + count, dtype=np.float64)
        with h5py.File(folder / f"{i}.h5", "w") as file:
            file["data"] = np.repeat(rows[:, None], width, 1)
            file["label"] = rows.astype(np.int64)
        start += count
    names = [str(folder / f"{i}.h5") for i in range(len(counts))]
    (folder / "list.txt").write_text(" ".join(names) + "\n")
    return folder


def hdf5(folder: Path, more: str = "batch_size: 4", **fields: str) -> pb.LayerParameter:
    return layer(
        'name: "d" type: "HDF5Data" top: "data" top: "label" '
        f'hdf5_data_param {{ source: "{folder}/list.txt" {more} }}'
    )


def test_rows_go_on_into_the_next_file(tmp_path: Path) -> None:
    with make_source(hdf5(files(tmp_path, 3, 2))) as source:
        assert source.top_shapes == [(4, 2), (4,)]
        seen = [source.next()[1].tolist() for _ in range(3)]
    assert seen == [[0, 1, 2, 3], [4, 0, 1, 2], [3, 4, 0, 1]]


def test_shuffled_rows_are_permutations(tmp_path: Path) -> None:
    with make_source(hdf5(files(tmp_path, 6), "batch_size: 6 shuffle: true")) as source:
        seen = [tuple(source.next()[1].tolist()) for _ in range(5)]
    assert all(sorted(rows) == list(range(6)) for rows in seen)
    assert len(set(seen)) > 1


def test_shards(tmp_path: Path) -> None:
    files(tmp_path, 3, 2)
    rows = []
    for rank in range(2):
        with make_source(hdf5(tmp_path, "batch_size: 2"), rank=rank, world=2) as source:
            rows.append([int(v) for _ in range(3) for v in source.next()[1]])
    assert [v for pair in zip(*rows, strict=True) for v in pair] == [i % 5 for i in range(12)]
    with make_source(hdf5(tmp_path, "batch_size: 2"), phase="TEST", rank=1, world=2) as source:
        assert source.next()[1].tolist() == [0, 1]


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (1, 1), (-1, 2), (0, 0)])
def test_a_rank_that_nobody_has_reads_nothing(tmp_path: Path, rank: int, world: int) -> None:
    """It would look for its rows for ever, or read another rank's."""
    with pytest.raises(DataError, match=f"rank {rank} is none of {world} readers"):
        make_source(hdf5(files(tmp_path, 3), "batch_size: 2"), rank=rank, world=world)


def test_refusals(tmp_path: Path) -> None:
    files(tmp_path, 3)
    param = hdf5(tmp_path)
    param.transform_param.scale = 2
    with pytest.raises(DataError, match="does not transform data"):
        make_source(param)
    param = hdf5(tmp_path)
    param.top[1] = "target"
    with pytest.raises(DataError, match="has no dataset 'target'; it has data, label"):
        make_source(param)
    with h5py.File(tmp_path / "0.h5", "a") as file:
        file["short"] = np.zeros(2)
        file["text"] = np.array([b"a", b"b", b"c"])
    param.top[1] = "short"
    with pytest.raises(DataError, match="not 3, 2"):
        make_source(param)
    param.top[1] = "text"
    with pytest.raises(DataError, match="must hold numbers"):
        make_source(param)
    (tmp_path / "0.h5").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot read HDF5 file"):
        make_source(hdf5(tmp_path))
    (tmp_path / "0.h5").unlink()
    with pytest.raises(DataError, match=r"0\.h5' does not exist"):
        make_source(hdf5(tmp_path))


def test_rows_of_another_shape(tmp_path: Path) -> None:
    files(tmp_path, 3)
    with h5py.File(tmp_path / "1.h5", "w") as file:
        file["data"], file["label"] = np.zeros((2, 3)), np.zeros(2)
    (tmp_path / "list.txt").write_text(f"{tmp_path}/0.h5\n{tmp_path}/1.h5")
    with make_source(hdf5(tmp_path)) as source, pytest.raises(DataError, match="has rows of shape"):
        source.next()


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    files(tmp_path, 3)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"caffeio\[hdf5\]"):
        make_source(hdf5(tmp_path))
