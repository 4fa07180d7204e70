"""What commands share that read one file and write another: `-`, atomic writes, diffs."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any

import click

from caffeio.errors import CaffeIOError
from caffeio.visible import visible


def read_input(path: str) -> Any:
    """The bytes of a file, mapped if it is large, or of standard input for `-`."""
    if path == "-":
        from caffeio.proto.io.regular import read_stream

        return read_stream(sys.stdin.buffer)
    from caffeio.proto.files import read_bytes

    return read_bytes(path)


def write_output(path: str, parts: list[Any], *, unless_same: Any = None) -> None:
    """Write the pieces to a file, all or nothing, or to standard output for `-`.

    A file whose bytes are `unless_same` already is left alone.
    """
    if path == "-":
        for part in parts:
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
        return
    if unless_same is not None and b"".join(parts) == bytes(unless_same):
        return
    from caffeio.proto.io.atomic import atomic_write

    with atomic_write(path, error=CaffeIOError) as file:
        for part in parts:
            file.write(part)


def require_picture(path: str | None) -> None:
    """Raise CaffeIOError, before any work, for a name whose suffix tells no kind of picture."""
    suffix = Path(path or "").suffix.lower()
    if suffix in ("", ".png"):
        return
    import cv2

    if not cv2.haveImageWriter(f"x{suffix}"):
        message = f"the suffix {suffix!r} tells no kind of picture: .png, .jpg, .webp ..."
        raise CaffeIOError(message, where=path)


def require_readable_picture(path: str) -> None:
    """Raise DataError, before any work, for a file that begins as no kind of picture does."""
    import cv2

    if not cv2.haveImageReader(path):
        from caffeio.data.transform.image import read_image

        read_image(path, color=True)  # which has the words


def write_picture(path: str, pixels: Any) -> None:
    """Write BGR pixels as an image file; the suffix says which, and png where there is none."""
    from caffeio.data.transform.image import encode

    write_output(path, [encode(pixels, Path(path).suffix.lstrip(".") or "png")])


def read_names(path: str | None) -> list[str]:
    """The names of classes, one a line, from class 0 on; none of no file."""
    if path is None:
        return []
    from caffeio.proto.io.regular import read_regular

    return read_regular(path).decode("utf-8", "replace").splitlines()


def show_diff(old: str, new: str, path: str) -> None:
    """Print a unified diff, in colours on a terminal."""
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), path, path
    )
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for line in lines:
        end = "" if line.endswith("\n") else "\n\\ No newline at end of file\n"
        bare = visible(line.rstrip("\n").replace("\t", "    "))
        click.secho(bare, fg=colours.get(line[:1]), nl=line.endswith("\n"))
        click.echo(end, nl=False)
