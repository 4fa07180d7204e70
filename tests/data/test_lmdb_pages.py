"""Damaged LMDBs: an error, never a signal; every byte may be wrong."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from caffeio.data.db.lmdb import LmdbDatabase, count_records, write_lmdb
from caffeio.data.db.lmdb_pages import check_lmdb
from caffeio.errors import DataError
from tests.paths import GOLDEN
from tests.reliability.hostile import records

PAGE = 4096


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """300 small records and 3 large ones: branches, leaves and overflow pages."""
    large = [(b"large%d" % i, bytes(10_000 * i)) for i in range(1, 4)]
    write_lmdb(tmp_path / "db", [*records(300), *large])
    return tmp_path / "db"


def test_what_real_caffe_wrote_is_good() -> None:
    found = [check_lmdb(str(p), "x").entries for p in sorted(GOLDEN.rglob("data.mdb"))]
    assert len(found) > 20 and max(found) > 100


def test_the_sums(database: Path) -> None:
    meta = check_lmdb(str(database / "data.mdb"), "x")
    assert (meta.entries, meta.depth, meta.overflow_pages) == (303, 2, 3 + 5 + 8)
    assert count_records(str(database)) == 303


def test_any_damage_is_an_error_or_harmless(database: Path, tmp_path: Path) -> None:
    """Each byte that the tree is made of may change; liblmdb then reads all that is left."""
    data, rng = (database / "data.mdb").read_bytes(), random.Random(0)
    refused = 0
    for number in range(400):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 1, 3))):
            page = rng.randrange(len(data) // PAGE)
            at = page * PAGE + rng.choice((rng.randrange(64), rng.randrange(PAGE)))
            broken[at] = rng.choice((0, 1, 2, 0xFF, rng.randrange(256)))
        folder = tmp_path / f"broken{number}"
        folder.mkdir()
        (folder / "data.mdb").write_bytes(broken)
        try:
            db = LmdbDatabase(str(folder), may_be_empty=True)
        except DataError as error:
            assert str(folder) in str(error)
            refused += 1
            continue
        assert sum(len(bytes(k)) + len(bytes(v)) for k, v in db.records()) > 0
        for key in [bytes(key) for key in db.iter_keys()]:
            db.following(key)
        db.close()
    assert refused > 50


@pytest.mark.parametrize("pages", range(12))
def test_every_truncation(database: Path, pages: int) -> None:
    file = database / "data.mdb"
    for size in (pages * PAGE, pages * PAGE + 100):
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(DataError, match=r"truncated|empty"):
            LmdbDatabase(str(database))


def test_a_database_in_a_database_is_none_of_caffes(tmp_path: Path) -> None:
    import lmdb

    with lmdb.open(str(tmp_path / "db"), max_dbs=2) as env, env.begin(write=True) as txn:
        txn.put(b"x", b"y", db=env.open_db(b"inner", txn))
    with pytest.raises(DataError, match="a database in a database"):
        LmdbDatabase(str(tmp_path / "db"))


def test_a_changed_file_is_checked_again(database: Path) -> None:
    LmdbDatabase(str(database)).close()
    file = database / "data.mdb"
    file.write_bytes(file.read_bytes()[: 4 * PAGE])
    with pytest.raises(DataError, match="truncated"):
        LmdbDatabase(str(database))


def test_a_writer_does_not_disturb(database: Path) -> None:
    import lmdb

    with lmdb.open(str(database)) as env, env.begin(write=True) as txn:
        txn.put(b"zz", b"later")
        assert count_records(str(database)) == 303
