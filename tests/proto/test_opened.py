"""Maps are held for one piece of work, and only as long as the file is the same."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from caffeio.errors import CaffeIOError
from caffeio.proto.io.mapped import map_file
from caffeio.proto.io.opened import found_once, opened_once, read_head


def binary(head: bytes) -> bool:
    return b"\0" in head


def test_within_the_block_a_file_is_mapped_once(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"\0one")
    assert map_file(path, CaffeIOError, "x") is not map_file(path, CaffeIOError, "x")
    with opened_once():
        assert read_head(path, 2, binary) == (b"\0o", 4)
        first = map_file(path, CaffeIOError, "x")
        with opened_once():
            assert map_file(str(path), CaffeIOError, "x") is first
        assert map_file(path, CaffeIOError, "x") is first
        assert read_head(path, 3, binary) == (b"\0on", 4)
    assert map_file(path, CaffeIOError, "x") is not first


def test_a_file_that_took_its_place_is_another(tmp_path: Path) -> None:
    path, new = tmp_path / "w", tmp_path / "new"
    path.write_bytes(b"\0one")
    new.write_bytes(b"\0two")
    with opened_once():
        first = map_file(path, CaffeIOError, "x")
        os.replace(new, path)
        assert bytes(map_file(path, CaffeIOError, "x")) == b"\0two"
        assert bytes(first) == b"\0one"
        path.unlink()
        with pytest.raises(CaffeIOError, match="no such file"):
            map_file(path, CaffeIOError, "x")


def test_texts_and_empty_files_are_not_held(tmp_path: Path) -> None:
    path = tmp_path / "n"
    path.write_bytes(b"text")
    with opened_once():
        assert read_head(path, 2, binary) == (b"te", 4)
        path.write_bytes(b"more text")
        assert read_head(path, 9, binary) == (b"more text", 9)
        path.write_bytes(b"")
        assert read_head(path, 9, binary) == (b"", 0)
        with pytest.raises(CaffeIOError, match="empty"):
            map_file(path, CaffeIOError, "x")


def test_what_is_found_out_is_kept_for_the_same_bytes_only(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"\0one")
    calls: list[int] = []

    def find() -> int:
        calls.append(1)
        return len(calls)

    loose = map_file(path, CaffeIOError, "x")
    assert [found_once(loose, "key", find) for _ in range(2)] == [1, 2]
    with opened_once():
        data = map_file(path, CaffeIOError, "x")
        assert [found_once(data, "key", find) for _ in range(2)] == [3, 3]
        assert found_once(data, "other", find) == 4
        assert found_once(loose, "key", find) == 5
        threads: list[bool] = []
        other = threading.Thread(
            target=lambda: threads.append(map_file(path, CaffeIOError, "x") is data)
        )
        other.start()
        other.join()
        assert threads == [False]
