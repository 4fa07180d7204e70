"""What `caffeio convert` can do, one function a conversion; `convert.CONVERSIONS` lists them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from caffeio.converters.convert.proof import attempt, prove_arrays, prove_deploy, prove_nets
from caffeio.converters.npz import promised_bytes
from caffeio.converters.translate.adapt import sort_lost
from caffeio.converters.weight_names import match_net
from caffeio.converters.weightfiles import (
    FORMATS,
    net_of,
    read_weights,
    write_weights,
    write_with_net,
)
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.net.recipe import NetRecipe
from caffeio.profiles import choose_profile, get_profile
from caffeio.proto.dialect.dialect import Lost
from caffeio.proto.files import NetFile, read_net
from caffeio.proto.io.atomic import atomic_write
from caffeio.proto.io.regular import open_regular
from caffeio.proto.text.printer import format_message
from caffeio.proto.weights.load import Weights

if TYPE_CHECKING:
    from caffeio.converters.deploy.deploy_net import Options
    from caffeio.converters.verify.check import Checked

UNTRAINED = "UNTRAINED"  # how a net without weights is announced


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
    untrained: bool = False
    force: bool = False
    allow_loss: bool = False
    target: str | None = None  # of ONNX to Caffe: a name in from_onnx/targets
    prototxt: str | None = None  # where the prototxt goes


@dataclass
class Outcome:
    """`said` is the result in words, `notes` what was left out or changed on the way.

    `checked` is what was compared with the net as given, if it was.
    """

    said: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checked: Checked | None = None


@dataclass
class Job:
    """One conversion: the net's file first, then the weights'; `kinds` are the sources' formats.

    `out` is the path to write to; what is there in the end takes the place of `target`. `own` says
    that a file at `target` is known to be an earlier product of this command.
    """

    sources: list[Path]
    kinds: list[str]
    target: Path
    wanted: str
    request: Request
    out: Path
    own: bool = False


def to_tensors(job: Job) -> Outcome:
    """Weights of any format in one that holds tensors only."""
    weights = read_weights(job.sources[-1], job.kinds[-1])
    outcome = Outcome()
    if len(job.sources) > 1:  # the net knows the layers' types, which name the blobs of a .pt
        file = read_net(job.sources[0], dialect=job.request.dialect)
        types = {layer.name: layer.type for layer in file.message.layer}
        weights.layers = [e._replace(type=types.get(e.name, e.type)) for e in weights.layers]
        match = match_net(file, weights)
        match.refuse(str(weights.path), untrained=True)
        outcome.notes += match.notes()
    outcome.notes += write_weights(job.out, job.wanted, weights)
    if not job.request.no_verify:
        outcome.said.append(prove_arrays(weights, job.out, job.wanted, job.target))
    return outcome


def to_caffemodel(job: Job) -> Outcome:
    """Weights of any format as a .caffemodel with the layers of a prototxt, in its TRAIN phase."""
    r = job.request
    file = read_net(job.sources[0], dialect=r.dialect)
    recipe = NetRecipe.of_file(file, phase="TRAIN", level=r.level, stages=r.stage)
    graph = recipe.graph()
    weights = read_weights(job.sources[1], job.kinds[1])
    match = match_net(file, weights, graph)
    match.refuse(str(weights.path), untrained=r.untrained)
    with suppress(CaffeIOError):  # setting layers up notes in them what snapshots show
        recipe.build(device="meta", graph=graph)
    dialect = r.to_dialect or file.dialect
    lost = write_with_net(job.out, graph, weights, dialect=dialect)
    outcome = Outcome(notes=match.notes())
    matters, notes = sort_lost(lost, net_of(graph))
    outcome.notes += notes
    _report_lost(outcome, matters, job)
    if not (r.no_verify or matters):
        result = read_net(job.sources[0], dialect=r.dialect), read_weights(job.out, "caffemodel")
        options = _export_options(r)
        pair = (file, weights)
        attempt(
            outcome, lambda: prove_nets(pair, result, options, options), job.target, "the result"
        )
    return outcome


def translate_dialect(job: Job) -> Outcome:
    """A caffemodel in another dialect."""
    from caffeio.converters.translate.translate import translate

    r = job.request
    if r.to_dialect is None and not (r.merge_batch_norm or r.float32 or r.modern_shapes):
        raise UnsupportedError("say which Caffe the new caffemodel is for: --to-dialect NAME")
    target = r.to_dialect or _dialect_of(job.sources[0], r)
    result = translate(
        job.sources[0],
        job.out,
        target,
        r.dialect,
        merge_batch_norm=r.merge_batch_norm,
        float32=r.float32,
        modern_shapes=r.modern_shapes,
    )
    how = "copied as it is" if result.copied else "translated"
    outcome = Outcome([f"{how}: {result.source} to {result.target}"], result.done)
    _report_lost(outcome, result.lost, job)
    if not (r.no_verify or result.copied or result.lost):
        _compare_translation(job, outcome, result.source, target)
    return outcome


def _report_lost(outcome: Outcome, lost: Sequence[Lost], job: Job) -> None:
    """What changes numbers is an error unless the user allows it."""
    lines = [f"lost: {item}" for item in lost]
    if lines and not job.request.allow_loss:
        raise UnsupportedError(
            "the result would compute something else; nothing is written (--allow-loss writes it "
            "all the same):\n  " + "\n  ".join(lines),
            where=str(job.target),
        )
    outcome.notes += lines
    if lines:
        outcome.notes.append("NOT COMPARED with the net as given: it computes something else")


def _compare_translation(job: Job, outcome: Outcome, source: str, target: str) -> None:
    """Run both caffemodels, each as its own Caffe would."""
    options = _export_options(job.request)
    first, second = replace(options, dialect=source), replace(options, dialect=target)

    def pair(path: Path, dialect: str) -> tuple[NetFile, Weights]:
        return read_net(path, dialect=dialect), read_weights(path, "caffemodel")

    def run() -> Checked:
        files = pair(job.sources[0], source), pair(job.out, target)
        return prove_nets(*files, first, second)

    attempt(outcome, run, job.target, "the result")


def _dialect_of(path: Path, request: Request) -> str:
    return request.dialect or read_net(path).dialect


def to_prototxt(job: Job) -> Outcome:
    """The prototxt that a caffemodel holds."""
    from caffeio.converters import prototxt

    r = job.request
    rebuilt = prototxt.write(
        job.sources[0], job.out, dialect=r.dialect, deploy=r.deploy, input_shapes=r.input_shape
    )
    unknown = [f"field {item.number} of {item.message} has no name" for item in rebuilt.unknown]
    outcome = Outcome(notes=[*rebuilt.notes, *unknown])
    if r.deploy and not r.no_verify:
        file = read_net(job.sources[0], dialect=r.dialect)
        _compare_deploy(job, outcome, file, read_weights(job.sources[0], "caffemodel"))
    return outcome


def to_deploy(job: Job) -> Outcome:
    """A deploy prototxt of a training one; the weights tell shapes that it does not."""
    from caffeio.converters.deploy.deploy import drop_fillers
    from caffeio.converters.deploy.deploy_net import deployed

    r = job.request
    if not r.deploy:
        raise UnsupportedError("give --deploy, or see `caffeio upgrade` and `caffeio edit`")
    file = read_net(job.sources[0], dialect=r.dialect)
    weights = read_weights(job.sources[1], job.kinds[1]) if len(job.sources) > 1 else None
    profile = choose_profile(r.caffe, file.dialect)
    message, notes = deployed(file, weights, _export_options(r), profile)
    drop_fillers(message, weights)
    text = format_message(message, dialect=file.dialect)
    with atomic_write(job.out, error=CaffeIOError) as out:
        out.write(text.encode("utf-8", "surrogateescape"))
    outcome = Outcome(notes=notes)
    if not r.no_verify:
        _compare_deploy(job, outcome, file, weights)
    return outcome


def _compare_deploy(job: Job, outcome: Outcome, file: NetFile, weights: Weights | None) -> None:
    text = job.out.read_text(encoding="utf-8", errors="surrogateescape")
    options = _export_options(job.request)
    attempt(outcome, lambda: prove_deploy(file, weights, options, text), job.target, "the result")


def to_binary(job: Job) -> Outcome:
    """A prototxt as a binary net without weights."""
    from caffeio.converters import prototxt

    dialect, outcome = job.request.to_dialect or job.request.dialect, Outcome()
    if job.wanted == "caffemodel":
        if not job.request.untrained:
            net = job.sources[0]
            raise UnsupportedError(
                f"{net} holds no weights, so {job.target} would not either. Meant is probably "
                f"`caffeio convert {net} {job.target} OUTPUT` (weights that are there) or "
                f"`caffeio convert {net} WEIGHTS {job.target}`; --untrained writes the net alone"
            )
        outcome.notes.append(f"{UNTRAINED}: the file has layers, but no weights")
    lost = prototxt.write_binary(job.sources[0], job.out, dialect=dialect)
    _report_lost(outcome, lost, job)
    return outcome


def to_onnx(job: Job) -> Outcome:
    """An ONNX model, verified before it takes its place."""
    from caffeio.converters.onnx.export import export_onnx
    from caffeio.converters.onnx.verify import check_onnx

    r = job.request
    weights = read_weights(job.sources[-1], job.kinds[-1]) if job.kinds[-1] in FORMATS else None
    given = vars(_export_options(r))
    given["need_weights"] = True
    outcome = Outcome()
    outcome.notes = export_onnx(
        job.sources[0],
        weights,
        job.out,
        dynamic_batch=r.dynamic_batch,
        **given,
    )
    if not r.no_verify:

        def run() -> Checked:
            return check_onnx(job.sources[0], weights, job.out, **given)

        attempt(outcome, run, job.target, "onnxruntime")
    return outcome


def _export_options(request: Request) -> Options:
    from caffeio.converters.deploy.deploy_net import Options

    profile = get_profile(request.caffe) if request.caffe else None
    return Options(
        input_shapes=request.input_shape,
        stages=request.stage,
        level=request.level,
        dialect=request.dialect,
        profile=profile,
        outputs=request.output_blob,
        untrained=request.untrained,
    )


def to_caffe(job: Job) -> Outcome:
    """An ONNX model or a torch.export program as a caffemodel and its prototxt."""
    from caffeio.converters.from_onnx.job import to_caffe

    return to_caffe(job)


def mean_to_npy(job: Job) -> Outcome:
    """A mean image as a NumPy array."""
    import numpy as np

    from caffeio.proto.weights.blobproto import read_blobproto

    mean = read_blobproto(job.sources[0])
    with atomic_write(job.out, error=CaffeIOError) as file:
        np.save(file, mean, allow_pickle=False)
    return Outcome([f"an array of shape {mean.shape}"])


def npy_to_mean(job: Job) -> Outcome:
    """A NumPy array as a mean image."""
    import numpy as np

    from caffeio.proto.weights.blobproto import write_blobproto

    try:
        with open_regular(job.sources[0]) as file:
            wanted, size = promised_bytes(file), os.fstat(file.fileno()).st_size
        if wanted is not None and wanted > size:
            raise ValueError(f"its header promises {wanted} bytes, the file has {size}")
        mean = np.load(job.sources[0], allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CaffeIOError(f"is no .npy: {error}", where=str(job.sources[0])) from None
    write_blobproto(job.out, mean)
    return Outcome()
