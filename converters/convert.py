"""Which file becomes which: the table behind `caffeio convert`.

`CONVERSIONS` maps (from, to) to a function and the options that it takes; adding a format is one
entry here, and one in `weightfiles.FORMATS` if it holds weights. "net+weights" stands for a
prototxt and weights of any format.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from caffeio.converters.kinds import kind_of
from caffeio.converters.weightfiles import FORMATS, read_weights, write_weights, write_with_net
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.graph import build_graph
from caffeio.profiles import get_profile, profile_of_dialect
from caffeio.proto.atomic import atomic_write, write_error
from caffeio.proto.files import read_net
from caffeio.proto.printer import format_message

LIMIT = 1e-4  # relative difference up to which an ONNX model counts as the same
PathLike = str | os.PathLike[str]
NET = "net+weights"
TITLES = {
    "prototxt": "net prototxt",
    "binary": "binary net without weights",
    "onnx": "ONNX model",
    "mean": "mean image",
    "npy": "NumPy array",
    NET: "net prototxt and weights",
    **{name: form.title for name, form in FORMATS.items()},
}
SUFFIXES = {
    ".prototxt": "prototxt",
    ".pbtxt": "prototxt",
    ".binaryproto": "binary",
    ".onnx": "onnx",
    ".npy": "npy",
    **{suffix: name for name, form in FORMATS.items() for suffix in form.suffixes},
}


@dataclass
class Request:
    """What a conversion may be told beside its files."""

    dialect: str | None = None  # of the source; None: as detected
    to_dialect: str | None = None
    deploy: bool = False
    input_shape: dict[str, tuple[int, ...]] = field(default_factory=dict)
    no_verify: bool = False
    dynamic_batch: bool = False
    output_blob: tuple[str, ...] = ()
    caffe: str | None = None  # name of a profile
    stage: tuple[str, ...] = ()
    level: int = 0
    merge_batch_norm: bool = False
    float32: bool = False
    modern_shapes: bool = False


_DEFAULT = Request()


@dataclass
class Outcome:
    """`said` is the result in words, `notes` what was left out or changed on the way."""

    said: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Job:
    """One conversion: the net's file first, then the weights'; `kinds` are the sources' formats."""

    sources: list[Path]
    kinds: list[str]
    target: Path
    wanted: str
    request: Request


def convert(
    sources: Sequence[PathLike],
    target: PathLike,
    request: Request | None = None,
    *,
    source_format: str | None = None,
    target_format: str | None = None,
) -> Outcome:
    """Convert one file, or a prototxt and its weights, into `target`.

    Formats are told by suffixes and content unless given. Raises UnsupportedError, with a list of
    what there is, if there is no such conversion, and CaffeIOError of the conversion.
    """
    paths = [Path(source) for source in sources]
    kinds = [format_of(path) for path in paths[:-1]]
    kinds.append(_known(source_format) if source_format else format_of(paths[-1]))
    wanted = _known(target_format) if target_format else _by_suffix(Path(target))
    job = Job(*_arrange(paths, kinds), Path(target), wanted, request or Request())
    if (job.kinds, wanted) == (["npy"], "binary"):
        job.wanted = "mean"
    start = NET if len(job.kinds) == 2 else job.kinds[0]
    if (start, job.wanted) not in CONVERSIONS:
        raise UnsupportedError(_refusal(start, job.wanted))
    chosen = CONVERSIONS[start, job.wanted]
    for name, value in vars(job.request).items():
        if value != getattr(_DEFAULT, name) and name not in chosen.takes:
            option = name.replace("_", "-")
            raise UnsupportedError(
                f"{_title(start)} to {_title(job.wanted)} takes no option --{option}"
            )
    return chosen.run(job)


def _refusal(start: str, wanted: str) -> str:
    if wanted == "caffemodel" and start in FORMATS:
        return (
            f"{_title(start)} holds no net, which a .caffemodel needs: give the prototxt too, "
            "as in `caffeio convert MODEL.prototxt WEIGHTS OUT.caffemodel`"
        )
    return f"{_title(start)} cannot become {_title(wanted)}; {listing()}"


def format_of(path: Path) -> str:
    """The format of a file that is there: by content for Caffe's own, else by suffix."""
    known = SUFFIXES.get(path.suffix.lower())
    if known in ("safetensors", "pt", "npz", "npy", "onnx"):
        return known
    kind = kind_of(path)
    found = {"net": "prototxt", "caffemodel": "caffemodel", "caffemodel.h5": "h5", "mean": "mean"}
    if kind in found:
        return found[kind]
    raise UnsupportedError(f"a {kind} cannot be converted\n{listing()}", where=str(path))


def _by_suffix(path: Path) -> str:
    name = SUFFIXES.get(path.suffix.lower())
    if name is None:
        raise UnsupportedError(
            f"the suffix {path.suffix!r} tells no format: give --to, one of "
            f"{', '.join(sorted(TITLES.keys() - {NET}))}",
            where=str(path),
        )
    return name


def _known(name: str) -> str:
    if name not in TITLES or name == NET:
        known = ", ".join(sorted(TITLES.keys() - {NET}))
        raise UnsupportedError(f"{name!r} is no format; there are {known}")
    return name


def _arrange(paths: list[Path], kinds: list[str]) -> tuple[list[Path], list[str]]:
    """Put the net before its weights, whichever was named first."""
    if len(paths) == 1:
        return paths, kinds
    if len(paths) == 2:
        if kinds[0] == "prototxt" and kinds[1] in FORMATS:
            return paths, kinds
        if kinds[1] == "prototxt" and kinds[0] in FORMATS:
            return paths[::-1], kinds[::-1]
    given = " and ".join(_title(kind) for kind in kinds)
    raise UnsupportedError(f"give one file, or a net prototxt and its weights, not {given}")


def _title(name: str) -> str:
    return f"{TITLES[name]} ({name})"


def listing() -> str:
    """What can be converted into what, for people."""
    lines = ["there are these conversions:"]
    for start in dict.fromkeys(key[0] for key in CONVERSIONS):
        ends = ", ".join(end for begin, end in CONVERSIONS if begin == start)
        lines.append(f"  {start:<12} to {ends}")
    return "\n".join(lines)


# -- the conversions -----------------------------------------------------------------------


def _weights(job: Job) -> Outcome:
    weights = read_weights(job.sources[-1], job.kinds[-1])
    if len(job.sources) > 1:  # the net knows the layers' types, which name the blobs of a .pt
        net = read_net(job.sources[0], dialect=job.request.dialect).message
        types = {layer.name: layer.type for layer in net.layer}
        weights.layers = [e._replace(type=types.get(e.name, e.type)) for e in weights.layers]
    return Outcome(notes=write_weights(job.target, job.wanted, weights))


def _with_net(job: Job) -> Outcome:
    """Weights of any format as a .caffemodel with the layers of a prototxt, in its TRAIN phase."""
    from caffeio.net import Net

    r = job.request
    file = read_net(job.sources[0], dialect=r.dialect)
    graph = build_graph(
        file.message,
        phase="TRAIN",
        level=r.level,
        stages=r.stage,
        where=lambda index: file.where("layer", index),
    )
    weights = read_weights(job.sources[1], job.kinds[1])
    with suppress(CaffeIOError):  # setting layers up notes in them what snapshots show
        Net(graph, profile=profile_of_dialect(file.dialect))
    dialect = r.to_dialect or file.dialect
    notes, lost = write_with_net(job.target, graph, weights, dialect=dialect)
    return Outcome(notes=[*notes, *map(str, lost)])


def _translate(job: Job) -> Outcome:
    from caffeio.converters.translate import translate

    r = job.request
    if r.to_dialect is None and not (r.merge_batch_norm or r.float32 or r.modern_shapes):
        raise UnsupportedError("say which Caffe the new caffemodel is for: --to-dialect NAME")
    result = translate(
        job.sources[0],
        job.target,
        r.to_dialect or _dialect_of(job.sources[0], r),
        r.dialect,
        merge_batch_norm=r.merge_batch_norm,
        float32=r.float32,
        modern_shapes=r.modern_shapes,
    )
    how = "copied as it is" if result.copied else "translated"
    said = f"{how}: {result.source} to {result.target}"
    return Outcome([said], [*result.done, *(f"lost: {item}" for item in result.lost)])


def _dialect_of(path: Path, request: Request) -> str:
    return request.dialect or read_net(path).dialect


def _prototxt(job: Job) -> Outcome:
    from caffeio.converters import prototxt

    r = job.request
    rebuilt = prototxt.write(
        job.sources[0], job.target, dialect=r.dialect, deploy=r.deploy, input_shapes=r.input_shape
    )
    unknown = [f"field {item.number} of {item.message} has no name" for item in rebuilt.unknown]
    return Outcome(notes=[*rebuilt.notes, *unknown])


def _deploy_text(job: Job) -> Outcome:
    """A deploy prototxt of a training one; the weights tell shapes that it does not."""
    from caffeio.converters.deploy_net import deployed

    if not job.request.deploy:
        raise UnsupportedError("give --deploy, or see `caffeio upgrade` and `caffeio edit`")
    file = read_net(job.sources[0], dialect=job.request.dialect)
    weights = read_weights(job.sources[1], job.kinds[1]) if len(job.sources) > 1 else None
    message, notes = deployed(
        file, weights, _export_options(job.request), profile_of_dialect(file.dialect)
    )
    text = format_message(message, dialect=file.dialect)
    with atomic_write(job.target, error=CaffeIOError) as out:
        out.write(text.encode("utf-8", "surrogateescape"))
    return Outcome(notes=notes)


def _binary(job: Job) -> Outcome:
    from caffeio.converters import prototxt

    dialect = job.request.to_dialect or job.request.dialect
    lost = prototxt.write_binary(job.sources[0], job.target, dialect=dialect)
    return Outcome(notes=[f"lost: {item}" for item in lost])


def _onnx(job: Job) -> Outcome:
    from caffeio.converters.onnx import export_onnx

    r = job.request
    weights = read_weights(job.sources[-1], job.kinds[-1]) if job.kinds[-1] in FORMATS else None
    given = vars(_export_options(r))
    outcome = Outcome()
    with _beside(job.target) as path:
        outcome.notes = export_onnx(
            job.sources[0],
            weights,
            path,
            outputs=r.output_blob or None,
            dynamic_batch=r.dynamic_batch,
            **given,
        )
        if not r.no_verify:
            _verify(job, weights, path, outcome, given)
    return outcome


def _export_options(request: Request) -> Any:
    from caffeio.converters.deploy_net import Options

    profile = get_profile(request.caffe) if request.caffe else None
    return Options(
        input_shapes=request.input_shape,
        stages=request.stage,
        level=request.level,
        dialect=request.dialect,
        profile=profile,
    )


def _verify(job: Job, weights: Any, path: Path, outcome: Outcome, given: dict[str, Any]) -> None:
    from caffeio.converters.onnx import verify_onnx

    try:
        off = verify_onnx(job.sources[0], weights, path, **given)
    except UnsupportedError as error:
        outcome.notes.append(f"not verified: {error.message}")
        return
    if not off <= LIMIT:
        raise CaffeIOError(
            f"onnxruntime's outputs differ by {off:.3g} of the largest value (limit {LIMIT:g}); "
            "nothing is written (--no-verify writes it all the same)",
            where=str(job.target),
        )
    outcome.said.append(f"largest relative difference against onnxruntime: {off:.2g}")


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A path in a new folder beside `target`; what is there in the end takes its place."""
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".caffeio-") as folder:
            path = Path(folder, target.name)
            yield path
            for made in sorted(Path(folder).iterdir(), key=lambda p: p == path):  # the model last
                os.replace(made, target.parent / made.name)
    except OSError as problem:
        raise write_error(target, problem, error=CaffeIOError) from problem


def _mean_to_npy(job: Job) -> Outcome:
    import numpy as np

    from caffeio.proto.blobproto import read_blobproto

    mean = read_blobproto(job.sources[0])
    with atomic_write(job.target, error=CaffeIOError) as file:
        np.save(file, mean, allow_pickle=False)
    return Outcome([f"an array of shape {mean.shape}"])


def _npy_to_mean(job: Job) -> Outcome:
    import numpy as np

    from caffeio.proto.blobproto import write_blobproto

    try:
        mean = np.load(job.sources[0], allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CaffeIOError(f"is no .npy: {error}", where=str(job.sources[0])) from None
    write_blobproto(job.target, mean)
    return Outcome()


class Conversion(NamedTuple):
    """What does it, and the fields of Request that it looks at."""

    run: Callable[[Job], Outcome]
    takes: tuple[str, ...] = ()


_STATE = ("dialect", "stage", "level")
_TO_ONNX = Conversion(
    _onnx, (*_STATE, "input_shape", "caffe", "no_verify", "dynamic_batch", "output_blob")
)
_TO_DEPLOY = Conversion(_deploy_text, (*_STATE, "deploy", "input_shape"))
_TO_BINARY = Conversion(_binary, ("dialect", "to_dialect"))
_TENSORS = [name for name in FORMATS if name != "caffemodel"]
CONVERSIONS: dict[tuple[str, str], Conversion] = {
    (NET, "onnx"): _TO_ONNX,
    (NET, "caffemodel"): Conversion(_with_net, (*_STATE, "to_dialect")),
    (NET, "prototxt"): _TO_DEPLOY,
    ("prototxt", "onnx"): _TO_ONNX,
    ("prototxt", "prototxt"): _TO_DEPLOY,
    ("prototxt", "binary"): _TO_BINARY,
    ("prototxt", "caffemodel"): _TO_BINARY,
    ("caffemodel", "caffemodel"): Conversion(
        _translate, ("dialect", "to_dialect", "merge_batch_norm", "float32", "modern_shapes")
    ),
    ("caffemodel", "prototxt"): Conversion(_prototxt, ("dialect", "deploy", "input_shape")),
    ("caffemodel", "onnx"): _TO_ONNX,
    **{(a, b): Conversion(_weights, ("dialect",)) for a in FORMATS for b in _TENSORS if a != b},
    **{(NET, end): Conversion(_weights, ("dialect",)) for end in _TENSORS},
    ("mean", "npy"): Conversion(_mean_to_npy),
    ("npy", "mean"): Conversion(_npy_to_mean),
}
