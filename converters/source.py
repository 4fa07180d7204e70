"""Where a file comes from: the file system, standard input, or a revision in git."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from caffeio.converters.kinds import is_member, kind_of
from caffeio.errors import CaffeIOError
from caffeio.proto.io.regular import read_stream


@dataclass(frozen=True)
class Source:
    """A file or folder to look at.

    `label` is what the user wrote, `path` where the bytes lie now (a copy, if they came from git or
    standard input), `revision` and `inside` the git revision and the path in its tree.
    """

    label: str
    path: Path
    kind: str
    revision: str | None = None
    inside: str | None = None
    scratch: Path | None = field(default=None, repr=False)

    def resolve(self, name: str) -> Source | None:
        """The file that this one names, or None: from the working directory, then near this file.

        Near: below its folder or a folder above it, or beside it under its own name. A file of a
        git revision names files of the same revision.
        """
        if self.revision is not None and self.inside is not None and self.scratch is not None:
            return self._resolve_in_git(name)
        places = [Path(name)]
        if self.path.name != "<stdin>":
            folder = self.path.parent
            places += [folder / name, *(above / name for above in folder.resolve().parents)]
            places.append(folder / Path(name).name)
        for place in places:
            if place.is_file():
                return Source(str(place), place, kind_of(place))
        return None

    def _resolve_in_git(self, name: str) -> Source | None:
        assert self.revision is not None and self.inside is not None and self.scratch is not None
        folder = PurePosixPath(self.inside).parent
        places = [PurePosixPath(name)]
        places += [above / name for above in (folder, *folder.parents)]
        places.append(folder / PurePosixPath(name).name)
        for place in dict.fromkeys(places):
            if place.is_absolute():
                continue
            data = _git_bytes(f"{self.revision}:{place}")
            if data is not None:
                return _of_git(self.revision, str(place), data, self.scratch)
        return None


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder for copies of files that do not lie in the file system."""
    with tempfile.TemporaryDirectory(prefix="caffeio-") as folder:
        yield Path(folder)


def open_source(name: str, scratch: Path) -> Source:
    """The file that the user called `name`: a path, `-`, or `REVISION:path` in git's words.

    Raises CaffeIOError if there is none.
    """
    if name == "-":
        place = scratch / "<stdin>"
        if not place.exists():
            place.write_bytes(read_stream(sys.stdin.buffer))
        return Source("<stdin>", place, kind_of(place))
    if Path(name).exists() or ":" not in name:
        return Source(name, Path(name), kind_of(name))
    revision, _, inside = name.partition(":")
    return _open_in_git(name, revision, inside, scratch)


def open_revisions(left: str, right: str, scratch: Path) -> tuple[Source, Source] | None:
    """Two git revisions as folders of the Caffe files that differ between them.

    None if neither name is a revision. Raises CaffeIOError if only one of them is.
    """
    names = (left, right)
    known = [_is_revision(name) for name in names]
    if not any(known):
        return None
    if not all(known):
        other, revision = (left, right) if known[1] else (right, left)
        if Path(other).exists() or ":" in other or other == "-":
            inside = other.partition(":")[2] or (other if other != "-" else "FILE")
            raise CaffeIOError(
                f"is a revision of git, and {other} is none: did you mean {revision}:{inside}?",
                where=revision,
            )
        raise CaffeIOError(
            f"is neither a file nor a revision of git, as {revision} is", where=other
        )
    listed = _git("diff", "--no-renames", "--name-only", "-z", left, right).stdout
    changed = [os.fsdecode(name) for name in listed.split(b"\0") if name]
    sources = []
    for number, revision in enumerate(names):
        folder = scratch / f"revision{number}"
        for inside in filter(is_member, changed):
            data = _git_bytes(f"{revision}:{inside}")
            if data is not None:
                place = folder / inside
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
        folder.mkdir(exist_ok=True)
        sources.append(Source(revision, folder, "directory", revision, "", scratch))
    return sources[0], sources[1]


def _is_revision(name: str) -> bool:
    """Whether a name that is no file is a commit."""
    if Path(name).exists() or ":" in name or name == "-":
        return False
    try:
        return not _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").returncode
    except CaffeIOError:
        return False


def extract(tar: tarfile.TarFile, folder: Path) -> None:
    """Extract what stays inside `folder`."""
    if hasattr(tarfile, "data_filter"):
        tar.extractall(folder, filter="data")
        return
    for (
        member
    ) in tar:  # Python before 3.11.4 has no filters: regular files only, so no link leads out
        name = PurePosixPath(member.name)
        if member.isfile() and not name.is_absolute() and ".." not in name.parts:
            tar.extract(member, folder)


def _open_in_git(name: str, revision: str, inside: str, scratch: Path) -> Source:
    kind = _git("cat-file", "-t", f"{revision}:{inside}")
    if kind.returncode:
        reason = kind.stderr.decode("utf-8", "replace").strip().removeprefix("fatal: ")
        raise CaffeIOError(f"no such file, and git says: {reason or 'not found'}", where=name)
    if inside.startswith("./") or inside == ".":
        prefix = _git("rev-parse", "--show-prefix").stdout.decode().strip()
        inside = str(PurePosixPath(prefix, inside))
    if kind.stdout.strip() == b"tree":
        folder = _target(scratch, revision, inside)
        archive = _git("archive", "--format=tar", f"{revision}:{inside}")
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            extract(tar, folder)
        return Source(name, folder, kind_of(folder), revision, inside, scratch)
    data = _git_bytes(f"{revision}:{inside}")
    assert data is not None
    source = _of_git(revision, inside, data, scratch)
    return Source(name, source.path, source.kind, revision, inside, scratch)


def _of_git(revision: str, inside: str, data: bytes, scratch: Path) -> Source:
    place = _target(scratch, revision, inside)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return Source(f"{revision}:{inside}", place, kind_of(place), revision, inside, scratch)


def _target(scratch: Path, revision: str, inside: str) -> Path:
    return scratch / revision.replace("/", "_") / inside


def _git_bytes(name: str) -> bytes | None:
    result = _git("cat-file", "blob", name)
    return None if result.returncode else result.stdout


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise CaffeIOError("reading a git revision needs git, which is not installed") from None
