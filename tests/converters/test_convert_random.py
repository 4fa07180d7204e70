"""Random nets: the ONNX model computes what load_net does, or there is an error, never less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import caffeio
from caffeio.cli.main import main
from caffeio.converters.onnx.export import export_onnx
from caffeio.converters.onnx.verify import check_onnx
from caffeio.errors import CaffeIOError
from caffeio.proto.files import read_net
from caffeio.proto.weights.load import write_caffemodel
from tests.fuzz.golden_nets import cases_of
from tests.paths import NIGHT

ort = pytest.importorskip("onnxruntime")
FILLERS = ["", 'FILLER { type: "constant" value: 1.5 }', "FILLER { value: -0.75 }"]
KINDS = ["conv", "bn", "scale", "bias", "relu", "prelu", "pool", "lrn", "power", "dropout", "fork"]


@st.composite
def layers(draw: Any, index: int) -> str:
    """A layer that reads the blob of the layer before, some in place, with fields that matter."""
    kind = draw(st.sampled_from(KINDS))
    bottom = f"b{index}"
    top = bottom if kind in ("bn", "scale", "relu") and draw(st.booleans()) else f"b{index + 1}"
    fill = draw(st.sampled_from(FILLERS))
    head = f'layer {{ name: "{kind}{index}" bottom: "{bottom}" top: "{top}" '
    flags = draw(st.sampled_from(["", "use_global_stats: false", "use_global_stats: true"]))
    bias = draw(st.sampled_from(["true", "false"]))
    size = draw(st.integers(1, 3))
    body = {
        "conv": f'type: "Convolution" convolution_param {{ num_output: 4 kernel_size: {size}'
        f" bias_term: {bias} {fill.replace('FILLER', 'weight_filler')} }}",
        "bn": f'type: "BatchNorm" batch_norm_param {{ {flags} eps: 0.01 }}',
        "scale": f'type: "Scale" scale_param {{ bias_term: {bias} '
        f"{fill.replace('FILLER', 'filler')} }}",
        "bias": f'type: "Bias" bias_param {{ {fill.replace("FILLER", "filler")} }}',
        "relu": f'type: "ReLU" relu_param {{ negative_slope: {size - 1} }}',
        "prelu": f'type: "PReLU" prelu_param {{ {fill.replace("FILLER", "filler")} }}',
        "pool": f'type: "Pooling" pooling_param {{ pool: {draw(st.sampled_from(["MAX", "AVE"]))}'
        f" kernel_size: {size} stride: {draw(st.integers(1, 2))} pad: {size // 2} }}",
        "lrn": 'type: "LRN" lrn_param { local_size: 3 alpha: 0.5 }',
        "power": f'type: "Power" power_param {{ scale: {size} shift: 0.5 }}',
        "dropout": 'type: "Dropout"',
        "fork": 'type: "Split"',
    }[kind]
    if top == bottom:
        return f"{head}{body} }}"
    return f"{head}{body} }}"


@st.composite
def nets(draw: Any) -> str:
    """A chain of layers behind an input."""
    dims = "dim: 2 dim: 4 dim: 7 dim: 6"
    text = f'layer {{ name: "in" type: "Input" top: "b0" input_param {{ shape {{ {dims} }} }} }}\n'
    at = 0
    for _ in range(draw(st.integers(1, 6))):
        line = draw(layers(at))
        at += f'top: "b{at + 1}"' in line
        text += line + "\n"
    return text


@given(text=nets(), lost=st.sets(st.integers(0, 6)), seed=st.integers(0, 9))
@settings(
    max_examples=60 if NIGHT else 30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_the_same_or_an_error(text: str, lost: set[int], seed: int, tmp_path: Path) -> None:
    """Some layers have no weights in the file: fillers count, or it is refused."""
    net_path, weights, out = (tmp_path / n for n in ("n.prototxt", "w.caffemodel", "m.onnx"))
    net_path.write_text(text)
    try:
        net = caffeio.load_net(net_path)
    except CaffeIOError:
        return  # Caffe would refuse it, too
    rng = np.random.default_rng(seed)
    names = [name for i, name in enumerate(net.params) if i not in lost]
    blobs = {
        name: [rng.uniform(0.3, 1.2, b.shape).astype(np.float32) for b in net.params[name]]
        for name in names
    }
    file = read_net(net_path)
    write_caffemodel(weights, file.message, blobs, dialect=file.dialect)
    kept = [x for x in file.message.layer if x.name in blobs or x.name not in net.params]
    del file.message.layer[:]
    file.message.layer.extend(kept)
    write_caffemodel(weights, file.message, blobs, dialect=file.dialect)
    args = ["convert", str(net_path), str(weights), str(out), "--force"]
    result = CliRunner().invoke(main, args)
    assert "Traceback" not in result.output
    if result.exit_code:
        assert "layer '" in result.stderr or "no output" in result.stderr, result.output
        return
    reference = caffeio.load_net(net_path, weights)
    x = rng.standard_normal((2, 4, 7, 6)).astype(np.float32)
    with torch.no_grad():
        wanted = reference({"b0": torch.from_numpy(x)})
    session = ort.InferenceSession(out, providers=["CPUExecutionProvider"])
    fed = {item.name: x for item in session.get_inputs()}
    props = session.get_modelmeta().custom_metadata_map  # an input that is changed in place
    blobs_of = [props.get(f"blob:{o.name}", o.name) for o in session.get_outputs()]
    found = dict(zip(blobs_of, session.run(None, fed), strict=True))
    assert set(found) <= set(wanted) and found
    for name, value in found.items():
        scale = max(float(wanted[name].abs().max()), 1e-3)
        assert np.abs(value - wanted[name].numpy()).max() <= 2e-5 * scale
    for name in net.params:
        if name not in blobs:
            assert f"layer {name!r} is not in the weights" in result.stderr


def _cases() -> list[Any]:
    cases = [*cases_of("nets")[::12], *cases_of("inplace")[::12]]
    return [pytest.param(case["text"], id=str(case["seed"])) for case in cases]


@pytest.mark.parametrize("text", _cases())
def test_nets_that_real_caffe_ran(text: str, tmp_path: Path) -> None:
    try:
        export_onnx(text, None, tmp_path / "m.onnx")
    except CaffeIOError:
        return
    try:
        found = check_onnx(text, None, tmp_path / "m.onnx")
    except CaffeIOError:
        return
    for row in found.rows:
        rounding = max(1e-4, 20 * (row.rounding or 0))
        assert row.relative <= rounding or row.absolute <= 1e-7, row
