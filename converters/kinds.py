"""What kind of Caffe file is this? Told by the content, with the name as a hint."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from caffeio.errors import CaffeIOError, ParseError
from caffeio.proto.io.mapped import is_web_page
from caffeio.proto.io.opened import read_head
from caffeio.proto.io.wire import BYTES, FIXED32, VARINT, read_field, read_tag, read_varint

KINDS = {
    "solver": "solver prototxt",
    "phases": "solver of several phases (params_pair)",
    "net": "net prototxt",
    "labelmap": "label map",
    "text": "text that is no net, solver or label map",
    "caffemodel": "weights (.caffemodel)",
    "caffemodel.h5": "weights (HDF5)",
    "solverstate": "solver state (.solverstate)",
    "solverstate.h5": "solver state (HDF5)",
    "mean": "mean image (.binaryproto)",
    "onnx": "ONNX model",
    "safetensors": "safetensors",
    "pt": "PyTorch file",
    "npz": "NumPy archive",
    "lmdb": "LMDB",
    "leveldb": "LevelDB",
    "directory": "directory",
}

# Fields at the top level that only one kind of prototxt has.
_SOLVER = re.compile(
    r"\b(base_lr|lr_policy|max_iter|solver_mode|snapshot_prefix|train_net|test_net|net|"
    r"solver_type|stepsize|stepvalue|test_iter|test_interval|momentum|weight_decay)\s*:"
)
_NET = re.compile(r"\b(layers?|input_dim|input_shape)\s*(?::\s*)?\{|\binput(_dim)?\s*:")
_PHASES = re.compile(r"\bparams_pair\s*(?::\s*)?\{")  # Intel's MultiPhaseSolverParameter
_LABELMAP = re.compile(r"\bitem\s*(?::\s*)?\{")
# A string that is not closed ends with its line: to look for its end again and again is quadratic.
_COMMENT = re.compile(r"#[^\n]*|\"(?:[^\"\\\n]|\\.)*\"?|'(?:[^'\\\n]|\\.)*'?")


_SUFFIXES = (
    ".prototxt", ".prototxt.txt", ".pbtxt", ".caffemodel", ".solverstate", ".caffemodel.h5",
    ".solverstate.h5", ".binaryproto",
)  # fmt: skip


def is_member(name: str) -> bool:
    """Whether a file's name is one of Caffe's."""
    return name.endswith(_SUFFIXES)


def members(folder: Path) -> Iterator[tuple[str, Path]]:
    """Caffe's files below `folder`, LMDBs among them, by relative name."""
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if (path.is_dir() and (path / "data.mdb").exists()) or (
            path.is_file() and is_member(path.name)
        ):
            yield name, path


def kind_of(path: str | os.PathLike[str]) -> str:
    """The kind of the file or folder at `path`, a key of KINDS. Raises CaffeIOError."""
    place = Path(path)
    if place.is_dir():
        if (place / "data.mdb").exists():
            return "lmdb"
        if (place / "CURRENT").exists() and any(place.glob("MANIFEST-*")):
            return "leveldb"
        return "directory"
    try:
        head, size = read_head(place, 1 << 16, lambda head: _as_text(head) is None)
    except FileNotFoundError:
        from caffeio.proto.files import why_missing

        raise CaffeIOError(why_missing(place), where=str(path)) from None
    except OSError as error:
        raise CaffeIOError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if not size:
        raise CaffeIOError("the file is empty", where=str(path))
    kind = kind_or_none(head, size, place.name, str(path))
    return kind or _damaged(place)


def kind_of_bytes(head: bytes, size: int, name: str = "", where: str = "<data>") -> str:
    """The kind of a file that begins with `head` and is `size` bytes long."""
    kind = kind_or_none(head, size, name, where)
    if kind is None:
        raise _no_kind(where)
    return kind


def kind_or_none(head: bytes, size: int, name: str, where: str) -> str | None:
    """As `kind_of_bytes`; None where the bytes fit no kind. Raises for what is certainly wrong."""
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "solverstate.h5" if ".solverstate" in name else "caffemodel.h5"
    if head.startswith(b"version https://git-lfs"):
        raise CaffeIOError("a Git LFS pointer: fetch the file itself first", where=where)
    if name.startswith("data.mdb") or head[16:20] == b"\xde\xc0\xef\xbe":
        raise CaffeIOError("the data file of an LMDB: give its folder", where=where)
    if "idx" in name and (head[:3] == b"\0\0\x08" or head[:2] == b"\x1f\x8b"):
        message = "a data file of MNIST's format (IDX): `caffeio db create` makes an LMDB of it"
        raise CaffeIOError(message, where=where)
    if head.startswith(b"PK\x03\x04"):
        return "npz" if name.endswith(".npz") else "pt"
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") <= size:
        return "safetensors"
    if name.endswith(".onnx"):  # its first fields look like those of a solver state
        return "onnx"
    if is_web_page(head):
        raise CaffeIOError("is a web page, not the file: the download went wrong", where=where)
    text = _as_text(head)
    if text is not None:
        return kind_of_text(text, name)
    return _binary_kind(head, size)


def _damaged(path: Path) -> str:
    """The kind of a file that only its name tells; a cut-off one gets its reader's own words."""
    from caffeio.proto.weights.load import TENSOR_SUFFIXES, load_weights

    if path.suffix.lower() in (".caffemodel", *TENSOR_SUFFIXES):
        load_weights(path)
        return "caffemodel"
    raise _no_kind(str(path))


def _no_kind(where: str) -> CaffeIOError:
    return CaffeIOError(
        "neither a prototxt nor one of Caffe's binary files (.caffemodel, .solverstate, "
        ".binaryproto, HDF5, LMDB)",
        where=where,
    )


def _as_text(head: bytes) -> str | None:
    """The text, if it is one: what stands in comments and strings may be of any encoding."""
    if b"\0" in head:
        return None
    text = head.decode("utf-8", "replace")
    control = sum(c < " " and c not in "\t\r\n\f\v" for c in text[:4096])
    plain = _COMMENT.sub("", text)[:4096]
    odd = control + plain.count("\ufffd")
    few = len(text[:4096]) // 50 if "\ufffd" not in text[:4096] else len(plain) // 50
    return text if odd <= few and (plain.strip() or "\ufffd" not in text) else None


def kind_of_text(text: str, name: str = "") -> str:
    """solver, phases, net, labelmap or text, by the fields at the top level."""
    flat = _top_level(_COMMENT.sub(lambda m: '""' if m[0][0] != "#" else "", text))
    if _PHASES.search(flat):
        return "phases"
    if _NET.search(flat):
        return "net"
    if _SOLVER.search(flat):
        return "solver"
    if _LABELMAP.search(flat):
        return "labelmap"
    return "solver" if "solver" in name else "text"


def _top_level(text: str) -> str:
    """The text without what stands inside braces."""
    out, depth, last = [], 0, 0
    for match in re.finditer(r"[{}]", text):
        if match[0] == "{":
            if depth == 0:
                out.append(text[last : match.end()])
            depth += 1
        else:
            depth = max(depth - 1, 0)
            last = match.end()
    if depth == 0:
        out.append(text[last:])
    return " ".join(out)


def _binary_kind(head: bytes, size: int) -> str | None:
    """Tell NetParameter, SolverState and BlobProto apart by the fields at the top of the file."""
    seen = _fields_at_top(head, size)
    if seen is None:
        return None
    if seen.get(1) == VARINT:
        if BYTES in (seen.get(2), seen.get(3)):
            return "solverstate"
        return "mean" if seen.get(5) in (BYTES, FIXED32) else None
    if seen.get(7) == BYTES and seen.get(5) in (BYTES, FIXED32):
        return "mean"
    if BYTES in (seen.get(100), seen.get(2)):
        return "caffemodel"
    return "caffemodel" if seen.get(1) == BYTES and not seen.keys() - {1, 3, 4, 5, 6, 8} else None


def _fields_at_top(head: bytes, size: int) -> dict[int, int] | None:
    """Field number -> wire type; the last field may run past `head` if the file is longer."""
    seen: dict[int, int] = {}
    at = 0
    try:
        while at < len(head):
            number, wire, start = read_tag(head, at, len(head))
            if wire == BYTES:
                length, start = read_varint(head, start, len(head))
                at = start + length
                if at > size:
                    return None
            else:
                _, _, _, at = read_field(head, at, len(head))
            seen.setdefault(number, wire)
    except ParseError:
        return seen if size > len(head) else None
    return seen
