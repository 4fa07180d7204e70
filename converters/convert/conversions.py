"""What `caffeio convert` can do, one function a conversion; `convert.CONVERSIONS` lists them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffeio.converters.convert.proof import (
    attempt,
    prove_arrays,
    prove_deploy,
    prove_module,
    prove_nets,
    random_weights,
)
from caffeio.converters.request import Conversion, Outcome, Request
from caffeio.converters.weight_names import match_net
from caffeio.converters.weightfiles import (
    FORMATS,
    read_weights,
    weights_of,
    with_blobs,
    write_weights,
)
from caffeio.errors import CaffeIOError, DialectError, UnsupportedError
from caffeio.net.recipe import NetRecipe
from caffeio.profiles import choose_profile, get_profile
from caffeio.proto.dialect.dialect import Lost, detect
from caffeio.proto.files import NetFile, read_net
from caffeio.proto.io.atomic import atomic_write
from caffeio.proto.io.mapped import map_file
from caffeio.proto.io.regular import open_regular
from caffeio.proto.text.printer import format_message
from caffeio.proto.weights.load import Weights
from caffeio.proto.weights.npz import promised_bytes
from caffeio.proto.weights.write import write_caffemodel

if TYPE_CHECKING:
    from caffeio.converters.deploy.deploy_net import DeployOptions
    from caffeio.converters.verify.check import Checked

UNTRAINED = "UNTRAINED"  # how a net without weights is announced


def to_tensors(job: Conversion) -> Outcome:
    """Weights of any format in one that holds tensors only."""
    r, outcome = job.request, Outcome()
    weights = _weights_for(job)
    if len(job.sources) > 1:  # the net knows the layers' types, which name the blobs
        file = read_net(job.sources[0], dialect=r.dialect)
        types = {layer.name: layer.type for layer in file.message.layer}
        weights.layers = [e._replace(type=types.get(e.name, e.type)) for e in weights.layers]
        match = match_net(file, weights)
        match.refuse(str(weights.path), untrained=True)
        outcome.warnings += match.notes()
    if r.names == "torch":
        return _to_module(job, outcome, weights)
    outcome.warnings += write_weights(job.out, job.target_format, weights)
    if not r.no_verify:
        outcome.messages.append(prove_arrays(weights, job.out, job.target_format, job.target))
    return outcome


def _weights_for(job: Conversion) -> Weights:
    """The weights of a conversion; those of a PyTorch module as the net's layers have them."""
    path, kind = job.sources[-1], job.kinds[-1]
    if kind not in ("pt", "safetensors") or len(job.sources) < 2:
        return read_weights(path, kind)
    from caffeio.net.torch_names.convert import module_to_caffe
    from caffeio.net.torch_names.mapfile import read_map
    from caffeio.proto.weights.blob_names import is_torch_named

    reader = import_module(f"caffeio.proto.weights.{'pytorch' if kind == 'pt' else kind}")
    tensors = reader.read_tensors(path)
    of_caffe = job.request.map is None or job.request.names == "torch"
    if of_caffe and not is_torch_named(tensors):
        return read_weights(path, kind)
    net = read_net(job.sources[0], dialect=job.request.dialect).message
    return module_to_caffe(tensors, net, read_map(job.request.map), path)


def _to_module(job: Conversion, outcome: Outcome, weights: Weights) -> Outcome:
    """Weights under the names that a PyTorch module has."""
    from caffeio.net.torch_names.convert import caffe_to_module, module_to_caffe
    from caffeio.net.torch_names.mapfile import read_map

    if job.target_format not in ("pt", "safetensors"):
        raise UnsupportedError("--names torch is for .pt and .safetensors")
    if job.kinds[0] not in ("prototxt", "caffemodel"):
        raise UnsupportedError("--names torch needs the net: give the prototxt too")
    net, names = (
        read_net(job.sources[0], dialect=job.request.dialect).message,
        read_map(job.request.map),
    )
    tensors, notes = caffe_to_module(weights, net, names)
    module = import_module(
        f"caffeio.proto.weights.{'pytorch' if job.target_format == 'pt' else 'safetensors'}"
    )
    module.write_tensors(job.out, tensors)
    outcome.warnings += notes
    if not (job.request.no_verify or any("PyTorch form" in note for note in notes)):
        back = module_to_caffe(module.read_tensors(job.out), net, names, job.out)
        outcome.messages.append(prove_module(weights, back, net, names.fold, job.target))
    return outcome


def to_caffemodel(job: Conversion) -> Outcome:
    """Weights of any format as a .caffemodel with the layers of a prototxt, in its TRAIN phase."""
    r = job.request
    file = read_net(job.sources[0], dialect=r.dialect)
    recipe = NetRecipe.of_file(file, phase="TRAIN", level=r.level, stages=r.stage)
    graph = recipe.graph()
    weights = _weights_for(job)
    match = match_net(file, weights, graph)
    match.refuse(str(weights.path), untrained=r.untrained)
    with suppress(CaffeIOError):  # setting layers up notes in them what snapshots show
        recipe.build(device="meta", graph=graph)
    net, blobs = with_blobs(graph, weights, job.out)
    outcome = Outcome(warnings=match.notes())
    dialect = r.to_dialect or file.dialect
    net, matters = _write_net(job, outcome, (net, blobs), file.dialect, dialect)
    if r.to_dialect is None and dialect != "bvlc" and not _clear(job.out, dialect):
        from caffeio.converters.translate.net_text import translate_net

        plain = translate_net(net, blobs, file.dialect, "bvlc")
        if not plain.matters:  # else it cannot be helped: --dialect reads it
            dialect = "bvlc"
            net, matters = _write_net(job, outcome, (net, blobs), file.dialect, dialect)
            outcome.warnings.append(
                "written for bvlc, which can say the same: several Caffes would read the numbers "
                f"of {file.dialect} otherwise (--to-dialect names another)"
            )
    _report_lost(outcome, matters, job)
    if not (r.no_verify or matters):
        options, made = _export_options(r), read_weights(job.out, "caffemodel")
        same = dialect == file.dialect
        second = file if same else read_net(format_message(net, dialect=dialect), dialect=dialect)
        pairs = ((file, weights), (second, made))

        def run() -> Checked:
            return prove_nets(
                *pairs, options, options if same else replace(options, dialect=dialect)
            )

        attempt(outcome, run, job.target, "the result")
    return outcome


def _write_net(
    job: Conversion, outcome: Outcome, given: tuple[Any, Any], source: str, target: str
) -> tuple[Any, list[str]]:
    """Write a net and its blobs for `target`; returns the net, and what numbers that changes."""
    net, blobs = given
    lost: list[Lost] = []
    if source == target:
        write_caffemodel(job.out, net, blobs, dialect=target, lost=lost)
        from caffeio.converters.translate.adapt import sort_lost

        found, notes = sort_lost(lost, net)
        outcome.warnings += notes
        return net, [str(item) for item in found]
    from caffeio.converters.translate.net_text import translate_net

    new = translate_net(net, blobs, source, target, job.request.input_shape)
    write_caffemodel(job.out, new.message, new.blobs, dialect=target, lost=lost)
    outcome.warnings += new.done
    return new.message, new.matters


def _clear(path: Path, dialect: str) -> bool:
    """Whether a caffemodel will be read as one of its own dialect."""
    try:
        found = detect(map_file(path, CaffeIOError, "a caffemodel"))
    except DialectError:
        return False
    return dialect in (found.dialect, *found.also)


def translate_dialect(job: Conversion) -> Outcome:
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
        input_shapes=r.input_shape,
    )
    how = "copied as it is" if result.copied else "translated"
    outcome = Outcome([f"{how}: {result.source} to {result.target}"], result.done)
    _report_lost(outcome, [*result.unsaid, *map(str, result.lost)], job)
    if not (r.no_verify or result.copied or result.lost):
        _compare_translation(job, outcome, result.source, target)
    return outcome


def _report_lost(outcome: Outcome, lost: Sequence[Any], job: Conversion) -> None:
    """What changes numbers is an error unless the user allows it."""
    lines = [f"lost: {item}" for item in lost]
    if lines and not job.request.allow_loss:
        raise UnsupportedError(
            "the result would compute something else; nothing is written (--allow-loss writes it "
            "all the same):\n  " + "\n  ".join(lines),
            where=str(job.target),
        )
    outcome.warnings += lines
    if lines:
        outcome.warnings.append("NOT COMPARED with the net as given: it computes something else")


def _compare_translation(job: Conversion, outcome: Outcome, source: str, target: str) -> None:
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


def to_prototxt(job: Conversion) -> Outcome:
    """The prototxt that a caffemodel holds."""
    from caffeio.converters import prototxt

    r = job.request
    rebuilt = prototxt.write(
        job.sources[0], job.out, dialect=r.dialect, deploy=r.deploy, input_shapes=r.input_shape
    )
    unknown = [f"field {item.number} of {item.message} has no name" for item in rebuilt.unknown]
    outcome = Outcome(warnings=[*rebuilt.notes, *unknown])
    if r.deploy and not r.no_verify:
        file = read_net(job.sources[0], dialect=r.dialect)
        _compare_deploy(job, outcome, file, read_weights(job.sources[0], "caffemodel"))
    return outcome


def to_deploy(job: Conversion) -> Outcome:
    """A deploy prototxt of a training one; the weights tell shapes that it does not."""
    from caffeio.converters.deploy.deploy import drop_fillers
    from caffeio.converters.deploy.deploy_net import deployed

    r = job.request
    if not (r.deploy or r.to_dialect):
        raise UnsupportedError(
            "give --deploy or --to-dialect NAME, or see `caffeio upgrade` and `caffeio edit`"
        )
    file = read_net(job.sources[0], dialect=r.dialect)
    weights = read_weights(job.sources[1], job.kinds[1]) if len(job.sources) > 1 else None
    profile = choose_profile(r.caffe, file.dialect)
    if r.deploy:
        message, notes = deployed(file, weights, _export_options(r), profile)
        drop_fillers(message, weights)
    else:
        message, notes = file.message, []
    outcome = Outcome(warnings=notes)
    if r.to_dialect and r.to_dialect != file.dialect:
        return _translate_text(job, outcome, file, weights, message)
    _write_text(job, format_message(message, dialect=file.dialect))
    if not r.no_verify:
        _compare_deploy(job, outcome, file, weights)
    return outcome


def _write_text(job: Conversion, text: str) -> None:
    with atomic_write(job.out, error=CaffeIOError) as out:
        out.write(text.encode("utf-8", "surrogateescape"))


def _translate_text(
    job: Conversion, outcome: Outcome, file: NetFile, weights: Weights | None, message: Any
) -> Outcome:
    """A prototxt for another Caffe; `message` is the net that is wanted."""
    r = job.request
    assert r.to_dialect is not None
    blobs = [list((weights or {}).get(layer.name, ())) for layer in message.layer]
    from caffeio.converters.translate.net_text import translate_net

    new = translate_net(message, blobs, file.dialect, r.to_dialect, r.input_shape)
    outcome.warnings += new.done
    unknown = [f"{item} (no known Caffe has it)" for item in file.unknown]
    _report_lost(outcome, [*new.matters, *unknown], job)
    text = format_message(new.message, dialect=r.to_dialect)
    _write_text(job, text)
    outcome.messages.append(f"translated: {file.dialect} to {r.to_dialect}")
    made = [a for a in new.arrays() if a not in (weights or {})] if weights else []
    if made:
        outcome.warnings.append(
            f"the new layers {', '.join(made)} have weights: `caffeio convert {job.sources[0]} "
            f"{job.sources[-1]} OUT.caffemodel --to-dialect {r.to_dialect}` writes them"
        )
    if r.no_verify or new.matters or unknown:
        return outcome
    options = _export_options(r)

    def run() -> Checked:
        stand_in = weights or random_weights(file, options)
        own = [list(stand_in.get(layer.name, ())) for layer in message.layer]
        from caffeio.converters.translate.net_text import translate_net

        with_weights = translate_net(message, own, file.dialect, str(r.to_dialect), r.input_shape)
        second = read_net(text, dialect=r.to_dialect), weights_of(with_weights.arrays())
        return prove_nets((file, stand_in), second, options, replace(options, dialect=r.to_dialect))

    attempt(outcome, run, job.target, "the result")
    return outcome


def _compare_deploy(
    job: Conversion, outcome: Outcome, file: NetFile, weights: Weights | None
) -> None:
    text = job.out.read_text(encoding="utf-8", errors="surrogateescape")
    options = _export_options(job.request)
    attempt(outcome, lambda: prove_deploy(file, weights, options, text), job.target, "the result")


def to_binary(job: Conversion) -> Outcome:
    """A prototxt as a binary net without weights."""
    from caffeio.converters import prototxt

    dialect, outcome = job.request.to_dialect or job.request.dialect, Outcome()
    if job.target_format == "caffemodel":
        if not job.request.untrained:
            net = job.sources[0]
            raise UnsupportedError(
                f"{net} holds no weights, so {job.target} would not either. Meant is probably "
                f"`caffeio convert {net} {job.target} OUTPUT` (weights that are there) or "
                f"`caffeio convert {net} WEIGHTS {job.target}`; --untrained writes the net alone"
            )
        outcome.warnings.append(f"{UNTRAINED}: the file has layers, but no weights")
    lost = prototxt.write_binary(job.sources[0], job.out, dialect=dialect)
    _report_lost(outcome, lost, job)
    return outcome


def to_onnx(job: Conversion) -> Outcome:
    """An ONNX model, verified before it takes its place."""
    from caffeio.converters.convert.to_onnx import to_onnx

    weights = read_weights(job.sources[-1], job.kinds[-1]) if job.kinds[-1] in FORMATS else None
    return to_onnx(job, weights, _export_options(job.request))


def to_module(job: Conversion) -> Outcome:
    """A PyTorch module as a Python file beside its weights, verified by running it."""
    from caffeio.converters.torch_code.write import check_module, write_module

    options, weights = _use_options(job)
    written, notes = write_module(job.sources[0], weights, job.out, options, job.target)
    outcome = Outcome(warnings=notes)
    if not job.request.no_verify:

        def run() -> Checked:
            return check_module(job.sources[0], weights, job.out, written, options)

        attempt(outcome, run, job.target, "the module", strict=True)
    return outcome


def to_program(job: Conversion) -> Outcome:
    """A torch.export program, verified by running it."""
    from caffeio.converters.torch_code.write import check_program, write_program

    options, weights = _use_options(job)
    *ends, notes = write_program(job.sources[0], weights, job.out, options)
    outcome = Outcome(warnings=notes)
    if not job.request.no_verify:

        def run() -> Checked:
            return check_program(job.sources[0], weights, job.out, (ends[0], ends[1]), options)

        attempt(outcome, run, job.target, "the program", strict=True)
    return outcome


def _use_options(job: Conversion) -> tuple[DeployOptions, Weights | None]:
    """How the net is built for use, and its weights if there are any."""
    weights = read_weights(job.sources[-1], job.kinds[-1]) if job.kinds[-1] in FORMATS else None
    return replace(_export_options(job.request), need_weights=True), weights


def _export_options(request: Request) -> DeployOptions:
    from caffeio.converters.deploy.deploy_net import DeployOptions

    profile = get_profile(request.caffe) if request.caffe else None
    return DeployOptions(
        input_shapes=request.input_shape,
        stages=request.stage,
        level=request.level,
        dialect=request.dialect,
        profile=profile,
        outputs=request.output_blob,
        inputs=request.input_blob,
        untrained=request.untrained,
    )


def to_caffe(job: Conversion) -> Outcome:
    """An ONNX model or a torch.export program as a caffemodel and its prototxt."""
    from caffeio.converters.from_onnx.conversion import to_caffe

    return to_caffe(job)


def mean_to_npy(job: Conversion) -> Outcome:
    """A mean image as a NumPy array."""
    import numpy as np

    from caffeio.proto.weights.blobproto import read_blobproto

    mean = read_blobproto(job.sources[0])
    with atomic_write(job.out, error=CaffeIOError) as file:
        np.save(file, mean, allow_pickle=False)
    return Outcome([f"an array of shape {mean.shape}"])


def npy_to_mean(job: Conversion) -> Outcome:
    """A NumPy array as a mean image."""
    import numpy as np

    from caffeio.proto.weights.blobproto import write_blobproto

    try:
        with open_regular(job.sources[0]) as file:
            wanted = promised_bytes(file, str(job.sources[0]))
            size = os.fstat(file.fileno()).st_size
        if wanted is not None and wanted > size:
            raise ValueError(f"its header promises {wanted} bytes, the file has {size}")
        mean = np.load(job.sources[0], allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CaffeIOError(f"is no .npy: {error}", where=str(job.sources[0])) from None
    write_blobproto(job.out, mean)
    return Outcome()
