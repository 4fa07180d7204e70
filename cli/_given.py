"""What the files of a command are, looked at before anything is built or torch is imported."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from caffeio.errors import CaffeIOError

SOLVER = ("solver",)
PHASES = ("phases",)  # a solver file of several phases
NET = ("net",)
WEIGHTS = ("caffemodel", "caffemodel.h5", "safetensors", "pt", "npz")
STATE = ("solverstate", "solverstate.h5")
# Kinds that may turn out to be anything: their readers have the better words.
_OPEN = ("text",)
# What a sentence calls a file of a kind, and what it calls what a command wants.
_CALLED = {
    "net": "a net",
    "solver": "a solver",
    "phases": "a solver of several phases (params_pair)",
    "labelmap": "a label map",
    "caffemodel": "weights",
    "caffemodel.h5": "weights (HDF5)",
    "solverstate": "a solver state",
    "solverstate.h5": "a solver state (HDF5)",
    "mean": "a mean image",
    "onnx": "an ONNX model",
    "safetensors": "a safetensors file",
    "pt": "a PyTorch file",
    "npz": "a NumPy archive",
    "lmdb": "an LMDB",
    "leveldb": "a LevelDB",
    "directory": "a folder",
}


def require_kind(path: str, kinds: Sequence[str], taker: str, *, hint: str = "") -> None:
    """Raise CaffeIOError if `path` is surely of none of `kinds`; `taker` says what takes what.

    "net.prototxt is a net; train takes a solver: did you mean solver.prototxt?". A file that is not
    there or is damaged is left to its reader, which knows more to say.
    """
    from caffeio.converters.kinds import kind_of

    if path == "-":
        return
    try:
        kind = kind_of(path)
    except CaffeIOError:
        return
    if kind in kinds or kind in _OPEN:
        return
    meant = list(_meant(Path(path), kind, kinds))
    end = f": did you mean {_listed(meant)}?" if meant else ""
    raise CaffeIOError(
        f"{path} is {_CALLED[kind]}; {taker}{end}{f' ({hint})' if hint and meant else ''}"
        f"{f': {hint}' if hint and not meant else ''}"
    )


# Files that are never pictures or labels; others (.h5, .npz, texts, folders) may be.
_MODELS = (*SOLVER, *PHASES, *NET, WEIGHTS[0], STATE[0], "mean", "onnx", "safetensors", "pt")
_NAMES = (".prototxt", ".pbtxt", ".caffemodel", ".solverstate", ".binaryproto", ".onnx",
          ".safetensors", ".pt", ".pth")  # fmt: skip


def refuse(path: str, taker: str) -> None:
    """Raise CaffeIOError for a model's file, or a database, where data are wanted."""
    from caffeio.converters.kinds import kind_of

    if not path.endswith(_NAMES) and not Path(path).is_dir():
        return
    try:
        kind = kind_of(path)
    except CaffeIOError:
        return
    if kind in (*_MODELS, "lmdb", "leveldb"):
        raise CaffeIOError(f"{path} is {_CALLED[kind]}; {taker}")


def there(*paths: str) -> None:
    """Raise CaffeIOError for the first file that is not there, with what may have been meant."""
    from caffeio.proto.files import why_missing

    for path in paths:
        if path != "-" and not Path(path).exists():
            raise CaffeIOError(why_missing(Path(path)), where=path)


def apart(*outputs: str | None, read: Sequence[str] = ()) -> None:
    """Raise CaffeIOError for a file to be written that the command line names for something else.

    `read`: files that are read without being named there.
    """
    import click

    context = click.get_current_context()
    named = list(read)
    for param in context.command.params:
        if isinstance(param, click.Argument) or isinstance(param.type, click.Path):
            value = context.params.get(param.name or "")
            named += map(str, value if isinstance(value, tuple) else [value] if value else [])
    places = [os.path.realpath(name) for name in named]
    for output in outputs:
        if output and output != "-" and places.count(os.path.realpath(output)) > 1:
            raise CaffeIOError("is a file of this command already: write to another", where=output)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _meant(path: Path, kind: str, kinds: Sequence[str]) -> Iterator[str]:
    """The files that may have been meant in place of this one."""
    if kind == "net" and "solver" in kinds:
        yield from _solvers_of(path)
    elif kind == "solver" and "net" in kinds:
        yield from _nets_of(path)
    elif kind in STATE + WEIGHTS and kinds in (STATE, WEIGHTS):
        old, new = (".caffemodel", ".solverstate")[:: 1 if kinds == STATE else -1]
        other = path.with_name(path.name.replace(old, new))
        if other != path and other.exists():
            yield str(other)


def _solvers_of(net: Path) -> Iterator[str]:
    """Solvers beside a net, or in the folder above, that name it; three of them at most."""
    from caffeio.converters.kinds import kind_of
    from caffeio.proto.files import read_text

    found = 0
    for folder in dict.fromkeys((net.parent, net.parent / "..")):
        for file in sorted(folder.glob("*.prototxt"))[:200]:
            try:
                if kind_of(file) != "solver" or net.name not in read_text(file):
                    continue
            except CaffeIOError:
                continue
            yield str(file)
            found += 1
            if found == 3:
                return


def _nets_of(solver: Path) -> Iterator[str]:
    """The net that a solver names."""
    from caffeio.proto.files import read_text

    match = re.search(r"\b(?:net|train_net)\s*:\s*[\"']([^\"']+)", read_text(solver))
    if match:
        named = Path(match[1])
        for place in (solver.parent / named.name, named, solver.parent / named):
            if place.is_file():
                yield str(place)
                return


def require_solver(path: str, command: str = "train") -> None:
    """A command takes a solver prototxt; `train` takes several phases in one file, too."""
    kinds = SOLVER + PHASES if command == "train" else SOLVER
    require_kind(path, kinds, f"{command} takes a solver")


def require_net(path: str, command: str, *, example: str = "") -> None:
    """A command takes a net prototxt."""
    require_kind(path, NET, f"{command} takes a net", hint=example)


def require_weights(path: str, command: str = "--weights") -> None:
    """An option takes weights of any format; they are opened, so that damage is told at once."""
    from caffeio.proto.weights.load import load_weights

    hint = "or --snapshot, to go on from this state" if command == "--weights" else ""
    require_kind(
        path, WEIGHTS, f"{command} takes weights", hint=hint if is_one(path, STATE) else ""
    )
    load_weights(path)


def require_blobs(model: str, blobs: Sequence[str], said: str = "the net has no blob {!r}") -> None:
    """An option takes blobs of a net; raises CaffeIOError for one that no layer makes."""
    if not blobs:
        return
    from difflib import get_close_matches

    from caffeio.proto.files import read_net

    net = read_net(model).message
    known = dict.fromkeys([*net.input, *(top for layer in net.layer for top in layer.top)])
    for blob in blobs:
        if blob not in known:
            close = get_close_matches(blob, known, 2)
            hint = f": did you mean {_listed(close)}?" if close else ""
            raise CaffeIOError(f"{said.format(blob)}{hint}", where=model)


def require_state(path: str) -> None:
    """--snapshot takes a .solverstate; it is opened, so that a damaged one is told at once."""
    from caffeio.proto.weights.solverstate import read_solverstate

    hint = "or --weights, to start from the weights alone" if is_one(path, WEIGHTS) else ""
    require_kind(path, STATE, "--snapshot takes a .solverstate", hint=hint)
    read_solverstate(path)


def is_one(path: str, kinds: Sequence[str]) -> bool:
    """Whether a file is there and of one of these kinds."""
    from caffeio.converters.kinds import kind_of

    try:
        return kind_of(path) in kinds
    except CaffeIOError:
        return False
