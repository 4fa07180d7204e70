from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffeio.errors import SnapshotError, WeightsError
from caffeio.proto.io import atomic
from caffeio.proto.io.atomic import atomic_path, atomic_write, size_text
from caffeio.proto.io.blobs import FLOAT
from caffeio.proto.io.opened import open_map
from caffeio.proto.io.regular import read_regular
from caffeio.proto.io.stream import Numbers, write_parts
from tests.paths import ROOT, needs_unix


def test_content_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    with atomic_write(target) as file:
        file.write(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("how", [atomic_write, atomic_path])
def test_failure_leaves_the_old_file(tmp_path: Path, how: object) -> None:
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")
    with pytest.raises(KeyError), how(target) as file:  # type: ignore[operator]
        (file.write_bytes if isinstance(file, Path) else file.write)(b"half of it")
        raise KeyError
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_named_where_the_system_has_no_unnamed_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)  # macOS has none
    target = tmp_path / "x.bin"
    with pytest.raises(KeyError), atomic_write(target) as file:
        file.write(b"half of it")
        assert len(os.listdir(tmp_path)) == 1
        raise KeyError
    assert os.listdir(tmp_path) == []
    with atomic_write(target) as file:
        file.write(b"new")
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_atomic_path_gives_a_name(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == tmp_path
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x.bin"]


@needs_unix
def test_permissions_and_links_stay(tmp_path: Path) -> None:
    target, link = tmp_path / "x.bin", tmp_path / "link.bin"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to("x.bin")
    with atomic_write(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


@needs_unix
def test_new_files_obey_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "x.bin") as file:
            file.write(b"new")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x.bin").stat().st_mode) == 0o640


def test_no_such_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(SnapshotError, match=r"x\.bin: cannot be written: No such file"),
        atomic_write(tmp_path / "none" / "x.bin"),
    ):
        pass


def test_a_folder_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="Is a directory"), atomic_write(tmp_path):
        pass


@needs_unix
def test_devices_are_written_to_directly() -> None:
    with atomic_write("/dev/null") as file:
        file.write(b"gone")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@needs_unix
def test_full_disk_names_the_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")

    def full(descriptor: int, buffers: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "writev", full)
    text = r"x\.bin: cannot be written: No space left on device \(5\.1 GB are needed, .* are free"
    with pytest.raises(SnapshotError, match=text), atomic_write(target, needed=5_120_000_000) as f:
        write_parts(f, [b"x" * 100])
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_the_error_can_be_another(tmp_path: Path) -> None:
    with pytest.raises(WeightsError), atomic_write(tmp_path / "no" / "x", error=WeightsError):
        pass


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code that begins with our imports."""
    head = "import os, sys, resource, signal\nfrom caffeio.proto.io.atomic import atomic_write\n"
    head += "from caffeio.proto.io.stream import write_parts\nfrom caffeio.errors import *\n"
    return subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(code), *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@needs_unix
def test_file_size_limit_of_the_system(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")
    result = run(
        """
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        try:
            with atomic_write(sys.argv[1], needed=8 << 20) as file:
                write_parts(file, [b"x" * (8 << 20)])
        except SnapshotError as error:
            print(error)
        """,
        str(target),
    )
    assert "File too large" in result.stdout, result.stderr
    assert "8.4 MB are needed" in result.stdout
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="the system has no unnamed files")
def test_kill_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")
    result = run(
        """
        with atomic_write(sys.argv[1]) as file:
            write_parts(file, [b"x" * (8 << 20)], sync=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        str(target),
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_size_text() -> None:
    assert [size_text(n) for n in (7, 999, 1000, 102_400_000)] == [
        "7 bytes",
        "999 bytes",
        "1.0 kB",
        "102.4 MB",
    ]


@needs_unix
@pytest.mark.parametrize("sync", [True, False])
def test_the_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    """First the bytes, then the name, then the folder that holds the name."""
    import posix

    target = tmp_path / "w"
    steps: list[str] = []

    def fsync(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append(f"{'folder' if folder else 'file'} {target.exists()}")
        if not folder:
            assert os.fstat(descriptor).st_size == 4  # nothing waits in a buffer of ours
        posix.fsync(descriptor)  # the system's own, which takes such a descriptor

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_write(target, sync=sync) as file:
        file.write(b"data")
    assert steps == (["file False", "folder True"] if sync else [])


@needs_unix
def test_what_killed_processes_left_goes_when_the_target_is_written_again(tmp_path: Path) -> None:
    """Not what living processes write, nor what another machine or a person put there."""
    target = tmp_path / "x.caffemodel"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    place = atomic._place()
    kept = [
        f".x.caffemodel.{place}-{os.getpid()}-0123abcd.tmp",
        f".x.caffemodel.{'0' * 8 if place != '0' * 8 else '1' * 8}-{dead.pid}-0123abcd.tmp",
        f".y.caffemodel.{place}-{dead.pid}-0123abcd.tmp",
        ".x.caffemodel.mine.tmp",
    ]
    gone = f".x.caffemodel.{place}-{dead.pid}-0123abcd.tmp"
    for write in (atomic_write, atomic_path):
        for name in (*kept, gone):
            (tmp_path / name).write_bytes(b"half")
        with write(target) as file:
            if isinstance(file, Path):
                file.write_bytes(b"whole")
            else:
                file.write(b"whole")
        assert target.read_bytes() == b"whole"
        assert {p.name for p in tmp_path.iterdir()} == {target.name, *kept}


@needs_unix
def test_a_kill_between_link_and_rename_leaves_nothing_for_long(tmp_path: Path) -> None:
    target = tmp_path / "x"
    code = (
        "import os, sys; from caffeio.proto.io import atomic\n"
        "atomic._publish = lambda *rest: os.kill(os.getpid(), 9)\n"
        "with atomic.atomic_write(sys.argv[1]) as file: file.write(b'new')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code, target], env=environment, check=False)
    assert run.returncode == -9
    assert len(list(tmp_path.iterdir())) == 1 and not target.exists()
    with atomic_write(target) as file:
        file.write(b"again")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.fixture
def windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Windows does otherwise: calls that it lacks, folders and what may only be read."""
    names = "O_TMPFILE O_CLOEXEC fchmod writev posix_fadvise sched_getaffinity uname"
    for name in names.split():
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(atomic, "_WINDOWS", True)
    monkeypatch.setattr(os, "kill", None)  # 0 would be Ctrl-C there
    real_open, flags_of = os.open, {}

    def open_file(path: str, flags: int, *rest: int) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        descriptor = real_open(path, flags, *rest)
        flags_of[descriptor] = flags
        return descriptor

    def fsync(descriptor: int) -> None:
        if not flags_of[descriptor] & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.usefixtures("windows")
def test_files_are_written_and_read_without_the_calls_of_unix(tmp_path: Path) -> None:
    parts = [b"a\r\n\x1a", b"x" * (9 << 20), Numbers(np.arange(7, dtype=np.float32), FLOAT)]
    wanted = b"".join(p if isinstance(p, bytes) else p.array.tobytes() for p in parts)
    for _ in range(2):
        with atomic_write(tmp_path / "x.bin") as file:
            write_parts(file, parts, sync=True)
        assert read_regular(tmp_path / "x.bin") == bytes(open_map(tmp_path / "x.bin")) == wanted
        with atomic_path(tmp_path / "y.bin") as temporary:
            temporary.write_bytes(b"new")
    assert sorted(os.listdir(tmp_path)) == ["x.bin", "y.bin"]


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("how", [atomic_write, atomic_path])
def test_a_file_in_use_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Any
) -> None:
    (tmp_path / "x.bin").write_bytes(b"old")

    def replace(name: str, target: str) -> None:
        raise PermissionError(errno.EACCES, "Access is denied", target)

    monkeypatch.setattr(os, "replace", replace)
    said = r"x\.bin: cannot be written: another program, or this one, uses it$"
    with pytest.raises(SnapshotError, match=said), how(tmp_path / "x.bin"):
        pass
    assert os.listdir(tmp_path) == ["x.bin"]
