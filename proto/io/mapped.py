"""A file as a read-only memory map, and what a file of the wrong kind probably is."""

from __future__ import annotations

import os
from pathlib import Path

from caffeio.errors import CaffeIOError
from caffeio.proto.io.opened import open_map
from caffeio.proto.io.wire import Buffer

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

_MAGIC = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (b"PK\x03\x04", "is a zip archive (.npz, or a PyTorch file): use `caffeio convert`"),
    (b"\x80\x02", "is a Python pickle (an old PyTorch file?): use `caffeio convert`"),
    (b"\x1f\x8b", "is compressed with gzip: unpack it first"),
    (b"\xfd7zXZ", "is compressed with xz: unpack it first"),
    (b"BZh", "is compressed with bzip2: unpack it first"),
    (b"7z\xbc\xaf", "is a 7-Zip archive: unpack it first"),
    (b"Rar!", "is a RAR archive: unpack it first"),
    (b"\x93NUMPY", "is a NumPy array (.npy)"),
    (b"\xde\xc0\xef\xbe", "is an LMDB database"),
)


def map_file(path: str | os.PathLike[str], error: type[CaffeIOError], what: str) -> Buffer:
    """Map the file at `path` into memory, read-only; `what` it should be is for the messages.

    Raises `error` if it cannot be opened, is a folder, or is empty. The map lives as long as
    arrays refer to it; files of ours are replaced, never rewritten, so it stays valid.
    """
    try:
        content = open_map(path)
    except FileNotFoundError:
        raise error(f"no such file; {what} was expected" + _beside(path), where=str(path)) from None
    except IsADirectoryError:
        raise error(f"is a folder; {what} was expected", where=str(path)) from None
    except OSError as problem:
        raise error(f"cannot be read: {problem.strerror}", where=str(path)) from None
    if not content:
        raise error(f"is empty (0 bytes); {what} was expected", where=str(path))
    return content


def _beside(path: str | os.PathLike[str]) -> str:
    """Name up to three files in the same folder that have the same suffix."""
    wanted = Path(path)
    try:
        names = sorted(p.name for p in wanted.parent.iterdir() if p.suffix == wanted.suffix)
    except OSError:
        return f" (and there is no folder {str(wanted.parent)!r})"
    if not names or not wanted.suffix:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f" (there is {', '.join(names[:3])}{more} in that folder)"


def is_hdf5(buf: Buffer) -> bool:
    """Whether the file is HDF5: the signature stands at byte 0, or behind a user block."""
    return any(bytes(buf[at : at + 8]) == HDF5_SIGNATURE for at in (0, 512, 1024, 2048))


def foreign(buf: Buffer) -> str | None:
    """Say what the file is if it begins like something that is certainly not a Caffe binary."""
    head = bytes(buf[:4096])
    for magic, message in _MAGIC:
        if head.startswith(magic) or (magic == b"\xde\xc0\xef\xbe" and head[16:20] == magic):
            return message
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") <= len(buf):
        return "is a safetensors file: use `caffeio convert`"
    if any(byte < 32 and byte not in b"\t\n\f\r" for byte in head):
        return None  # every net, state and blob has such bytes near its beginning
    return _kind_of_text(head.decode(errors="replace").lstrip("\ufeff \t\r\n"))


def is_web_page(head: bytes) -> bool:
    """Whether a file that begins with `head` is HTML or XML."""
    text = head[:400].decode(errors="replace").lstrip("\ufeff \t\r\n").lower()
    return text.startswith(("<!doctype", "<html", "<?xml"))


def _kind_of_text(text: str) -> str | None:
    if is_web_page(text[:400].encode()):
        return "is a web page, not the file: the download went wrong"
    if "{" in text or text.startswith(("#", "name:", "net:", "train_net:")):
        return "is text (a prototxt?), not a binary file"
    if "\ufffd" in text:
        return None
    return f"is text, not a binary file; it begins {text[:40]!r}"
