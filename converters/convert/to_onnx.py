"""`caffeio convert` to ONNX: what the flags mean, the export, and the comparison after it."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

from caffeio.converters.convert.proof import attempt
from caffeio.converters.deploy.deploy_net import DeployOptions
from caffeio.converters.onnx.choices import Choices
from caffeio.converters.onnx.dynamic import AXES
from caffeio.converters.onnx.export import export_onnx
from caffeio.converters.onnx.pictures import PictureOptions
from caffeio.converters.onnx.verify import check_onnx
from caffeio.converters.request import Conversion, Outcome, Request
from caffeio.converters.verify.check import LIMIT_HALF, Checked
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.proto.io.atomic import atomic_write
from caffeio.proto.io.regular import read_utf8
from caffeio.proto.weights.load import Weights


def choices_of(r: Request) -> Choices:
    """What the flags of the command ask for.

    Raises UnsupportedError for words that mean nothing.
    """
    axes = [axis for text in r.dynamic for axis in text.replace(" ", "").split(",") if axis]
    if odd := [axis for axis in axes if axis not in AXES]:
        raise UnsupportedError(f"--dynamic takes {', '.join(AXES)}, not {odd[0]!r}")
    told = (r.mean, r.scale, r.order, r.size)
    pictures = None
    if r.preprocess or any(value is not None for value in told):
        pictures = PictureOptions(r.mean or "", r.scale, r.order or "bgr", r.size)
    return Choices(
        opset=r.opset,
        fold=r.fold,
        dynamic=frozenset(axes),
        half=r.fp16,
        unroll=r.unroll,
        client=r.client,
        pictures=pictures,
        labels=_labels(r.labels),
    )


def _labels(path: str | None) -> list[str]:
    """Names of classes, one a line."""
    if path is None:
        return []
    names = [line.strip() for line in read_utf8(path).splitlines() if line.strip()]
    if not names:
        raise CaffeIOError("holds no names", where=path)
    return names


def to_onnx(job: Conversion, weights: Weights | None, options: DeployOptions) -> Outcome:
    """Write the model of a job and compare it with the net of the user's files."""
    r, outcome = job.request, Outcome()
    choices = choices_of(r)
    given = vars(replace(options, need_weights=True))
    outcome.warnings = export_onnx(
        job.sources[0],
        weights,
        job.out,
        dynamic_batch=r.dynamic_batch,
        external_data=r.external_data or None,
        choices=choices,
        **given,
    )
    if r.no_verify:
        return outcome

    def run() -> Checked:
        return check_onnx(
            job.sources[0],
            weights,
            job.out,
            pictures=choices.pictures,
            client=choices.client,
            **given,
        )

    who = "OpenCV" if choices.client else "onnxruntime"
    attempt(outcome, run, job.target, who, strict=True, limit=_limit(choices))
    if outcome.checked is not None:
        _note_error(job.out, f"{outcome.checked.worst:.3g} against {who}")
    return outcome


def _limit(choices: Choices) -> float | None:
    return LIMIT_HALF if choices.half else None


def _note_error(path: Path, found: str) -> None:
    """Put the error that was found into the model's metadata."""
    onnx = import_module("onnx")
    model = onnx.load(path, load_external_data=False)
    model.metadata_props.add(key="caffe:verified", value=found)
    with atomic_write(path, error=CaffeIOError) as file:
        file.write(model.SerializeToString())
