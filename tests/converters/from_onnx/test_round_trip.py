"""Caffe -> ONNX -> Caffe: the same numbers, in layers that a Caffe user recognises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffeio.converters.deploy.deploy_net import DeployOptions, load_deploy_net
from caffeio.converters.from_onnx.compile import Compiled, compile_model
from caffeio.converters.from_onnx.verify import verify
from caffeio.converters.onnx.build import build
from caffeio.converters.onnx.choices import Choices
from caffeio.converters.onnx.export import finish, to_model
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.net.load import load_net
from caffeio.net.net import Net
from caffeio.proto.weights.load import load_weights
from tests.converters.from_onnx.helpers import graph_of
from tests.converters.test_onnx import CASES as LAYER_CASES
from tests.converters.test_onnx import case_net
from tests.corpus import smaller
from tests.paths import GOLDEN, ROOT, SHARED, needs_shared, nightly

pytest.importorskip("onnxruntime")
onnx: Any = pytest.importorskip("onnx")
NEAR = 1e-5
# Worse conditioned: on the ramp load_net's and onnxruntime's own float32 are both 1e-5 of the
# largest value from float64.
CONDITIONED = {"waifu_upresnet10": 1e-4}
NOTHING = {"Dropout", "Split", "Silence", "Input"}  # no work of their own in TEST
# Types that ONNX says in several operators, and that come back as those: layers that they may take
SEVERAL = {
    "Crop": 4, "Embed": 2, "Split": 4, "Dropout": 2, "Convolution/two_bottoms": 2,
}  # fmt: skip
# Why a golden layer case does not come back
NOT_BACK = {
    "Parameter/basic": "all of it is constant",
}  # fmt: skip
RANDOM = {"Dropout/train_scaling"}
CASES = [case for case in LAYER_CASES if case.id not in RANDOM]
NETS = [
    *sorted((GOLDEN / "nets").glob("*/net.prototxt")),
    *sorted((ROOT / "tests/nets").glob("*.prototxt")),
]
CORPUS = SHARED / "corpus" / "caffemodels"


def there_and_back(net: Net, target: str = "ssd", near: float = NEAR) -> Compiled:
    model = to_model(build(net), net)
    back = compile_model(model, target=target)
    report = verify(back)
    assert report.worst <= near, report
    return back


def counts(kinds: Any) -> Counter[str]:
    return Counter(kind for kind in kinds if kind not in NOTHING)


def of_net(net: Net) -> Counter[str]:
    made = [step for step in net.steps if not step.layer.is_source]
    return counts(step.node.type for step in made)


def of_compiled(back: Compiled) -> Counter[str]:
    return counts(layer.type_name for layer in back.layers)


@pytest.mark.parametrize("case", CASES)
def test_layers(case: Path) -> None:
    name = f"{case.parent.name}/{case.stem}"
    net = case_net(case, dict(np.load(case.with_suffix(".npz"))))
    try:
        model = to_model(build(net), net)
    except UnsupportedError as error:
        pytest.skip(f"no ONNX form: {error.message[:80]}")
    if name in NOT_BACK:
        with pytest.raises(UnsupportedError, match=NOT_BACK[name]):
            compile_model(model, target="bvlc")
        return
    back = compile_model(model, target="bvlc")
    report = verify(back)
    assert report.worst <= NEAR, report
    most = SEVERAL.get(name, SEVERAL.get(case.parent.name, 1))
    assert of_compiled(back).total() <= max(1.2 * of_net(net).total(), most), of_compiled(back)


# One layer of each kind of change that opsets brought: axes that became inputs, Softmax over one
# axis, Clip's bounds, Pad, Slice, Resize, recurrent layers; and by night all of them.
OPSET_CASES = {"Softmax/spatial", "Reduction/sum_axis1_coeff", "Slice/points", "Clip/basic",
               "Pooling/ave_k3s2_pad1", "LSTM/basic", "ArgMax/axis1", "Crop/spatial"}  # fmt: skip


def _opset_cases() -> Iterator[Any]:
    for case in CASES:
        [path] = case.values
        name = f"{path.parent.name}/{path.stem}"
        night = () if name in OPSET_CASES else (nightly, pytest.mark.slow)
        if name not in NOT_BACK:
            yield pytest.param(path, id=name, marks=night)


@pytest.mark.parametrize("case", [*_opset_cases()])
def test_every_opset_comes_back_as_the_same_layers(case: Path) -> None:
    found = {}
    for opset in range(9, min(24, onnx.defs.onnx_opset_version()) + 1):
        net = case_net(case, dict(np.load(case.with_suffix(".npz"))))
        try:
            built = build(net)
            finish(built, net, Choices(opset=opset))
        except UnsupportedError as error:
            pytest.skip(f"no ONNX form: {error.message[:80]}")
        model = to_model(built, net)
        assert model.opset_import[0].version == opset
        back = compile_model(model, target="bvlc")
        report = verify(back)
        assert report.worst <= NEAR, (opset, report)
        found[opset] = [layer.type_name for layer in back.layers]
    assert len({str(kinds) for kinds in found.values()}) == 1, found


@pytest.mark.parametrize("path", NETS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_nets(path: Path) -> None:
    weights = path.parent / "weights.caffemodel"
    given = load_weights(weights) if weights.exists() else None
    net, _ = load_deploy_net(path, given, DeployOptions())
    back = there_and_back(net)
    if path.stem == "ssd_like":
        assert of_compiled(back)["DetectionOutput"] == 1
        with pytest.raises(UnsupportedError, match="NonMaxSuppression") as caught:
            there_and_back(net, "bvlc")
        assert caught.value.message.endswith("all of it can be done with --target intel, ssd")
    assert of_compiled(back).total() <= 1.2 * of_net(net).total()


@needs_shared
@pytest.mark.parametrize(
    "name",
    [
        "brocolli_pnet", "c2o_log8", "c2o_scale3", "c2o_scale8", "eth_lenet", "hyperlpr_char",
        "hyperlpr_finemap", "hyperlpr_finemap_fp16", "mtcnn_det1", "mtcnn_det3", "nv_lenet",
        "rfb320", "yuface_v1", *(pytest.param(n, marks=pytest.mark.slow) for n in (
            "nsfw", "waifu_upconv7", "waifu_upresnet10", "wechat_sr"
        )),
    ],
)  # fmt: skip
def test_public_models(name: str) -> None:
    folder = CORPUS / name
    [prototxt] = folder.glob("*.prototxt")
    [weights] = folder.glob("*.caffemodel")
    options = DeployOptions(input_shapes=smaller(name))
    net, _ = load_deploy_net(prototxt, load_weights(weights), options)
    back = there_and_back(net, near=CONDITIONED.get(name, NEAR))
    assert of_compiled(back).total() <= 1.2 * of_net(net).total(), of_compiled(back)


SEGNET = """
name: "s" layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3
  dim: 12 dim: 16 } } }
layer { name: "c1" type: "Convolution" bottom: "data" top: "c1" convolution_param {
  num_output: 6 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "r1" type: "ReLU" bottom: "c1" top: "c1" }
layer { name: "p1" type: "Pooling" bottom: "c1" top: "p1" top: "m1" pooling_param {
  pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "p2" type: "Pooling" bottom: "p1" top: "p2" top: "m2" pooling_param {
  pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "u2" type: "Upsample" bottom: "p2" bottom: "m2" top: "u2"
  upsample_param { scale: 2 } }
layer { name: "u1" type: "Upsample" bottom: "u2" bottom: "m1" top: "u1"
  upsample_param { scale: 2 } }
layer { name: "d1" type: "Convolution" bottom: "u1" top: "d1" convolution_param {
  num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
"""


def test_places_of_a_pooling_come_back_for_upsample(tmp_path: Path) -> None:
    """SegNet and ENet: a Pooling with a mask, which an Upsample reads."""
    (tmp_path / "segnet.prototxt").write_text(SEGNET)
    net, _ = load_deploy_net(tmp_path / "segnet.prototxt", None, DeployOptions(untrained=True))
    back = there_and_back(net, "nnie")
    assert of_compiled(back) == of_net(net)
    with pytest.raises(UnsupportedError, match="ScatterElements") as caught:
        there_and_back(net, "ssd")  # weiliu89's Caffe has no Upsample
    assert caught.value.message.endswith(
        "all of it can be done with --target nnie, rockchip, sophgo"
    )


def test_a_note_that_is_wrong_is_found_by_the_numbers() -> None:
    """The metadata are believed only as far as the numbers agree."""
    case = next(c.values[0] for c in LAYER_CASES if c.id == "LSTM/basic")
    net = case_net(case, dict(np.load(case.with_suffix(".npz"))))
    model = to_model(build(net), net)
    assert of_compiled(compile_model(model)) == {"LSTM": 1}
    [note] = [item for item in model.metadata_props if item.key.startswith("caffe:layer:")]
    note.value = note.value.replace('"blobs": ["x.', '"blobs": ["nothing.')
    assert of_compiled(compile_model(model))["LSTM"] == 0  # what it names is not there
    other = to_model(build(net), net)
    [note] = [item for item in other.metadata_props if item.key.startswith("caffe:layer:")]
    note.value = note.value.replace("LSTM", "RNN")
    try:
        worst = verify(compile_model(other)).worst
    except CaffeIOError:
        return  # the blobs do not fit
    assert worst > NEAR


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 5), (1, 3)])
@pytest.mark.parametrize("across", ["true", "false"])
@pytest.mark.parametrize("shared", ["true", "false"])
def test_normalize_comes_back(shape: tuple[int, ...], across: str, shared: str) -> None:
    """Its factor has other shapes in ONNX: none, or axes of size 1 for broadcasting."""
    dims = " ".join(f"dim: {n}" for n in shape)
    net = load_net(
        f"""layer {{ name: "i" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}
        layer {{ name: "n" type: "Normalize" bottom: "x" top: "y" norm_param {{
          across_spatial: {across} channel_shared: {shared}
          scale_filler {{ type: "uniform" min: 1 max: 2 }} }} }}""",
        phase="TEST",
    )
    assert list(of_compiled(there_and_back(net))) == ["Normalize"]


@pytest.mark.parametrize("target", ["bvlc", "ncnn"])
def test_a_product_of_a_vector_comes_back(target: str) -> None:
    net = load_net(
        """layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 5 } } }
        layer { name: "p" type: "InnerProduct" bottom: "x" top: "y" inner_product_param {
          num_output: 3 axis: 0 weight_filler { type: "xavier" } } }""",
        phase="TEST",
    )
    back = there_and_back(net, target)
    assert of_compiled(back)["InnerProduct"] == 1
    if target == "bvlc":
        assert of_compiled(back).total() == 1


def test_windows_over_more_axes_than_we_compute_are_refused() -> None:
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"])
    weight = {"w": np.ones((1, 1, 1, 1, 1, 1), np.float32)}
    with pytest.raises(UnsupportedError, match="slides over 4 axes"):
        compile_model(graph_of([node], {"x": [1, 1, 2, 2, 2, 2]}, ["y"], weight))
