# ruff: noqa: E501  (nets in one line)
"""`caffeio lint --target`: what a target's compiler refuses, before it is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from caffeio.cli.main import main

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 8 dim: 6 dim: 6 } } }\n'
CONV = 'layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 4 kernel_size: 3 } }\n'
GOOD = INPUT + CONV + 'layer { name: "r" type: "ReLU" bottom: "c" top: "c" }\n'


def one(kind: str, fields: str) -> str:
    """A layer behind the input."""
    return f'layer {{ name: "one" type: "{kind}" bottom: "data" top: "one" {fields} }}\n'


SCALE = 'layer { name: "m" type: "Scale" bottom: "data" bottom: "s" top: "m" scale_param { axis: 0 } }\n'
# code, target, net, a piece of the message
CASES = [
    ("CIO701", "bvlc-1.0", GOOD + 'layer { name: "s" type: "Swish" bottom: "c" top: "s" }', "bvlc-1.0 has no layer Swish"),
    ("CIO701", "bvlc-1.0", INPUT + 'layer { name: "p" type: "Pooling" bottom: "data" top: "p" pooling_param { kernel_size: 2 round_mode: FLOOR } }', "knows no pooling_param.round_mode"),
    ("CIO701", "ncnn", INPUT + 'layer { name: "i" type: "InnerProduct" bottom: "data" top: "i" inner_product_param { num_output: 3 axis: 3 } }', "only axis 1 is read"),
    ("CIO701", "sophgo", INPUT + 'layer { name: "b" type: "BatchNorm" bottom: "data" top: "b" batch_norm_param { use_global_stats: false } }', "stored statistics"),
    ("CIO701", "ncnn", INPUT + 'layer { name: "v" type: "Reshape" bottom: "data" top: "v" reshape_param { shape { dim: 0 dim: 2 dim: 4 dim: 6 dim: 6 } } }', "more than 4 axes"),
    ("CIO701", "opencv", INPUT + 'layer { name: "l" type: "Log" bottom: "data" top: "l" log_param { scale: 2 } }', "of a Log are not read"),
    ("CIO701", "ncnn", INPUT + CONV.replace("kernel_size: 3", "kernel_size: 3 axis: 2"), "whose axis is 2: only 1 is read"),
    ("CIO701", "opencv", INPUT.replace("dim: 6 }", "dim: 6 dim: 6 }") + CONV, "over other than two axes"),
    ("CIO701", "sophgo", INPUT + CONV.replace("kernel_size: 3", "kernel_size: 3 dilation: 1 dilation: 2"), "in the wrong order"),
    ("CIO701", "sophgo", INPUT + INPUT.replace("data", "s").replace("dim: 1 dim: 8 dim: 6", "dim: 8 dim: 6") + 'layer { name: "m" type: "Scale" bottom: "data" bottom: "s" top: "m" }', "begins at axis 1: only 0 is read"),
    ("CIO701", "ncnn", INPUT + CONV.replace("kernel_size: 3", "kernel_size: 3 kernel_size: 1"), "two numbers in kernel_size: only the first is read"),
    ("CIO701", "ncnn", INPUT + one("Interp", "interp_param { height: 9 width: 9 }"), "its corners are not aligned"),
    ("CIO701", "ncnn", INPUT + one("Embed", "embed_param { num_output: 3 input_dim: 4 }"), "are read as integers"),
    ("CIO701", "ncnn", INPUT + one("LRN", "lrn_param { k: 2 }"), "whose k is 2: only 1 is read"),
    ("CIO701", "ncnn", INPUT + one("Softmax", "softmax_param { axis: -1 }"), "whose axis is -1: only 1,2,3 is read"),
    ("CIO701", "ncnn", INPUT + one("Permute", "permute_param { order: 1 order: 0 }"), "moves the batch"),
    ("CIO701", "ncnn", INPUT + one("Pooling", "pooling_param { pool: AVE kernel_size: 3 pad: 1 }"), "left out of the mean"),
    ("CIO701", "ncnn", INPUT + one("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 3 }"), "whose pool is STOCHASTIC: only MAX,AVE is read"),
    ("CIO701", "sophgo", INPUT + one("Power", "power_param { scale: 2 }"), "sophgo has no layer Power"),
    ("CIO701", "sophgo", INPUT + one("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 }"), "reach beyond the padding"),
    ("CIO701", "sophgo", INPUT + one("Pooling", "pooling_param { kernel_size: 6 pad: 1 }"), "taken for a global one"),
    ("CIO701", "sophgo", INPUT + one("Reduction", "reduction_param { axis: 2 operation: MEAN }"), "the last axis only is read"),
    ("CIO701", "sophgo", INPUT + one("Reduction", "reduction_param { axis: -1 }"), "whose operation is SUM: only MEAN is read"),
    ("CIO701", "sophgo", INPUT + one("ArgMax", "argmax_param { out_max_val: true }"), "without axis: it must be given"),
    ("CIO701", "sophgo", INPUT.replace(" dim: 6 }", " }") + one("Scale", ""), "of 3 axes: only 2,4 are taken"),
    ("CIO701", "sophgo", INPUT + INPUT.replace("data", "s").replace("dim: 1 dim: 8 dim: 6 dim: 6", "dim: 1") + 'layer { name: "m" type: "Scale" bottom: "data" bottom: "s" top: "m" scale_param { axis: 0 bias_term: true } }', "the bias of a Scale with two bottoms is not read"),
    ("CIO701", "sophgo", INPUT + INPUT.replace("data", "r").replace("dim: 1 dim: 8 dim: 6 dim: 6", "dim: 3 dim: 5") + 'layer { name: "m" type: "ROIPooling" bottom: "data" bottom: "r" top: "m" roi_pooling_param { pooled_h: 2 pooled_w: 2 } }', "they need four axes"),
    ("CIO701", "ncnn", INPUT + INPUT.replace("data", "s") + SCALE, "second bottom is (1, 8, 6, 6): only one of N and C is read"),
    ("CIO701", "opencv", INPUT + INPUT.replace("data", "s").replace("dim: 1 dim: 8 dim: 6 dim: 6", "") + SCALE, "second bottom is (): one number without an axis is refused"),
    ("CIO702", "nnie", INPUT + CONV.replace('name: "c"', 'name: "a/c"'), "letters, digits"),
    ("CIO703", "nnie", INPUT + INPUT.replace('"data"', '"more"'), "one Input layer"),
    ("CIO703", "ncnn", GOOD.replace("dim: 1 dim: 8", "dim: 4 dim: 8"), "the batch is 1"),
    ("CIO703", "ncnn", "input: 'data' input_dim: 1 input_dim: 8 input_dim: 6 input_dim: 6\n" + CONV, "Input layers"),
    ("CIO704", "nnie", INPUT + CONV + 'layer { name: "r" type: "ReLU" bottom: "c" top: "r" }', "in place"),
]  # fmt: skip


def lint(text: str, target: str, folder: Path) -> str:
    path = folder / "net.prototxt"
    path.write_text(text)
    result = CliRunner().invoke(main, ["lint", "--target", target, "--select", "CIO7", str(path)])
    assert result.exit_code in (0, 1), result.output
    return result.output


@pytest.mark.parametrize(("code", "target", "text", "message"), CASES)
def test_a_target_refuses(code: str, target: str, text: str, message: str, tmp_path: Path) -> None:
    found = lint(text, target, tmp_path)
    assert code in found
    assert message in found
    plain = lint(text, "bvlc", tmp_path)
    assert "CIO7" not in plain or target == "bvlc-1.0" or "bvlc has no layer" in plain


@pytest.mark.parametrize("target", ["bvlc-1.0", "nnie", "ncnn", "sophgo", "rockchip"])
def test_a_good_net_passes(target: str, tmp_path: Path) -> None:
    assert "CIO7" not in lint(GOOD, target, tmp_path)


RIGHT = [
    one("Pooling", "pooling_param { pool: AVE kernel_size: 2 stride: 2 }"),
    one("Pooling", "pooling_param { pool: AVE global_pooling: true }"),
    one("Pooling", "pooling_param { pool: AVE kernel_size: 6 }"),
    one("Pooling", "pooling_param { kernel_size: 3 stride: 2 pad: 1 }"),
    INPUT.replace("data", "s").replace(" dim: 6", "") + SCALE,
    one("LRN", ""), one("Flatten", ""), one("Softmax", ""), one("Scale", ""),
    CONV.replace("kernel_size: 3", "kernel_size: 3 kernel_size: 3 pad_h: 1 pad_w: 2"),
]  # fmt: skip


@pytest.mark.parametrize("target", ["ncnn", "sophgo"])
@pytest.mark.parametrize("layer", RIGHT)
def test_what_a_target_reads_as_caffe_does_passes(layer: str, target: str, tmp_path: Path) -> None:
    assert "CIO701" not in lint(INPUT + layer, target, tmp_path)


def test_hearsay_is_told_from_facts(tmp_path: Path) -> None:
    bad = GOOD + 'layer { name: "s" type: "Swish" bottom: "c" top: "s" }'
    assert "not verified with nnie itself" in lint(bad, "nnie", tmp_path)
    assert "not verified" not in lint(bad, "bvlc-1.0", tmp_path)


def test_without_a_target_the_rules_keep_quiet(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(INPUT + CONV.replace('name: "c"', 'name: "a/c"'))
    result = CliRunner().invoke(main, ["lint", "--select", "CIO7", str(path)])
    assert result.exit_code == 0
    unknown = CliRunner().invoke(main, ["lint", "--target", "hal9000", str(path)])
    assert unknown.exit_code == 2
    assert "unknown target 'hal9000'" in unknown.output


def power(name: str, bottom: str, fields: str) -> str:
    return f'layer {{ name: "{name}" type: "Power" bottom: "{bottom}" top: "{name}" power_param {{ {fields} }} }}\n'


def depthwise(
    rows: int, columns: int, fields: str = "num_output: 8 group: 8 kernel_size: 3 pad: 1"
) -> str:
    data = INPUT.replace("dim: 6 dim: 6", f"dim: {rows} dim: {columns}")
    return (
        data
        + f'layer {{ name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param {{ {fields} }} }}\n'
    )


SQUARE = INPUT + power("a", "data", "power: 2")
LINE = power("b", "a", "scale: 2 shift: 1")
ONE = INPUT.replace("dim: 8", "dim: 1") + power("a", "data", "power: 0.5")
SCALE = 'layer { name: "s" type: "Scale" bottom: "a" top: "s" }'
# net, what of it OpenCV computes wrongly; all were run in opencv-python-headless 4.14
WRONG = [
    (SQUARE + LINE, "power 1 behind another Power"),
    (SQUARE + power("b", "a", "scale: 2"), "power 1 behind another Power"),
    (SQUARE.replace("power: 2", "power: 2 scale: 3") + LINE, "power 1 behind another Power"),
    (SQUARE + LINE.replace('top: "b"', 'top: "a"') + power("e", "a", "power: 3"), "power 1 behind another Power"),
    (SQUARE.replace("power: 2", "power: 2 shift: 1") + LINE, ""),
    (SQUARE + power("b", "a", ""), ""),
    (SQUARE + power("b", "a", "power: 2 shift: 1"), ""),
    (INPUT + power("a", "data", "scale: 2") + LINE, ""),
    (SQUARE + 'layer { name: "r" type: "Reshape" bottom: "a" top: "r" reshape_param { shape { dim: 0 } } }\n' + LINE.replace('bottom: "a"', 'bottom: "r"'), ""),
    (SQUARE + LINE + power("e", "a", "power: 3"), ""),
    (ONE + SCALE, "power 1 behind another Power"),
    (SQUARE + SCALE, ""),
    (depthwise(1, 1), "3 x 3 kernel a channel"),
    (depthwise(1, 5), "3 x 3 kernel a channel"),
    (depthwise(5, 1, "num_output: 8 group: 8 kernel_h: 3 kernel_w: 3 pad_h: 1 pad_w: 1"), "3 x 3 kernel a channel"),
    (depthwise(1, 5, "num_output: 8 group: 8 kernel_size: 3 pad: 1 stride: 2"), "3 x 3 kernel a channel"),
    (depthwise(1, 5, "num_output: 8 group: 8 kernel_size: 3 pad: 1 stride: 3"), ""),
    (depthwise(1, 5, "num_output: 8 group: 8 kernel_size: 3 pad: 2"), ""),
    (depthwise(2, 5), ""),
    (depthwise(1, 5, "num_output: 8 group: 8 kernel_h: 1 kernel_w: 3 pad_w: 1"), ""),
    (depthwise(1, 5, "num_output: 16 group: 8 kernel_size: 3 pad: 1"), ""),
    (depthwise(1, 5, "num_output: 8 group: 8 kernel_size: 5 pad: 2"), ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_what_opencv_computes_wrongly(text: str, message: str, tmp_path: Path) -> None:
    found = lint(text, "opencv", tmp_path)
    assert found.count("CIO705") == bool(message), found
    assert message in found
    assert "CIO705" not in lint(text, "bvlc", tmp_path)
