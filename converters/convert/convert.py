"""Which file becomes which: the table behind `caffeio convert`.

`CONVERSIONS` maps (from, to) to a function and the options that it takes; adding a format is one
entry here, and one in `weightfiles.FORMATS` if it holds weights. "net+weights" stands for a
prototxt and weights of any format.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from caffeio.converters.convert import conversions
from caffeio.converters.convert.certificate import write_certificate
from caffeio.converters.convert.forgotten import refuse_forgotten_weights
from caffeio.converters.convert.pictures import told_preprocessing
from caffeio.converters.convert.place import staged
from caffeio.converters.kinds import kind_of
from caffeio.converters.request import Conversion, Outcome, Request
from caffeio.converters.weightfiles import FORMATS
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.proto.io.opened import opened_once

PathLike = str | os.PathLike[str]
NET = "net+weights"
TITLES = {
    "prototxt": "net prototxt",
    "binary": "binary net without weights",
    "onnx": "ONNX model",
    "pt2": "torch.export program",
    "py": "PyTorch module in Python",
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
    ".pt2": "pt2",
    ".py": "py",
    ".npy": "npy",
    **{suffix: name for name, form in FORMATS.items() for suffix in form.suffixes},
}


@opened_once()
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
    _check_order(paths, Path(target))
    target_format = _known(target_format) if target_format else _by_suffix(Path(target))
    kinds = [format_of(path) for path in paths[:-1]]
    kinds.append(_known(source_format) if source_format else format_of(paths[-1]))
    job = Conversion(
        *_arrange(paths, kinds), Path(target), target_format, request or Request(), Path(target)
    )
    if (job.kinds, target_format) == (["npy"], "binary"):
        job.target_format = "mean"
    start = NET if len(job.kinds) == 2 else job.kinds[0]
    if (start, job.target_format) not in CONVERSIONS:
        raise UnsupportedError(_refusal(start, job.target_format))
    chosen, default = CONVERSIONS[start, job.target_format], Request()
    for name, value in vars(job.request).items():
        if value != getattr(default, name) and name not in (*chosen.takes, *_ALWAYS):
            option = name.replace("_", "-")
            raise UnsupportedError(
                f"{_title(start)} to {_title(job.target_format)} takes no option --{option}"
            )
    if job.kinds == ["prototxt"] and target_format in _FOR_PICTURES:
        refuse_forgotten_weights(job.sources[0], job.request)
    with staged(job.target, job.target_format, lambda: job.request.force or job.own) as job.out:
        try:
            outcome = chosen.run(job)
            if job.target_format in _FOR_PICTURES and job.kinds[0] in ("prototxt", "caffemodel"):
                outcome.messages += told_preprocessing(job)
            if job.request.certificate:
                write_certificate(job, outcome)
            return outcome
        except CaffeIOError as error:
            if error.where != str(job.out):
                raise
            raise type(error)(error.message, where=str(job.target)) from None


def _check_order(paths: Sequence[Path], target: Path) -> None:
    """Name an output that stands among the inputs."""
    missing = [path for path in paths if not path.exists()]
    if len(missing) == 1 and len(paths) > 1 and target.exists():
        rest = [str(path) for path in (*paths, target) if path not in missing]
        raise CaffeIOError(
            "there is no such file. If it is the output, it goes last: "
            f"`caffeio convert {' '.join(rest)} {missing[0]}`",
            where=str(missing[0]),
        )


def _refusal(start: str, target_format: str) -> str:
    if target_format == "caffemodel" and start in FORMATS:
        return (
            f"{_title(start)} holds no net, which a .caffemodel needs: give the prototxt too, "
            "as in `caffeio convert MODEL.prototxt WEIGHTS OUT.caffemodel`"
        )
    return f"{_title(start)} cannot become {_title(target_format)}; {listing()}"


def format_of(path: Path) -> str:
    """The format of a file that is there: by content for Caffe's own, else by suffix."""
    known = SUFFIXES.get(path.suffix.lower())
    if known in ("safetensors", "pt", "pt2", "npz", "npy", "onnx"):
        return known
    kind = kind_of(path)
    if kind in ("onnx", "safetensors", "pt", "npz"):
        return kind
    found = {"net": "prototxt", "caffemodel": "caffemodel", "caffemodel.h5": "h5", "mean": "mean"}
    if kind in found:
        return found[kind]
    raise UnsupportedError(f"a {kind} cannot be converted\n{listing()}", where=str(path))


def _by_suffix(path: Path) -> str:
    name = SUFFIXES.get(path.suffix.lower())
    if name is None:
        raise UnsupportedError(
            f"the suffix {path.suffix!r} tells no format: give --to, one of "
            f"{', '.join(format_names())}",
            where=str(path),
        )
    return name


def _known(name: str) -> str:
    if name not in TITLES or name == NET:
        known = ", ".join(format_names())
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


def format_names() -> list[str]:
    """The names that --from and --to take."""
    return sorted(TITLES.keys() - {NET})


def listing() -> str:
    """What can be converted into what, for people."""
    lines = ["there are these conversions:"]
    for start in dict.fromkeys(key[0] for key in CONVERSIONS):
        ends = ", ".join(end for begin, end in CONVERSIONS if begin == start)
        lines.append(f"  {start:<12} to {ends}")
    return "\n".join(lines)


class Converter(NamedTuple):
    """What does it, and the fields of Request that it looks at."""

    run: Callable[[Conversion], Outcome]
    takes: tuple[str, ...] = ()


_FOR_PICTURES = ("onnx", "py", "pt2")
_ALWAYS = ("certificate", "force", "no_verify", "untrained", "allow_loss")
_STATE = ("dialect", "stage", "level")
_PICTURES = ("preprocess", "mean", "scale", "order", "size")
_ONNX = (
    "opset",
    "fold",
    "external_data",
    "input_blob",
    "dynamic",
    "fp16",
    "unroll",
    "client",
    "labels",
    *_PICTURES,
)
_TO_ONNX = Converter(
    conversions.to_onnx,
    (*_STATE, "input_shape", "caffe", "dynamic_batch", "output_blob", *_ONNX),
)
_USE = (*_STATE, "input_shape", "caffe", "output_blob")
_TO_MODULE = Converter(conversions.to_module, _USE)
_TO_PROGRAM = Converter(conversions.to_program, _USE)
_TO_DEPLOY = Converter(
    conversions.to_deploy, (*_STATE, "deploy", "to_dialect", "input_shape", "caffe")
)
_TO_BINARY = Converter(conversions.to_binary, ("dialect", "to_dialect"))
_TO_CAFFE = Converter(
    conversions.to_caffe, ("input_shape", "output_blob", "no_verify", "target", "prototxt")
)
_TENSORS = [name for name in FORMATS if name != "caffemodel"]
CONVERSIONS: dict[tuple[str, str], Converter] = {
    ("onnx", "caffemodel"): _TO_CAFFE,
    ("pt2", "caffemodel"): _TO_CAFFE,
    ("onnx", "h5"): _TO_CAFFE,
    ("pt2", "h5"): _TO_CAFFE,
    (NET, "onnx"): _TO_ONNX,
    (NET, "caffemodel"): Converter(
        conversions.to_caffemodel, (*_STATE, "to_dialect", "input_shape", "caffe", "map")
    ),
    (NET, "prototxt"): _TO_DEPLOY,
    ("prototxt", "onnx"): _TO_ONNX,
    ("prototxt", "prototxt"): _TO_DEPLOY,
    ("prototxt", "binary"): _TO_BINARY,
    ("prototxt", "caffemodel"): _TO_BINARY,
    ("caffemodel", "caffemodel"): Converter(
        conversions.translate_dialect,
        ("dialect", "to_dialect", "merge_batch_norm", "float32", "modern_shapes", "input_shape"),
    ),
    ("caffemodel", "prototxt"): Converter(
        conversions.to_prototxt, ("dialect", "deploy", "input_shape")
    ),
    ("caffemodel", "onnx"): _TO_ONNX,
    **{
        (a, b): Converter(conversions.to_tensors, ("dialect", "names", "map"))
        for a in FORMATS
        for b in _TENSORS
        if a != b
    },
    **{
        (NET, end): Converter(conversions.to_tensors, ("dialect", "names", "map"))
        for end in _TENSORS
    },
    **{(start, "py"): _TO_MODULE for start in (NET, "prototxt", "caffemodel")},
    **{(start, "pt2"): _TO_PROGRAM for start in (NET, "prototxt", "caffemodel")},
    ("mean", "npy"): Converter(conversions.mean_to_npy),
    ("npy", "mean"): Converter(conversions.npy_to_mean),
}
