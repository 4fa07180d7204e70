"""Texts that somebody names: whatever stands there, one error, and nothing is waited for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from caffeio.converters.plot import read_losses
from caffeio.errors import CaffeIOError
from caffeio.net.torch_names.mapfile import read_map
from caffeio.proto.io.regular import read_utf8
from tests.paths import needs_unix


def test_a_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("ä\n", encoding="utf-8")
    assert read_utf8(tmp_path / "x") == "ä\n"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("read", [read_utf8, read_map, read_losses])
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("missing", "cannot be read: No such file or directory"),
        ("folder", "cannot be read: Is a directory"),
        pytest.param(
            "pipe", "cannot be read: is a named pipe; only regular files are read", marks=needs_unix
        ),
        ("latin", "cannot be read: byte 1 is not UTF-8"),
    ],
)
def test_what_is_no_text_is_one_error(
    read: Callable[[Path], object], kind: str, why: str, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "latin":
        path.write_bytes(b"a\xe4\n")
    with pytest.raises(CaffeIOError) as caught:
        read(path)
    assert str(caught.value) == f"{path}: {why}"
