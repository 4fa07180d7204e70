"""One operator at a time: as torch exports it, as layers of BVLC's Caffe 1.0, the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from caffeio.converters.from_onnx.compile import compile_model
from caffeio.errors import UnsupportedError
from tests.converters.from_onnx.helpers import (
    Of,
    compiled,
    export,
    graph_of,
    kinds,
    onnx,
    report_of,
)

pytest.importorskip("onnxruntime")
RUNTIME = tuple(map(int, version("onnxruntime").split(".")[:2]))

X = torch.randn(1, 8, 9, 11, generator=torch.Generator().manual_seed(1))


def relu_over_a_view(x: torch.Tensor) -> torch.Tensor:
    """Caffe's Reshape shares its bottom's memory: a ReLU in place would change both."""
    view = x.view(x.shape[0], 4, 2, 9, 11)
    return F.relu(view) + view


# name: the function, and how many layers beside the Input it may take at most
FUNCTIONS: dict[str, tuple[Callable[[torch.Tensor], Any], int]] = {
    "relu6": (F.relu6, 4),
    "hardsigmoid": (F.hardsigmoid, 5),
    "hardswish": (F.hardswish, 6),
    "silu": (F.silu, 2),
    "mish": (F.mish, 3),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), 8),
    "gelu": (F.gelu, 14),
    "gelu_large": (lambda x: F.gelu(40 * x), 15),
    "gelu_apart": (lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)), 14),
    "gelu_apart_too": (lambda x: x * (0.5 * (torch.erf(x * 0.5**0.5) + 1)), 14),
    "sign": (torch.sign, 4),
    "where_line": (lambda x: torch.where(x > 0.2, x, 0.1 * x), 7),
    "where_number": (lambda x: torch.where(x <= 0.2, x, torch.full_like(x, 7.0)), 7),
    "where_zero": (lambda x: torch.where(x >= 0.5, x, torch.zeros_like(x)), 4),
    "where_numbers": (lambda x: torch.where(x < 0.5, 2.0, -3.0), 7),
    "where_wide": (lambda x: torch.where(x > 0, x, x.mean(1, keepdim=True)), 12),
    "masks": (
        lambda x: ((x > 0) & (x < 1) | ~(x > -1) ^ (x > 2)).float() * x, 20
    ),
    "equal": (lambda x: (x.sign() == 1).float() + x, 12),
    "hardshrink": (F.hardshrink, 12),
    "softshrink": (F.softshrink, 16),
    "elu": (lambda x: F.elu(x, 1.3), 1),
    "selu": (F.selu, 2),
    "celu": (lambda x: F.celu(x, 0.7), 3),
    "softsign": (F.softsign, 3),
    "softplus": (F.softplus, 1),
    "leaky_relu": (F.leaky_relu, 1),
    "clamp": (lambda x: x.clamp(-0.5, 2e3), 6),
    "clamp_low": (lambda x: x.clamp(min=0.3), 3),
    "clamp_high": (lambda x: x.clamp(max=0.3), 3),
    "clamp_half": (lambda x: x.clamp(-65504, 65504), 6),
    "clamp_far_low": (lambda x: x.clamp(min=-1e4), 3),
    "threshold": (lambda x: (x > 0.3).float(), 1),
    "affine": (lambda x: 3 * x + 1, 1),
    "power": (lambda x: (x.abs() + 0.1).pow(0.3), 2),
    "quotient": (lambda x: x / (x.abs() + 1), 3),
    "maximum": (lambda x: torch.maximum(x, -0.5 * x), 2),
    "minimum": (lambda x: torch.minimum(x, 0.5 * x), 4),
    "square": (lambda x: x * x, 1),
    "mean_channels": (lambda x: x.mean(1), 3),
    "mean_map": (lambda x: x.mean((2, 3)), 2),
    "sum_rows": (lambda x: x.sum(2, keepdim=True), 2),
    "max_channels": (lambda x: x.amax(1, keepdim=True), 3),
    "min_two_axes": (lambda x: x.amin((1, 3)), 7),
    "norm": (lambda x: x.norm(dim=1, keepdim=True), 5),
    "normalize": (lambda x: F.normalize(x, dim=1), 11),
    "softmax": (lambda x: F.softmax(x, 3), 1),
    "log_softmax": (lambda x: F.log_softmax(x, 1), 2),
    "logsumexp": (lambda x: torch.logsumexp(99 * x, 1), 14),
    "logsumexp_map": (lambda x: torch.logsumexp(99 * x, (2, 3)), 11),
    "log_of_line": (lambda x: 0.5 * torch.log(3 * x * x + 2), 4),
    "argmax": (lambda x: x.argmax(1), 2),
    "squeeze_excite": (lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)), 4),
    "add_map": (lambda x: x + x.mean(1, keepdim=True), 5),
    "minus_mean": (lambda x: x - x.mean((2, 3), keepdim=True), 4),
    "channel_shuffle": (
        lambda x: x.view(x.shape[0], 2, 4, 9, 11).transpose(1, 2).reshape(x.shape), 1
    ),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), 1),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x[:, :, :8, :10], 2), 10),
    "nchw_to_nhwc": (lambda x: x.permute(0, 2, 3, 1), 4),
    "transpose_flat": (lambda x: x.flatten(2).transpose(1, 2), 4),
    "steps_first": (lambda x: x.mean(2).permute(2, 0, 1), 5),
    "slice": (lambda x: x[:, 2:5], 2),
    "slice_step": (lambda x: x[:, :, 1:, ::2], 3),
    "chunks": (lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), 2),
    "flip": (lambda x: x.flip(1), 2),
    "roll": (lambda x: torch.roll(x, 2, 3), 2),
    "pad_reflect": (lambda x: F.pad(x, (2, 1, 1, 3), mode="reflect"), 4),
    "pad_edge": (lambda x: F.pad(x, (2, 1, 1, 3), mode="replicate"), 4),
    "pad_zeros": (lambda x: F.pad(x, (2, 1, 0, 3)), 1),
    "pad_channels": (lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)), 1),
    "pad_number": (lambda x: F.pad(x, (2, 1, 0, 3), value=1.5), 3),
    "nearest_2": (lambda x: F.interpolate(x, scale_factor=2), 1),
    "nearest_to_size": (lambda x: F.interpolate(x, size=(13, 17)), 4),
    "bilinear_2": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), 5),
    "bilinear_3": (lambda x: F.interpolate(x, scale_factor=3, mode="bilinear"), 5),
    "bilinear_corners": (
        lambda x: F.interpolate(x, size=(20, 25), mode="bilinear", align_corners=True), 4
    ),
    "bicubic": (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), 4),
    "bilinear_half": (lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear"), 4),
    "max_pool_floor": (lambda x: F.max_pool2d(x, 2), 5),
    "max_pool_pad": (lambda x: F.max_pool2d(x, 3, 2, 1), 1),
    "max_pool_ceil": (lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), 1),
    "max_pool_rows": (lambda x: F.max_pool2d(x, (1, 3), (1, 2), (0, 1)), 1),
    "avg_pool_pad": (lambda x: F.avg_pool2d(x, 3, 2, 1), 1),
    "avg_pool_no_pad_count": (lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), 2),
    "avg_pool_ceil": (lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), 1),
    "avg_pool_ceil_no_pad_count": (
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False), 2
    ),
    "adaptive": (lambda x: F.adaptive_avg_pool2d(x, (3, 11)), 1),
    "local_response_norm": (lambda x: F.local_response_norm(x, 3), 12),
    "expand": (lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 5, 6), 3),
    "stack": (lambda x: torch.stack([x, x * 2], 2), 4),
    "glu": (lambda x: F.glu(x, 1), 3),
    "cumsum_channels": (lambda x: x.cumsum(1), 1),
    "cumsum_rows": (lambda x: x.cumsum(2), 3),
    "cumsum_columns": (lambda x: x.cumsum(3), 1),
    "triangle": (lambda x: x.tril() + x.triu(2), 3),
    "mean_of_six_axes": (lambda x: x.view(x.shape[0], 2, 2, 2, 9, 11).mean((3, 5)), 6),
    "product": (lambda x: x.prod(1), 3),
    "two_to_the_x": (lambda x: 2**x, 1),
    "above_another": (lambda x: (x > x.mean(1, keepdim=True)).float(), 7),
    "above_numbers": (lambda x: (torch.linspace(-1, 1, 11) >= x).float(), 5),
    "same_as_another": (lambda x: (x.sign() == x.flip(3).sign()).float(), 16),
    "pad_exactly": (lambda x: F.pad(x, (1, 2, 0, 3), value=-1e9), 2),
    "pad_channels_and_rows": (lambda x: F.pad(x, (1, 0, 0, 2, 2, 1), value=-0.3), 4),
    "pad_max_pool": (
        lambda x: F.max_pool2d(F.pad(x, (0, 1, 2, 0), value=-float("inf")), 3, 2), 6
    ),
    "several_outputs": (lambda x: (x, x * 2, F.relu(x)), 3),
    "relu_over_a_view": (relu_over_a_view, 3),
}  # fmt: skip
MODULES: dict[str, tuple[nn.Module, int]] = {
    "conv": (nn.Conv2d(8, 6, 3, 2, 1, groups=2, dilation=2), 1),
    "depthwise": (nn.Conv2d(8, 8, (3, 5), (2, 1), (1, 2), groups=8, bias=False), 1),
    "conv_same": (nn.Conv2d(8, 4, 4, padding="same"), 1),
    "deconv_output_padding": (nn.ConvTranspose2d(8, 6, 3, 2, 1, 1), 1),
    "deconv_more_padding": (nn.ConvTranspose2d(8, 6, 4, 3, 0, 2, groups=2), 1),
    "deconv_dilated_groups": (
        nn.ConvTranspose2d(8, 12, (3, 2), (2, 3), (1, 0), (1, 2), 4, dilation=(2, 1)),
        3,
    ),
    "deconv": (nn.ConvTranspose2d(8, 6, 2, 2), 1),
    "prelu": (nn.PReLU(8), 1),
    "prelu_shared": (nn.PReLU(), 1),
    "batch_norm": (nn.BatchNorm2d(8), 2),
    "instance_norm": (nn.InstanceNorm2d(8, affine=True), 4),
    "lrn": (nn.LocalResponseNorm(5, 2e-2, 0.7, 1.5), 1),
    "group_norm": (nn.GroupNorm(2, 8), 4),
    "layer_norm": (nn.LayerNorm(11), 4),
    "linear": (nn.Linear(11, 5), 1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    function, most = FUNCTIONS[name]
    net = compiled(export(Of(lambda m, x: function(x)), X))
    assert len(net.layers) - 1 <= most, kinds(net)


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str) -> None:
    module, most = MODULES[name]
    generator = torch.Generator().manual_seed(0)
    for tensor in module.parameters():
        nn.init.normal_(tensor, generator=generator)
    if isinstance(module, nn.BatchNorm2d):
        assert module.running_mean is not None and module.running_var is not None
        module.running_mean.normal_()
        module.running_var.uniform_(0.5, 2)
    net = compiled(export(module, X))
    assert len(net.layers) - 1 <= most, kinds(net)


def test_small_numbers_keep_their_digits_under_a_cap() -> None:
    """6 - (6 - x) would round them to multiples of 5e-7."""
    compiled(export(nn.ReLU6(), X * 1e-6), near=0)


EINSUMS = {
    "nchw,dc->ndhw": (5, 8), "nchw,wk->nchk": (11, 3), "nchw,hk->nckw": (9, 3), "nchw,c->nhw": (8,),
    "nchw,c->nchw": (8,), "nchw,chw->n": (8, 9, 11), "nchw,hwk->nkc": (9, 11, 3), "nchw->nwc": None,
    "nchw,dw->cndh": (2, 11), "nchw,kc": (3, 8),
}  # fmt: skip


@pytest.mark.parametrize("equation", EINSUMS)
def test_einsum_with_a_constant(equation: str) -> None:
    shape = EINSUMS[equation]
    generator = torch.Generator().manual_seed(0)
    others = [] if shape is None else [torch.randn(*shape, generator=generator)]
    model = export(Of(lambda m, x: torch.einsum(equation, x, *others)), X)
    if shape is None and RUNTIME < (1, 25):  # it cannot sum one operand up and turn it
        with pytest.raises(UnsupportedError, match=r"the model does not run: .* Einsum node"):
            compile_model(model)
        return
    compiled(model)


V = torch.randn(1, 2, 6, 7, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("module", "most"),
    [
        (nn.MaxPool2d(3, 1, dilation=2), 14),
        (nn.MaxPool2d(3, 2, 1, dilation=2), 20),
        (nn.MaxPool2d((2, 3), (1, 3), 1, dilation=(3, 2)), 20),
        (nn.MaxPool2d(3, 2, 1, dilation=2, ceil_mode=True), 20),
        (nn.MaxPool2d((1, 2), 1, dilation=(1, 2)), 6),
    ],
)
def test_dilated_windows_hold_no_padding(module: nn.Module, most: int) -> None:
    net = compiled(export(module, X - 5), near=0)  # all below 0: a zero in a window would be seen
    assert len(net.layers) - 1 <= most, kinds(net)


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("window", [(2, 2, 0), (3, 2, 1), ((1, 3, 2), (1, 2, 2), (0, 1, 1))])
@pytest.mark.parametrize("kind", ["max", "average", "average without pads"])
def test_pooling_over_three_axes(kind: str, window: tuple[Any, ...], ceil: bool) -> None:
    if kind == "max":
        module: nn.Module = nn.MaxPool3d(*window, ceil_mode=ceil)
    else:
        module = nn.AvgPool3d(*window, ceil_mode=ceil, count_include_pad=kind == "average")
    net = compiled(export(module, V))
    assert len(net.layers) - 1 <= 11, kinds(net)


@pytest.mark.parametrize(
    ("opset", "inputs", "attributes"),
    [
        (10, ["x", "scales"], {"mode": "nearest"}),
        (13, ["x", "roi", "", "sizes"],
         {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"}),
        (18, ["x", "", "scales"], {"mode": "linear", "antialias": 1}),
        (18, ["x", "", "two"], {"mode": "linear", "axes": [3, 2]}),
        (13, ["x", "", "", "sizes"], {"mode": "nearest", "nearest_mode": "ceil"}),
    ],
)  # fmt: skip
def test_resize(opset: int, inputs: list[str], attributes: dict[str, Any]) -> None:
    node = onnx.helper.make_node("Resize", inputs, ["y"], **attributes)
    constants = {
        "scales": np.array([1, 1, 0.5, 2], np.float32), "two": np.array([3, 0.5], np.float32),
        "sizes": np.array([1, 3, 4, 9]),
        "roi": np.array([0, 0, 0.2, 0.1, 1, 1, 0.8, 0.9], np.float32),
    }  # fmt: skip
    compiled(graph_of([node], {"x": [1, 3, 6, 7]}, ["y"], constants, opset))


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent(kind: Any, both: bool) -> None:
    cell = kind(6, 5, num_layers=2, bidirectional=both)
    net = compiled(export(Of(lambda m, x: m[0](x)[0], cell), torch.randn(4, 2, 6), dynamic=False))
    if kind is nn.LSTM:
        assert kinds(net).count("LSTM") == (4 if both else 2)


def test_states_of_an_lstm() -> None:
    module = Of(lambda m, x, h, c: m[0](x, (h, c)), nn.LSTM(6, 5))
    inputs = torch.randn(4, 2, 6), torch.randn(1, 2, 5), torch.randn(1, 2, 5)
    compiled(export(module, *inputs, dynamic=False))


def test_an_lstm_where_the_target_cannot_mark_sequences() -> None:
    torch.manual_seed(0)
    module = Of(lambda m, x: m[0](x)[0], nn.LSTM(6, 5, 2, bidirectional=True, batch_first=True))
    net = compiled(export(module, torch.randn(2, 7, 6)), target="sophgo")
    assert "LSTM" not in kinds(net)
    assert kinds(net).count("Sigmoid") == 4 * 7 * 3


@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU])
def test_steps_share_weights_where_a_product_has_axis_1(cell: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = Of(lambda m, x: m[0](x)[0], cell(6, 5))
    net = compiled(export(module, torch.randn(4, 1, 6), dynamic=False), target="nnie")
    shared = [layer for layer in net.layers if layer.param.param]
    assert {layer.type_name for layer in shared} == {"InnerProduct"}
    names = {param.name for layer in shared for param in layer.param.param}
    assert len(names) < len(shared)


def test_batch_first_lstm() -> None:
    cell = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
    compiled(export(Of(lambda m, x: m[0](x)[0], cell), torch.randn(1, 4, 6)))


def test_one_dimension() -> None:
    net = nn.Sequential(
        nn.Conv1d(8, 4, 3, 2, 1), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 4, 3, padding=1)
    )
    compiled(export(net, torch.randn(1, 8, 20)))


def test_embedding() -> None:
    net = compiled(export(nn.Embedding(10, 5), torch.randint(0, 10, (1, 4))))
    assert kinds(net) == ["Input", "Embed"]


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 20])
def test_opsets(opset: int) -> None:
    """Attributes that became inputs are read in both forms."""
    module = Of(
        lambda m, x: F.interpolate(
            F.pad(x.clamp(0, 4).mean(1, keepdim=True)[:, :, 1:5], (1, 1, 0, 0)), scale_factor=2
        ).squeeze(1).unsqueeze(1)
    )  # fmt: skip
    compiled(export(module, X, opset=opset))


def test_a_larger_batch_is_compared() -> None:
    runs = report_of(export(nn.Conv2d(8, 4, 3), X)).runs
    assert any("batch 3" in run for run in runs)


def test_statistics_of_the_input_do_not_mix_examples() -> None:
    report = report_of(export(nn.InstanceNorm2d(8), X))
    assert any("does not fit a batch" in note for note in report.notes)


def test_a_transposed_convolution_over_three_axes() -> None:
    torch.manual_seed(0)
    module = nn.ConvTranspose3d(2, 4, (3, 2, 2), (2, 1, 2), (1, 0, 1), (1, 0, 1), groups=2)
    assert kinds(compiled(export(module, V))) == ["Input", "Deconvolution"]


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_steps_that_may_be_any_number_are_fixed(kind: Any) -> None:
    """The axis that is left open may be that of time: then the net is for these steps only."""
    torch.manual_seed(0)
    net = compiled(export(Of(lambda m, x: m[0](x)[0], kind(3, 4)), torch.randn(2, 5, 3)))
    assert net.any_batch is False


def test_rms_normalization() -> None:
    nodes = [onnx.helper.make_node("RMSNormalization", ["x", "g"], ["y"], axis=-2)]
    gains = {"g": np.linspace(0.5, 2, 24, dtype=np.float32).reshape(3, 8)}
    model = graph_of(nodes, {"x": ["N", 4, 3, 8]}, ["y"], gains, opset=23)
    if RUNTIME < (1, 23):
        with pytest.raises(
            UnsupportedError, match=r"of opset 23, onnxruntime [\d.]+ runs .* to 22"
        ):
            compile_model(model)
        return
    compiled(model)


def test_constant_places() -> None:
    """As torch's newer exporter writes the nearest-exact Resize."""
    places = np.stack(np.meshgrid([0, 2, -1], [3, 3, 1], indexing="ij"), 2)
    nodes = [
        onnx.helper.make_node("Transpose", ["x"], ["t"], perm=[2, 3, 0, 1]),
        onnx.helper.make_node("GatherND", ["t", "at"], ["g"]),
        onnx.helper.make_node("Transpose", ["g"], ["y"], perm=[2, 3, 0, 1]),
    ]
    net = compiled(graph_of(nodes, {"x": ["N", 2, 4, 5]}, ["y"], {"at": places}), near=0)
    assert net.any_batch


@pytest.mark.parametrize(("target", "layers"), [("ssd", ["Input", "Normalize"]), ("bvlc-1.0", 6)])
def test_ssds_normalize(target: str, layers: Any) -> None:
    node = onnx.helper.make_node
    nodes = [
        node("ReduceSumSquare", ["x"], ["s"], axes=[1], keepdims=1),
        node("Add", ["s", "eps"], ["a"]),
        node("Sqrt", ["a"], ["r"]),
        node("Div", ["x", "r"], ["d"]),
        node("Mul", ["d", "g"], ["y"]),
    ]
    constants = {
        "eps": np.array(1e-10, np.float32),
        "g": np.linspace(1, 9, 4, dtype=np.float32).reshape(1, 4, 1, 1),
    }
    net = compiled(graph_of(nodes, {"x": ["N", 4, 3, 5]}, ["y"], constants), target=target)
    assert layers in (kinds(net), len(net.layers))


@pytest.mark.parametrize("factor", [1e-3, 0.01, 0.3, 20.0, 1e4])
def test_a_factor_of_a_logarithm(factor: float) -> None:
    """A base says it only where float32 has that base, and enough digits of it."""
    net = compiled(export(Of(lambda _, x: factor * torch.log(x * x + 1)), X), near=2e-6)
    assert ("Power" in kinds(net)[3:]) is (factor != 0.3)


def centred(power: float) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    def function(_: Any, x: torch.Tensor) -> torch.Tensor:
        rest = x - x.mean((2, 3), keepdim=True)
        return rest / (rest.pow(power).mean((2, 3), keepdim=True).sqrt() + 1e-3)

    return function


def around(alpha: Any) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    def function(_: Any, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + F.avg_pool2d(x * x, 3, 1, 1) * alpha) ** -0.75

    return function


@pytest.mark.parametrize(
    ("function", "kind", "whole"),
    [
        (centred(2.0), "MVN", True),
        (centred(4.0), "MVN", False),  # no square
        (around(0.5), "LRN", True),
        (around(torch.arange(1.0, 9).reshape(8, 1, 1)), "LRN", False),  # a factor a channel
    ],
)
def test_what_is_nearly_a_layer_is_none(function: Any, kind: str, whole: bool) -> None:
    found = kinds(compiled(export(Of(function), X)))
    assert (found == ["Input", kind]) is whole
