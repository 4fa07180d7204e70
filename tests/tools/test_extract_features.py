"""extract_features against the databases and the log of real Caffe's."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from caffeio.cli.main import main
from caffeio.data.db.database import open_db
from caffeio.data.records.datum import scan_datum
from tests.paths import GOLDEN

CASE = GOLDEN / "logs" / "extract_features"


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    """What real Caffe extracted: NAME/features (images, values), NAME/keys, NAME/chw."""
    with np.load(CASE / "features.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The case where it can be written, its data beside it."""
    out = tmp_path / "logs" / "extract_features"
    out.mkdir(parents=True)
    for name in ("net.prototxt", "init.caffemodel"):
        shutil.copy(CASE / name, out)
    shutil.copytree(GOLDEN / "solvers" / "lmdb", tmp_path / "solvers" / "lmdb")
    monkeypatch.chdir(out)
    return out


def run(*arguments: str) -> object:
    return CliRunner().invoke(main, ["extract-features", *arguments])


def records(path: str | Path, backend: str = "LMDB") -> list[tuple[bytes, bytes]]:
    db = open_db(str(path), backend)
    try:
        cursor, out = db.cursor(), []
        while True:
            key, value = cursor.item()
            out.append((bytes(key), bytes(value)))
            if not cursor.advance():
                return out
    finally:
        db.close()


@pytest.mark.parametrize("backend", ["lmdb", "leveldb"])
def test_records_are_caffes(folder: Path, backend: str, expected: dict[str, np.ndarray]) -> None:
    if backend == "leveldb":
        pytest.importorskip("plyvel", reason="LevelDB needs the extra leveldb")
    result = run("init.caffemodel", "net.prototxt", "conv1,ip", "a,b", "3", backend)
    assert result.exit_code == 0, result.output  # type: ignore[attr-defined]
    for ours, name in (("a", "feat_conv1"), ("b", "feat_ip")):
        mine, theirs = records(ours, backend.upper()), records(CASE / name)
        assert [key for key, _ in mine] == [key for key, _ in theirs]
        for i, ((_, record), (_, real)) in enumerate(zip(mine, theirs, strict=True)):
            datum, other = scan_datum(record), scan_datum(real)
            sizes = (datum.channels, datum.height, datum.width)
            assert sizes == (other.channels, other.height, other.width)
            values, reference = np.asarray(datum.pixels()).reshape(-1), expected[f"{name}/features"]
            np.testing.assert_allclose(values, reference[i], rtol=1e-5, atol=1e-6)
            assert len(record) == len(real)


def test_the_log_is_caffes(folder: Path) -> None:
    result = run("init.caffemodel", "net.prototxt", "conv1,ip", "a,b", "3", "lmdb", "CPU")
    text = (CASE / "log.txt").read_text()
    said = [line.split("] ", 1) for line in text.splitlines() if "extract_features.cpp" in line]
    ours = [line.split("] ", 1) for line in result.stderr.splitlines()]  # type: ignore[attr-defined]
    ours = [line for line in ours if "extract_features.cpp" in line[0]]
    places = [[(line[0][0], line[0].split()[-1]) for line in lines] for lines in (ours, said)]
    assert places[0] == places[1]
    renamed = [b[1].replace("feat_conv1", "a").replace("feat_ip", "b") for b in said]
    assert [a[1] for a in ours] == renamed


@pytest.mark.parametrize("name", ["f.npz", "f.h5"])
def test_one_file_for_all_blobs(folder: Path, name: str, expected: dict[str, np.ndarray]) -> None:
    if name.endswith("h5"):
        pytest.importorskip("h5py", reason="HDF5 needs the extra hdf5")
    assert run("init.caffemodel", "net.prototxt", "conv1,ip", name, "3").exit_code == 0  # type: ignore[attr-defined]
    if name.endswith("npz"):
        with np.load(name) as arrays:
            found = dict(arrays)
    else:
        import h5py

        with h5py.File(name) as file:
            found = {key: file[key][()] for key in file}
    assert {key: value.shape for key, value in found.items()} == {
        "conv1": (18, 4, 5, 5), "ip": (18, 4),
    }  # fmt: skip
    for key, value in found.items():
        reference = expected[f"feat_{key}/features"].reshape(value.shape)
        np.testing.assert_allclose(value, reference, rtol=1e-5, atol=1e-6)


def test_what_is_refused(folder: Path) -> None:
    for arguments, message in (
        (("nothing", "a", "3"), "net.prototxt: Unknown feature blob name nothing in the network"),
        (("conv1,ip", "a", "3"), "feature blobs (2) and of outputs (1) must be equal"),
        (("conv1,ip", "a,a", "3"), "holds the features of one blob"),
        (("conv1", ".", "3"), "is there already"),
        (("loss", "a", "0"), "0 is not in the range"),
    ):
        result = run("init.caffemodel", "net.prototxt", *arguments)
        assert result.exit_code == 2 and message in result.output  # type: ignore[attr-defined]
        assert sorted(path.name for path in folder.iterdir()) == ["init.caffemodel", "net.prototxt"]
