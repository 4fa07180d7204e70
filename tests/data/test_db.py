"""LMDB and LevelDB: reading round and round, writing, and what can be wrong."""

from __future__ import annotations

import gc
import os
import shutil
import threading
from pathlib import Path

import pytest

from caffeio.data.db import lmdb as lmdb_module
from caffeio.data.db.database import KeyTable, open_db
from caffeio.data.db.lmdb import LmdbDatabase, write_lmdb
from caffeio.errors import DataError
from tests.data.helpers import raw_lmdb
from tests.paths import GOLDEN

LEVELDB = GOLDEN / "data" / "convert" / "leveldb"


def test_records_come_in_key_order_and_go_round(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "db", [(f"{i}", bytes([i])) for i in (3, 1, 2)])
    db = open_db(str(tmp_path / "db"), "LMDB")
    cursor = db.cursor()
    seen = []
    for _ in range(7):
        key, value = cursor.item()
        seen.append((bytes(key), bytes(value)))
        cursor.advance()
    assert [v[0] for _, v in seen] == [1, 2, 3, 1, 2, 3, 1]
    assert db.size == 3
    assert [KeyTable(db)[i] for i in range(3)] == [b"1", b"2", b"3"]
    db.close()
    db.close()


def test_the_map_grows_and_equal_keys_overwrite(tmp_path: Path) -> None:
    records = [(f"{i:04d}", bytes(200_000)) for i in range(150)] + [("0003", b"last")]
    assert write_lmdb(tmp_path / "db", records, commit_every=40) == 151
    with_size = open_db(str(tmp_path / "db"), "LMDB")
    assert with_size.size == 150
    assert bytes(with_size.get(b"0003")) == b"last"
    with_size.close()
    assert os.listdir(tmp_path / "db") == ["data.mdb"]
    assert os.listdir(tmp_path) == ["db"]


def test_an_existing_database_is_not_overwritten(tmp_path: Path) -> None:
    raw_lmdb(tmp_path / "db", 1)
    with pytest.raises(DataError, match="there already"):
        write_lmdb(tmp_path / "db", [])
    with pytest.raises(DataError, match="no folder"):
        write_lmdb(tmp_path / "none" / "db", [])


def test_a_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    def records() -> object:
        yield "a", b"1"
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        write_lmdb(tmp_path / "db", records())  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []


def test_two_readers_of_one_database(tmp_path: Path) -> None:
    path = str(raw_lmdb(tmp_path / "db", 3))
    one, two = LmdbDatabase(path), LmdbDatabase(path + "/")
    one.close()
    assert bytes(two.cursor().item()[0]) == b"00000000"
    two.close()
    LmdbDatabase(path).close()


def test_a_reader_that_is_forgotten_lets_go(tmp_path: Path) -> None:
    path = str(raw_lmdb(tmp_path / "db", 3))
    LmdbDatabase(path)
    shutil.rmtree(path)
    raw_lmdb(tmp_path / "db", 5)
    again = LmdbDatabase(path)
    assert again.size == 5
    again.close()


def test_a_read_only_folder(tmp_path: Path) -> None:
    path = raw_lmdb(tmp_path / "db", 2)
    os.chmod(path / "data.mdb", 0o400)
    os.chmod(path, 0o500)
    try:
        open_db(str(path), "LMDB").close()
        assert os.listdir(path) == ["data.mdb"]
    finally:
        os.chmod(path, 0o700)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_db(str(tmp_path / "none"), "LMDB")
    with pytest.raises(DataError, match=r"no data\.mdb"):
        open_db(str(tmp_path), "LMDB")


def test_empty(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "db", [])
    with pytest.raises(DataError, match="empty"):
        open_db(str(tmp_path / "db"), "LMDB")
    raw_lmdb(tmp_path / "other", 1)  # nothing is left open that would disturb


def test_truncated(tmp_path: Path) -> None:
    path = raw_lmdb(tmp_path / "db", 300)
    file = path / "data.mdb"
    for size in (file.stat().st_size // 2, 100):
        os.truncate(file, size)
        with pytest.raises(DataError, match=r"truncated|cannot open"):
            open_db(str(path), "LMDB")


def test_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"this is no LMDB" * 1000)
    with pytest.raises(DataError, match="cannot open"):
        open_db(str(tmp_path), "LMDB")


def test_leveldb_is_read_and_left_alone() -> None:
    pytest.importorskip("plyvel")
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in LEVELDB.iterdir()}
    db = open_db(str(LEVELDB), "LEVELDB")
    cursor = db.cursor()
    keys = []
    for _ in range(6):
        keys.append(bytes(cursor.item()[0]))
        cursor.advance()
    assert keys[0] == keys[5] == b"00000000_same0.jpg"
    assert len(set(keys)) == 5
    assert db.get(keys[1])
    db.close()
    after = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in LEVELDB.iterdir()}
    assert before == after


def test_the_wrong_backend_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="backend: LEVELDB"):
        open_db(str(LEVELDB), "LMDB")
    pytest.importorskip("plyvel")
    with pytest.raises(DataError, match="backend: LMDB"):
        open_db(str(raw_lmdb(tmp_path / "db", 1)), "LEVELDB")


def test_leveldb_without_plyvel(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "plyvel", None)
    with pytest.raises(DataError, match=r"caffeio\[leveldb\]"):
        open_db(str(LEVELDB), "LEVELDB")


def test_the_garbage_collector_may_close_one_while_another_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database in a circle is closed by the collector, in whatever place it runs."""
    for name in ("a", "b"):
        write_lmdb(tmp_path / name, [("0", b"x")])
    opened = lmdb_module._open_lmdb

    def collects(*arguments: object) -> object:
        gc.collect()
        return opened(*arguments)  # type: ignore[arg-type]

    db = LmdbDatabase(str(tmp_path / "a"))
    circle: list[object] = [db]
    circle.append(circle)
    del circle, db
    monkeypatch.setattr(lmdb_module, "_open_lmdb", collects)
    done = threading.Thread(target=lambda: LmdbDatabase(str(tmp_path / "b")).close(), daemon=True)
    done.start()
    done.join(20)
    assert not done.is_alive()
    assert not lmdb_module._environments
