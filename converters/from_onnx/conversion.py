"""`caffeio convert model.onnx out.caffemodel`: what the command does with these formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from caffeio.converters.from_onnx.compile import DEFAULT_TARGET, compile_model
from caffeio.converters.from_onnx.load import load_model
from caffeio.converters.from_onnx.verify import check, verify
from caffeio.converters.from_onnx.write import (
    made_here,
    prototxt_beside,
    refuse_size,
    unverified,
    write_files,
)
from caffeio.errors import CaffeIOError

if TYPE_CHECKING:
    from caffeio.converters.request import Conversion, Outcome


def to_caffe(job: Conversion) -> Outcome:
    """A caffemodel and its prototxt, verified before they take their places."""
    from caffeio.converters.request import Outcome

    r, source = job.request, job.sources[0]
    prototxt = _prototxt_of(job)
    compiled = compile_model(
        load_model(source),
        target=r.target or DEFAULT_TARGET,
        input_shapes=r.input_shape,
        outputs=r.output_blob,
        where=str(source),
    )
    hdf5 = job.target_format == "h5"
    if not hdf5:
        refuse_size(compiled, str(job.target))
    outcome = Outcome(warnings=[*compiled.notes, *unverified(compiled)])
    if r.no_verify:
        outcome.warnings.append("NOT COMPARED with the model: --no-verify")
    else:
        report = verify(compiled)
        check(report, str(job.target))
        outcome.checked = report.checked()
        outcome.messages += report.lines()
        outcome.warnings += report.notes
    beside = prototxt.parent.resolve() == job.target.parent.resolve()
    written = job.out.parent / prototxt.name if beside else prototxt
    outcome.warnings += write_files(compiled, job.out, written, source.name, hdf5=hdf5)
    outcome.messages.append(
        f"{len(compiled.layers)} layers for {compiled.target.name}, in {prototxt}"
    )
    return outcome


def _prototxt_of(job: Conversion) -> Path:
    """Where the prototxt goes: as told, or beside the caffemodel; no other file is replaced."""
    if not job.request.prototxt and not job.target.suffix:
        raise CaffeIOError("say where the prototxt goes: --prototxt PATH", where=str(job.target))
    told = job.request.prototxt
    prototxt = Path(told) if told else prototxt_beside(job.target)
    if prototxt.resolve() == job.target.resolve():
        raise CaffeIOError("the prototxt and the caffemodel have one name", where=str(job.target))
    job.own = made_here(prototxt)
    if prototxt.exists() and not (job.own or job.request.force):
        raise CaffeIOError(
            "is there already, and not by `caffeio convert`: name another file with --prototxt "
            "(--force replaces it)",
            where=str(prototxt),
        )
    if job.target.exists() and not (job.own or job.request.force):
        raise CaffeIOError(
            "is there already, and no prototxt of `caffeio convert` beside it: nothing is written "
            "(--force replaces it)",
            where=str(job.target),
        )
    return prototxt
