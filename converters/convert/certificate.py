"""`caffeio convert --certificate FILE`: the comparison layer by layer that one hands over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from caffeio._json import to_json
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.proto.io.atomic import atomic_write

if TYPE_CHECKING:
    from caffeio.converters.request import Conversion, Outcome
    from caffeio.converters.verify.sides import Files


def write_certificate(job: Conversion, outcome: Outcome) -> None:
    """Compare the user's files with the result, layer by layer, and write that as HTML or JSON.

    Raises UnsupportedError if one of them cannot be run.
    """
    from caffeio.converters.deploy.deploy_net import DeployOptions
    from caffeio.converters.report import html
    from caffeio.converters.verify.check import LIMIT, LIMIT_HALF
    from caffeio.converters.verify.report import compare
    from caffeio.converters.verify.sides import open_sides

    r = job.request
    assert r.certificate is not None
    place = Path(r.certificate)
    if place.suffix not in (".html", ".json"):
        raise UnsupportedError("a certificate is .html or .json", where=str(place))
    options = DeployOptions(
        input_shapes=r.input_shape,
        stages=r.stage,
        level=r.level,
        dialect=r.dialect,
        profile=r.caffe,
        outputs=r.output_blob,
        untrained=True,
    )
    sides = open_sides(_given(job), _made(job), options, replace(options, dialect=r.to_dialect))
    limit = LIMIT_HALF if r.fp16 else LIMIT
    found, report = compare(*sides, options, tolerance=limit)
    report.title = f"Certificate: {job.target.name} computes what its source does"
    if not found.same:
        report.title = f"No certificate: {job.target.name} computes something else"
    page = html.render(report) if place.suffix == ".html" else to_json(report.data, indent=2)
    page = page.replace(str(job.out), str(job.target))
    with atomic_write(place, error=CaffeIOError) as file:
        file.write(page.encode())
    outcome.messages.append(f"certificate: {place}")


def _given(job: Conversion) -> Files:
    from caffeio.converters.verify.sides import Files

    if job.kinds[0] in ("onnx", "pt2"):
        return Files(whole=job.sources[0])
    if len(job.sources) == 2:
        return Files(job.sources[0], job.sources[1])
    if job.kinds[0] == "prototxt":
        return Files(net=job.sources[0])
    return Files(weights=job.sources[0])


def _made(job: Conversion) -> Files:
    """The result as something that runs: with the user's net, or with the user's weights."""
    from caffeio.converters.verify.sides import Files

    own_net = job.sources[0] if job.kinds[0] == "prototxt" else None
    if job.target_format in ("onnx", "pt2"):
        return Files(whole=job.out)
    if job.target_format == "prototxt":
        weights = None if job.kinds[-1] == "prototxt" else job.sources[-1]
        return Files(job.out, weights)
    if job.target_format == "caffemodel":
        return Files(weights=job.out)
    if job.target_format in ("pt", "safetensors", "npz", "h5") and own_net is not None:
        return Files(own_net, job.out)
    raise UnsupportedError("the result cannot be run, so there is no certificate for it")
