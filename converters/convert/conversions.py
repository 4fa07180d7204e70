"""What `caffeio convert` can do, one function a conversion; `convert.CONVERSIONS` lists them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caffeio.converters.weightfiles import FORMATS, read_weights, write_weights, write_with_net
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.net.recipe import NetRecipe
from caffeio.profiles import choose_profile, get_profile
from caffeio.proto.files import read_net
from caffeio.proto.io.atomic import atomic_write, write_error
from caffeio.proto.io.regular import check_regular
from caffeio.proto.text.printer import format_message

LIMIT = 1e-4  # relative difference up to which an ONNX model counts as the same


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
    target: str | None = None  # of ONNX to Caffe: a name in from_onnx/targets
    prototxt: str | None = None  # where the prototxt goes


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


def to_tensors(job: Job) -> Outcome:
    """Weights of any format in one that holds tensors only."""
    weights = read_weights(job.sources[-1], job.kinds[-1])
    if len(job.sources) > 1:  # the net knows the layers' types, which name the blobs of a .pt
        net = read_net(job.sources[0], dialect=job.request.dialect).message
        types = {layer.name: layer.type for layer in net.layer}
        weights.layers = [e._replace(type=types.get(e.name, e.type)) for e in weights.layers]
    return Outcome(notes=write_weights(job.target, job.wanted, weights))


def to_caffemodel(job: Job) -> Outcome:
    """Weights of any format as a .caffemodel with the layers of a prototxt, in its TRAIN phase."""
    r = job.request
    file = read_net(job.sources[0], dialect=r.dialect)
    recipe = NetRecipe.of_file(file, phase="TRAIN", level=r.level, stages=r.stage)
    graph = recipe.graph()
    weights = read_weights(job.sources[1], job.kinds[1])
    with suppress(CaffeIOError):  # setting layers up notes in them what snapshots show
        recipe.build(device="meta", graph=graph)
    dialect = r.to_dialect or file.dialect
    notes, lost = write_with_net(job.target, graph, weights, dialect=dialect)
    return Outcome(notes=[*notes, *map(str, lost)])


def translate_dialect(job: Job) -> Outcome:
    """A caffemodel in another dialect."""
    from caffeio.converters.translate.translate import translate

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


def to_prototxt(job: Job) -> Outcome:
    """The prototxt that a caffemodel holds."""
    from caffeio.converters import prototxt

    r = job.request
    rebuilt = prototxt.write(
        job.sources[0], job.target, dialect=r.dialect, deploy=r.deploy, input_shapes=r.input_shape
    )
    unknown = [f"field {item.number} of {item.message} has no name" for item in rebuilt.unknown]
    return Outcome(notes=[*rebuilt.notes, *unknown])


def to_deploy(job: Job) -> Outcome:
    """A deploy prototxt of a training one; the weights tell shapes that it does not."""
    from caffeio.converters.deploy.deploy_net import deployed

    if not job.request.deploy:
        raise UnsupportedError("give --deploy, or see `caffeio upgrade` and `caffeio edit`")
    file = read_net(job.sources[0], dialect=job.request.dialect)
    weights = read_weights(job.sources[1], job.kinds[1]) if len(job.sources) > 1 else None
    message, notes = deployed(
        file, weights, _export_options(job.request), choose_profile(job.request.caffe, file.dialect)
    )
    text = format_message(message, dialect=file.dialect)
    with atomic_write(job.target, error=CaffeIOError) as out:
        out.write(text.encode("utf-8", "surrogateescape"))
    return Outcome(notes=notes)


def to_binary(job: Job) -> Outcome:
    """A prototxt as a binary net without weights."""
    from caffeio.converters import prototxt

    dialect = job.request.to_dialect or job.request.dialect
    lost = prototxt.write_binary(job.sources[0], job.target, dialect=dialect)
    return Outcome(notes=[f"lost: {item}" for item in lost])


def to_onnx(job: Job) -> Outcome:
    """An ONNX model, verified before it takes its place."""
    from caffeio.converters.onnx.export import export_onnx

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
    from caffeio.converters.deploy.deploy_net import Options

    profile = get_profile(request.caffe) if request.caffe else None
    return Options(
        input_shapes=request.input_shape,
        stages=request.stage,
        level=request.level,
        dialect=request.dialect,
        profile=profile,
    )


def _verify(job: Job, weights: Any, path: Path, outcome: Outcome, given: dict[str, Any]) -> None:
    from caffeio.converters.onnx.export import verify_onnx

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


def to_caffe(job: Job) -> Outcome:
    """An ONNX model or a torch.export program as a caffemodel and its prototxt."""
    from caffeio.converters.from_onnx.job import to_caffe

    return to_caffe(job)


def mean_to_npy(job: Job) -> Outcome:
    """A mean image as a NumPy array."""
    import numpy as np

    from caffeio.proto.weights.blobproto import read_blobproto

    mean = read_blobproto(job.sources[0])
    with atomic_write(job.target, error=CaffeIOError) as file:
        np.save(file, mean, allow_pickle=False)
    return Outcome([f"an array of shape {mean.shape}"])


def npy_to_mean(job: Job) -> Outcome:
    """A NumPy array as a mean image."""
    import numpy as np

    from caffeio.proto.weights.blobproto import write_blobproto

    try:
        check_regular(job.sources[0])
        mean = np.load(job.sources[0], allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CaffeIOError(f"is no .npy: {error}", where=str(job.sources[0])) from None
    write_blobproto(job.target, mean)
    return Outcome()
