from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from caffeio.converters.netstate import modern_shape
from caffeio.converters.translate.translate import (
    Translation,
    remap_history,
    translate,
    translate_state,
)
from caffeio.errors import CaffeIOError, DialectError, ParseError, UnsupportedError, WeightsError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.dialect.dialect import decode, detect, encode
from caffeio.proto.io import wire
from caffeio.proto.weights.load import load_weights, write_caffemodel
from caffeio.proto.weights.solverstate import read_solverstate
from tests.paths import GOLDEN, SHARED, needs_shared

DIALECT = GOLDEN / "fork" / "dialect"
FORK = DIALECT / "main" / "fork" / "fork_iter_6"
BVLC = DIALECT / "main" / "bvlc" / "bvlc_iter_6"
TARGETS = ["bvlc", "intel", "sara", "nvidia", "ssd"]
Arrays = dict[str, Sequence[np.ndarray]]


def net(text: str) -> pb.NetParameter:
    return text_format.Parse(text, pb.NetParameter())


def model(path: Path, dialect: str) -> pb.NetParameter:
    return decode(path.read_bytes(), "NetParameter", dialect).message


def weights(path: Path) -> Arrays:
    return load_weights(path).copy()


class Run:
    """One translation: the net and the weights on both sides."""

    def __init__(self, folder: Path, text: str, blobs: Arrays, dialect: str) -> None:
        self.src, self.dst, self.dialect = folder / "a.caffemodel", folder / "b.caffemodel", dialect
        write_caffemodel(self.src, net(text), blobs, dialect=dialect, raw_data=dialect == "nvidia")

    def to(self, dialect: str, **options: Any) -> Translation:
        result = translate(self.src, self.dst, dialect, self.dialect, **options)
        self.net = model(self.dst, dialect)
        self.weights = weights(self.dst)
        return result


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# --- files of real Caffes


@pytest.mark.parametrize("path", [FORK, BVLC], ids=["fork", "bvlc"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_real_file_for_each_caffe(path: Path, target: str, tmp_path: Path) -> None:
    src, dst = path.with_suffix(".caffemodel"), tmp_path / "out.caffemodel"
    source = "sara" if path is FORK else "bvlc"
    result = translate(src, dst, target)
    assert result.source == source
    assert not result.lost
    assert result.copied == (source == target)
    # BVLC's bytes mean the same to Intel's later Caffe and to SSD's
    same = result.copied or (source, target) in (("bvlc", "intel"), ("bvlc", "ssd"))
    assert same == (src.read_bytes() == dst.read_bytes())
    # the pooling is what it was, whatever its numbers
    before, after = model(src, source), model(dst, target)
    pools = [
        [layer.pooling_param for layer in m.layer if layer.type == "Pooling"]
        for m in (before, after)
    ]
    for old, new in zip(*pools, strict=True):
        if target not in ("sara", "intel"):
            old.ClearField("avg_include_pad")
        assert old == new
    if target != "nvidia":
        mine, theirs = weights(src), weights(dst)
        assert mine.keys() == theirs.keys()
        for name, blobs in mine.items():
            for a, b in zip(blobs, theirs[name], strict=True):
                assert np.array_equal(a, b)


def test_the_fork_and_bvlc_agree_after_translation(tmp_path: Path) -> None:
    translate(FORK.with_suffix(".caffemodel"), tmp_path / "out", "bvlc")
    ours, theirs = model(tmp_path / "out", "bvlc"), model(BVLC.with_suffix(".caffemodel"), "bvlc")
    for layer in theirs.layer:
        for spec in layer.param:
            if layer.type == "BatchNorm":
                spec.ClearField("decay_mult")  # BVLC's snapshots carry it
    assert ours == theirs


@needs_shared
def test_raw_halves_of_a_real_file(tmp_path: Path) -> None:
    folder = SHARED / "corpus" / "caffemodels"
    (half,) = (folder / "hyperlpr_finemap_fp16").glob("*.caffemodel")
    result = translate(half, tmp_path / "out", "bvlc")
    assert result.source == "nvidia"
    assert not result.lost
    assert detect((tmp_path / "out").read_bytes()).dialect == "bvlc"
    for name, blobs in load_weights(half).copy().items():
        for mine, theirs in zip(weights(tmp_path / "out")[name], blobs, strict=True):
            assert mine.dtype == np.float32
            assert theirs.dtype == np.float16
            assert np.array_equal(mine, theirs.astype(np.float32))


@needs_shared
@pytest.mark.parametrize("target", TARGETS)
def test_the_whole_corpus(target: str, tmp_path: Path) -> None:
    for path in sorted((SHARED / "corpus" / "caffemodels").glob("*/*.caffemodel")):
        if path.stat().st_size > 3_000_000:
            continue
        result = translate(path, tmp_path / "out", target)
        before, after = load_weights(path), load_weights(tmp_path / "out")
        assert [name for name in after if name in before] == list(before)
        if result.copied:
            assert path.read_bytes() == (tmp_path / "out").read_bytes()
        for item in result.lost:
            assert "no such" in item.why


# --- BatchNorm


def batch_norm(text: str = "", specs: str = "") -> str:
    return (
        'name: "n" layer { name: "d" type: "Input" top: "d" input_param { shape { dim: [1, 4, 2, 2]'
        ' } } } layer { name: "b" type: "BatchNorm" bottom: "d" top: "t" '
        f"{specs} batch_norm_param {{ {text} }} }}"
    )


def statistics(factor: float, *more: np.ndarray) -> list[np.ndarray]:
    mean, var = floats(4, seed=1), np.abs(floats(4, seed=2))
    return [mean * factor, var * factor, np.array([factor], np.float32), *more]


def test_split_intels_merged_batch_norm(tmp_path: Path) -> None:
    gamma, beta = floats(4, seed=3), floats(4, seed=4)
    specs = "param { lr_mult: 0 } " * 3 + "param { decay_mult: 0 } " * 2
    text = batch_norm("filler { value: 2 } bias_filler { value: 3 } engine: MKLDNN", specs)
    run = Run(tmp_path, text, {"b": statistics(12, gamma, beta)}, "intel")
    result = run.to("bvlc")
    assert result.done[0] == "layer 'b': split into BatchNorm and Scale"
    assert "dropped engine (1 times): it changes no number" in result.done
    assert not result.lost
    norm, scale = run.net.layer[1:]
    norm.ClearField("blobs")
    scale.ClearField("blobs")
    assert (
        norm
        == net(
            'layer { name: "b" type: "BatchNorm" bottom: "d" top: "t" param { lr_mult: 0 }'
            " param { lr_mult: 0 } param { lr_mult: 0 } batch_norm_param { } }"
        ).layer[0]
    )
    assert (
        scale
        == net(
            'layer { name: "scale_b" type: "Scale" bottom: "t" top: "t" param { decay_mult: 0 }'
            " param { decay_mult: 0 } scale_param { bias_term: true filler { value: 2 }"
            " bias_filler { value: 3 } } }"
        ).layer[0]
    )
    assert [len(run.weights[name]) for name in ("b", "scale_b")] == [3, 2]
    assert np.array_equal(run.weights["b"][2], [12])
    assert np.array_equal(run.weights["scale_b"][0], gamma)
    assert np.array_equal(run.weights["scale_b"][1], beta)
    assert result.history == [0, 1, 2, 3, 4]


def test_without_a_shift(tmp_path: Path) -> None:
    blobs = {"b": statistics(1, floats(4))}
    run = Run(tmp_path, batch_norm("bias_term: false"), blobs, "intel")
    run.to("bvlc")
    assert not run.net.layer[2].scale_param.bias_term
    assert len(run.weights["scale_b"]) == 1
    assert not run.net.layer[1].batch_norm_param.HasField("bias_term")


def test_merge_for_intel_and_back(tmp_path: Path) -> None:
    text = batch_norm(specs="param { lr_mult: 0 } " * 3) + (
        'layer { name: "s" type: "Scale" bottom: "t" top: "t" scale_param { bias_term: true'
        ' filler { value: 2 } } } layer { name: "f" type: "InnerProduct" bottom: "t" top: "f"'
        " inner_product_param { num_output: 1 } }"
    )
    blobs = {"b": statistics(3), "s": [floats(4), floats(4)], "f": [floats(1, 16), floats(1)]}
    run = Run(tmp_path, text, blobs, "bvlc")
    result = run.to("intel", merge_batch_norm=True)
    assert result.done == ["layer 's': merged into 'b'"]
    assert [layer.name for layer in run.net.layer] == ["d", "b", "f"]
    assert run.net.layer[1].batch_norm_param.filler.value == 2
    assert [len(blobs) for blobs in run.weights.values()] == [5, 2]
    assert result.history == [0, 1, 2, 3, 4, 5, 6]
    back = translate(run.dst, tmp_path / "c.caffemodel", "bvlc", "intel")
    assert back.done == ["layer 'b': split into BatchNorm and Scale"]
    again = weights(tmp_path / "c.caffemodel")
    assert list(again) == ["b", "scale_b", "f"]
    for mine, theirs in zip(again.values(), blobs.values(), strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert np.array_equal(a, b)
    with pytest.raises(UnsupportedError, match="ssd keeps no scale and shift"):
        run.to("ssd", merge_batch_norm=True)


@pytest.mark.parametrize(
    "scale",
    [
        'bottom: "t" top: "u"',  # and others read t
        'bottom: "t" top: "t" scale_param { axis: 2 bias_term: true }',
        'bottom: "t" bottom: "d" top: "t" scale_param { bias_term: true }',
        'bottom: "d" top: "u" scale_param { bias_term: true }',
    ],
)
def test_what_is_not_merged(scale: str, tmp_path: Path) -> None:
    text = batch_norm() + f'layer {{ name: "s" type: "Scale" {scale} }}'
    text += 'layer { name: "p" type: "Power" bottom: "t" top: "v" }'
    one = 1 if "bias_term" not in scale else 2
    run = Run(tmp_path, text, {"b": statistics(3), "s": [floats(4)] * one}, "bvlc")
    assert run.to("intel", merge_batch_norm=True).done == []


@pytest.mark.parametrize("source", ["bvlc", "intel", "sara"])
def test_nvidia_gets_averages(source: str, tmp_path: Path) -> None:
    run = Run(tmp_path, batch_norm(), {"b": statistics(8)}, source)
    result = run.to("nvidia")
    assert result.done == ["layer 'b': statistics divided by their factor 8"]
    mean, var, factor = run.weights["b"]
    wanted = statistics(1)
    assert np.array_equal(mean, wanted[0])
    assert np.array_equal(var, wanted[1])
    assert np.array_equal(factor, [1])
    # and back nothing changes: BVLC divides by 1
    translate(run.dst, tmp_path / "c", "bvlc", "nvidia")
    assert np.array_equal(weights(tmp_path / "c")["b"][0], mean)


def test_an_untrained_batch_norm_for_nvidia(tmp_path: Path) -> None:
    run = Run(tmp_path, batch_norm(), {"b": statistics(0)}, "bvlc")
    run.to("nvidia")
    assert [list(a) for a in run.weights["b"]] == [[0] * 4, [0] * 4, [1]]


def test_nvidias_five_blobs(tmp_path: Path) -> None:
    gamma, beta = floats(4, seed=5), floats(4, seed=6)
    text = batch_norm("scale_bias: true eps: 1e-6 scale_filler { value: 1 }")
    run = Run(tmp_path, text, {"b": statistics(1, gamma, beta)}, "nvidia")
    result = run.to("bvlc")
    assert result.done == [
        "layer 'b': split into BatchNorm and Scale",
        "layer 'b': eps 1e-05, the least of NVIDIA's",
    ]
    assert not result.lost
    assert run.net.layer[2].scale_param.filler.value == 1
    assert run.net.layer[1].batch_norm_param.eps == np.float32(1e-5)
    assert np.array_equal(run.weights["scale_b"][0], gamma)
    merged = run.to("intel", merge_batch_norm=True)
    assert "layer 'scale_b': merged into 'b'" in merged.done
    assert len(run.weights["b"]) == 5


def test_between_merged_forms_nothing_is_split(tmp_path: Path) -> None:
    run = Run(tmp_path, batch_norm(), {"b": statistics(2, floats(4), floats(4))}, "intel")
    assert run.to("sara").done == []
    assert len(run.weights["b"]) == 5


# --- other differences


def test_types_of_raw_numbers(tmp_path: Path) -> None:
    kinds = [np.float64, np.float32, np.float16, np.int32, np.uint32, np.uint8]
    text = 'layer { name: "x" type: "Scale" bottom: "a" top: "a" }'
    blobs = [np.array([0, 1, 2], kind) for kind in kinds]
    run = Run(tmp_path, text, {"x": blobs}, "nvidia")
    run.to("bvlc")
    found = run.weights["x"]
    assert [blob.dtype for blob in found] == [np.float64, *[np.float32] * 5]
    assert all(list(blob) == [0, 1, 2] for blob in found)
    assert all(not blob.raw_data for blob in run.net.layer[0].blobs)
    run.to("bvlc", float32=True)
    assert {blob.dtype for blob in run.weights["x"]} == {np.dtype(np.float32)}


def test_doubles(tmp_path: Path) -> None:
    text = 'layer { name: "x" type: "Scale" bottom: "a" top: "a" }'
    run = Run(tmp_path, text, {"x": [np.array([0.1, 0.2])]}, "bvlc")
    run.to("intel")
    assert run.weights["x"][0].dtype == np.float64
    assert run.to("bvlc", float32=True).copied is False
    assert np.array_equal(run.weights["x"][0], np.array([0.1, 0.2], np.float32))
    run.to("segnet")  # which has no double_data
    assert run.weights["x"][0].dtype == np.float32


def legacy_file(path: Path, field: str = "layer") -> None:
    def blob(*dims: int) -> str:
        names = zip(("num", "channels", "height", "width"), dims, strict=True)
        values = "".join(f"data: {k} diff: {-k} " for k in range(int(np.prod(dims))))
        return f"blobs {{ {' '.join(f'{n}: {d}' for n, d in names)} {values} }}"

    kind = {"layer": '"InnerProduct"', "layers": "INNER_PRODUCT"}[field]
    text = f'{field} {{ name: "f" type: {kind} {blob(1, 1, 2, 3)} {blob(1, 1, 1, 2)} }}'
    path.write_bytes(encode(net(text), "bvlc"))


@pytest.mark.parametrize("field", ["layer", "layers"])
def test_legacy_shapes(field: str, tmp_path: Path) -> None:
    legacy_file(tmp_path / "a", field)
    translate(tmp_path / "a", tmp_path / "b", "intel")
    info = load_weights(tmp_path / "b").layers[0].blobs
    assert [(blob.shape, blob.legacy) for blob in info] == [
        ((1, 1, 2, 3), True),
        ((1, 1, 1, 2), True),
    ]
    translate(tmp_path / "a", tmp_path / "c", "bvlc", modern_shapes=True)
    modern = load_weights(tmp_path / "c")
    assert [(blob.shape, blob.legacy) for blob in modern.layers[0].blobs] == [
        ((2, 3), False),
        ((2,), False),
    ]
    assert np.array_equal(modern["f"][0], np.arange(6).reshape(2, 3))
    assert np.array_equal(modern.diffs["f"][1], [0, -1])


def test_legacy_blobs_that_must_be_rewritten_stay_legacy(tmp_path: Path) -> None:
    text = 'layer { name: "?" type: "Odd" blobs { num: 1 channels: 1 height: 1 width: 2'
    text += " double_data: 1 double_data: 2 double_diff: 3 double_diff: 4 } }"
    (tmp_path / "a").write_bytes(encode(net(text), "bvlc"))
    translate(tmp_path / "a", tmp_path / "b", "bvlc", "bvlc", float32=True, modern_shapes=True)
    found = load_weights(tmp_path / "b")
    (blob,) = found.layers[0].blobs
    assert (blob.shape, blob.legacy, blob.dtype) == ((1, 1, 1, 2), True, np.float32)
    assert found.diffs["?"][0].ravel().tolist() == [3, 4]


@pytest.mark.parametrize(
    ("kind", "index", "legacy", "wanted"),
    [
        ("Convolution", 0, (2, 3, 5, 5), (2, 3, 5, 5)),
        ("Convolution", 1, (1, 1, 1, 2), (2,)),
        ("Deconvolution", 1, (1, 2, 1, 1), (2,)),
        ("InnerProduct", 0, (1, 1, 4, 5), (4, 5)),
        ("InnerProduct", 0, (4, 5, 1, 1), None),
        ("PReLU", 0, (1, 1, 1, 7), (7,)),
        ("DepthwiseConvolution", 0, (4, 1, 3, 3), (4, 1, 3, 3)),
        ("Odd", 0, (1, 1, 1, 7), None),
    ],
)
def test_modern_shape(
    kind: str, index: int, legacy: tuple[int, ...], wanted: tuple[int, ...] | None
) -> None:
    assert modern_shape(kind, index, legacy) == wanted


def test_fused_relu_becomes_a_layer(tmp_path: Path) -> None:
    def conv(more: str = "", bottom: str = "d", top: str = "c") -> str:
        return (
            f'layer {{ name: "{top}" type: "Convolution" bottom: "{bottom}" top: "{top}" '
            f"convolution_param {{ num_output: 1 relu: true negative_slope: 0.5 }} }} {more}"
        )

    has = 'layer { name: "r" type: "ReLU" bottom: "c" top: "c" }'
    run = Run(tmp_path, conv(has) + conv("", "c", "e"), {}, "intel")
    result = run.to("bvlc")
    assert [layer.name for layer in run.net.layer] == ["c", "r", "e", "relu_e"]
    relu = run.net.layer[3]
    assert (relu.type, relu.bottom, relu.top) == ("ReLU", ["e"], ["e"])
    assert relu.relu_param.negative_slope == 0.5
    assert result.done == [
        "layer 'c': flag of fusion removed, its ReLU is there",
        "layer 'e': its fused ReLU is a layer now",
    ]
    assert not result.lost
    assert run.to("sara").done == []


def test_pooling_of_two_extents(tmp_path: Path) -> None:
    text = (
        'layer { name: "p" type: "Pooling" pooling_param { kernel_size: [3, 5] stride: [2, 2] } }'
    )
    run = Run(tmp_path, text, {}, "sara")
    result = run.to("bvlc")
    p = run.net.layer[0].pooling_param
    assert (p.kernel_h, p.kernel_w, p.stride_h, p.stride_w) == (3, 5, 2, 2)
    assert not p.kernel_size
    assert not result.lost


def test_losses_of_equal_meaning(tmp_path: Path) -> None:
    text = 'layer { name: "l" type: "SoftmaxWithLoss" loss_param { normalization: PRE_FIXED %s } }'
    run = Run(tmp_path, text % "", {}, "intel")
    assert run.to("bvlc").done == ["layer 'l': normalization PRE_FIXED by 1 as NONE"]
    p = run.net.layer[0].loss_param
    assert p.normalization == p.NONE
    run = Run(tmp_path, text % "pre_fixed_normalizer: 256", {}, "intel")
    lost = [str(item).partition(" (")[0] for item in run.to("bvlc").lost]
    assert lost == [
        "layer[0].loss_param.normalization: PRE_FIXED",
        "layer[0].loss_param.pre_fixed_normalizer: 256.0",
    ]


def test_defaults_that_differ_are_written(tmp_path: Path) -> None:
    run = Run(tmp_path, 'layer { name: "e" type: "ELU" bottom: "a" top: "a" }', {}, "ducha-aiki")
    assert run.to("bvlc").done == ["layer 'e': default alpha 0"]
    assert run.net.layer[0].elu_param.HasField("alpha")
    assert run.net.layer[0].elu_param.alpha == 0


def test_values_that_are_the_default_are_not_lost(tmp_path: Path) -> None:
    text = 'layer { type: "Pooling" pooling_param { kernel_size: 2 avg_include_pad: %s } }'
    run = Run(tmp_path, text % "true", {}, "intel")
    result = run.to("bvlc")
    assert result.done == ["dropped avg_include_pad (1 times): it is the default"]
    assert not result.lost
    run = Run(tmp_path, text % "false", {}, "intel")
    (lost,) = run.to("bvlc").lost
    assert lost.path == ("layer", 0, "pooling_param", "avg_include_pad")


def test_layer_types_of_another_caffe(tmp_path: Path) -> None:
    text = 'layer { name: "c" type: "CropCenter" crop_center_param { crop_size: 2 } }'
    result = Run(tmp_path, text, {}, "waifu2x").to("nvidia")
    assert [(item.path, item.why) for item in result.lost] == [
        (("layer", 0, "crop_center_param"), "nvidia has no such field"),
        (("layer", 0, "type"), "nvidia has no such layer type"),
    ]


def test_unknown_fields_go_along_if_their_number_is_free(tmp_path: Path) -> None:
    layer = (
        wire.bytes_field(2, b"Data") + wire.bytes_field(9000, b"?") + wire.bytes_field(149, b"e")
    )
    (tmp_path / "a").write_bytes(wire.bytes_field(100, layer))
    result = translate(tmp_path / "a", tmp_path / "b", "intel", "bvlc")
    assert [(item.path, item.value) for item in result.lost] == [(("layer", 0), "field 149")]
    assert wire.bytes_field(9000, b"?") in (tmp_path / "b").read_bytes()
    copied = translate(tmp_path / "a", tmp_path / "c", "bvlc", "bvlc")
    assert copied.copied
    assert (tmp_path / "c").read_bytes() == (tmp_path / "a").read_bytes()


def test_unusual_bytes_are_copied_as_they_are(tmp_path: Path) -> None:
    odd = wire.bytes_field(100, wire.bytes_field(2, b"ReLU") + wire.bytes_field(1, b"r"))
    odd += wire.bytes_field(1, b"name after layers")
    (tmp_path / "a").write_bytes(odd)
    assert translate(tmp_path / "a", tmp_path / "b", "bvlc").copied
    assert (tmp_path / "b").read_bytes() == odd


# --- solver states


def test_solver_states(tmp_path: Path) -> None:
    fork, bvlc = FORK.with_suffix(".solverstate"), BVLC.with_suffix(".solverstate")
    result = translate_state(fork, tmp_path / "a.solverstate", "bvlc")
    assert result.done == ["dropped minimum_loss and iter_last_event: only plateau reads them"]
    mine, theirs = read_solverstate(tmp_path / "a.solverstate"), read_solverstate(fork)
    assert mine.minimum_loss is None
    assert mine.iter == theirs.iter
    assert all(map(np.array_equal, mine.history, theirs.history))
    for source, target in ((fork, "nvidia"), (bvlc, "sara")):
        assert translate_state(source, tmp_path / "b.solverstate", target).copied
        assert (tmp_path / "b.solverstate").read_bytes() == source.read_bytes()


def test_history_in_another_order(tmp_path: Path) -> None:
    a, b, c = (np.full(k, k, np.float32) for k in (1, 2, 3))
    assert [len(x) for x in remap_history([a, b, c, a, b, c], [2, 0, 1])] == [3, 1, 2, 3, 1, 2]
    with pytest.raises(WeightsError, match="2 history tensors do not belong to a net of 3"):
        remap_history([a, b], [0, 1, 2])
    count = len(read_solverstate(FORK.with_suffix(".solverstate")).history)
    order = list(range(count))[::-1]
    translate_state(FORK.with_suffix(".solverstate"), tmp_path / "x.solverstate", "sara", order)
    mine = read_solverstate(tmp_path / "x.solverstate").history
    theirs = read_solverstate(FORK.with_suffix(".solverstate")).history
    assert all(map(np.array_equal, mine, theirs[::-1]))


# --- errors


def test_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(FORK.with_suffix(".caffemodel").read_bytes()[:-7])
    with pytest.raises(ParseError, match=r"cut, byte \d+: "):
        translate(tmp_path / "cut", tmp_path / "out", "bvlc")
    conv = 'layer { name: "c" type: "Convolution" convolution_param { relu: true } }'
    (tmp_path / "two").write_bytes(encode(net(conv), "intel"))
    with pytest.raises(DialectError, match="two: it fits 2 dialects that read it differently"):
        translate(tmp_path / "two", tmp_path / "out", "bvlc")
    with pytest.raises(DialectError, match="unknown dialect 'cafe'"):
        translate(tmp_path / "two", tmp_path / "out", "cafe")
    with pytest.raises(UnsupportedError, match="weights without a net"):
        translate(DIALECT / "main/fork/fork_h5_iter_6.caffemodel.h5", tmp_path / "out", "bvlc")
    with pytest.raises(CaffeIOError, match="no such file"):
        translate(tmp_path / "none", tmp_path / "out", "bvlc")
    assert not (tmp_path / "out").exists()


def test_mixed_and_nested_nets(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(encode(net('layer { name: "x" } layers { name: "y" }'), "bvlc"))
    with pytest.raises(UnsupportedError, match="both `layer` and `layers`"):
        translate(tmp_path / "a", tmp_path / "b", "ssd", "bvlc")
    text = "layer { moe_param { expert_net { layer { blobs { data: 1 } } } } }"
    (tmp_path / "a").write_bytes(encode(net(text), "bvlc-opencl"))
    with pytest.raises(UnsupportedError, match="nets with weights inside"):
        translate(tmp_path / "a", tmp_path / "b", "bvlc", "bvlc-opencl")
