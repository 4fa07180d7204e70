from __future__ import annotations

import mmap
from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from caffeio.errors import CaffeIOError, DialectError, ParseError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.dialect.dialect import (
    Decoded,
    Unknown,
    decode,
    detect,
    encode,
    encode_parts,
    path_text,
    schema,
)
from caffeio.proto.dialect.transcode import Transcoder
from caffeio.proto.io import wire
from tests.paths import GOLDEN, SHARED, needs_shared

DIALECT = GOLDEN / "fork" / "dialect"
FORK = DIALECT / "main" / "fork" / "fork_iter_6.caffemodel"
BVLC = DIALECT / "main" / "bvlc" / "bvlc_iter_6.caffemodel"
GOLDENS = {
    "main/fork/fork_iter_6": "sara",
    "main/bvlc/bvlc_iter_6": "bvlc",
    "ambiguous_k5s1p2/fork/fork_iter_6": "sara",
    "ambiguous_k5s1p2/bvlc/bvlc_iter_6": "bvlc",
    "ambiguous_k2s5p1/fork/fork_iter_6": "sara",
    "ambiguous_k2s5p1/bvlc/bvlc_iter_6": "bvlc",
    "fork_only/fork_only_iter_4": "sara",
}
CORPUS = {
    "brocolli_pnet": "bvlc",
    "c2o_log8": "bvlc",
    "c2o_scale3": "bvlc",
    "c2o_scale8": "bvlc",
    "eth_lenet": "bvlc",
    "hyperlpr_char": "bvlc",
    "hyperlpr_finemap": "bvlc",
    "hyperlpr_finemap_fp16": "nvidia",
    "mtcnn_det1": "mtcnn",
    "mtcnn_det3": "mtcnn",
    "nsfw": "caffe-on-spark",
    "nv_lenet": "bvlc",  # NVIDIA's Caffe of 2015 wrote nothing of its own
    "res10_ssd": "ssd",
    "rfb320": "ssd",
    "waifu_upconv7": "bvlc",
    "waifu_upresnet10": "waifu2x",
    "wechat_sr": "bvlc",
    "yuface_v1": "nvidia",
}


def net(text: str) -> pb.NetParameter:
    return text_format.Parse(text, pb.NetParameter())


def join(parts: list[Any]) -> bytes:
    return b"".join(bytes(part) for part in parts)


def again(data: Any, decoded: Decoded, dialect: str) -> bytes:
    """Write what was read, the numbers of the blobs from where they lie."""
    places = {
        path: [(p.number, [memoryview(data)[p.start : p.stop]]) for p in places]
        for path, places in decoded.payload.items()
    }
    parts = encode_parts(decoded.message, dialect, unknown=decoded.unknown, insert=places)
    return join(parts)


# --- reading and writing


@pytest.mark.parametrize(("name", "dialect"), GOLDENS.items())
@pytest.mark.parametrize("kind", ["caffemodel", "solverstate"])
def test_same_bytes_for_caffes_own_files(name: str, dialect: str, kind: str) -> None:
    data = (DIALECT / f"{name}.{kind}").read_bytes()
    message = {"caffemodel": "NetParameter", "solverstate": "SolverState"}[kind]
    decoded = decode(data, message, dialect)
    assert not decoded.unknown
    assert again(data, decoded, dialect) == data
    whole = decode(data, message, dialect, payload=True)
    assert not whole.payload
    assert encode(whole.message, dialect) == data


@needs_shared
@pytest.mark.parametrize(("name", "dialect"), CORPUS.items())
def test_same_bytes_for_the_corpus(name: str, dialect: str) -> None:
    (path,) = (SHARED / "corpus" / "caffemodels" / name).glob("*.caffemodel")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        decoded = decode(data, "NetParameter", dialect)
        assert not decoded.unknown
        assert again(data, decoded, dialect) == data[:]
        # what another schema does not know survives as well
        plain = decode(data, "NetParameter", "bvlc")
        assert bool(plain.unknown) == (dialect != "bvlc")
        assert again(data, plain, "bvlc") == data[:]


def test_pooling_is_read_in_the_forks_numbers() -> None:
    fork = decode(FORK.read_bytes(), "NetParameter", "sara").message
    bvlc = decode(BVLC.read_bytes(), "NetParameter", "bvlc").message
    assert [layer.name for layer in fork.layer] == [layer.name for layer in bvlc.layer]
    pools = [(a, b) for a, b in zip(fork.layer, bvlc.layer, strict=True) if a.type == "Pooling"]
    assert len(pools) == 4
    for ours, theirs in pools:
        ours.pooling_param.ClearField("avg_include_pad")
        assert ours.pooling_param == theirs.pooling_param
    misread = decode(FORK.read_bytes(), "NetParameter", "bvlc").message.layer[5].pooling_param
    assert list(misread.stride) == [3]


def test_blobs_keep_their_shapes_and_lose_their_numbers() -> None:
    data = FORK.read_bytes()
    decoded = decode(data, "NetParameter", "sara")
    conv = decoded.message.layer[1]
    assert [list(blob.shape.dim) for blob in conv.blobs] == [[6, 3, 3, 3], [6]]
    assert not conv.blobs[0].data
    (place,) = decoded.payload["layer", 1, "blobs", 0]
    assert (place.name, place.number) == ("data", 5)
    start, stop = decoded.blobs["layer", 1, "blobs", 0]
    blob = pb.BlobProto.FromString(data[start:stop])
    assert len(blob.data) == 6 * 3 * 3 * 3
    assert start <= place.start < place.stop <= stop


def test_runs_of_unpacked_numbers_are_one_place() -> None:
    numbers = b"".join(wire.tag(5, wire.FIXED32) + bytes(4) for _ in range(1000))
    doubles = b"".join(wire.tag(8, wire.FIXED64) + bytes(8) for _ in range(10))
    blob = numbers + wire.bytes_field(5, bytes(8)) + doubles
    decoded = decode(blob, "BlobProto", "bvlc")
    assert [(p.name, p.stop - p.start) for p in decoded.payload[()]] == [
        ("data", 5010),
        ("double_data", 90),
    ]


def test_enum_values_go_by_name() -> None:
    message = net('layer { type: "SoftmaxWithLoss" loss_param { normalization: NONE } }')
    for dialect, number in (("bvlc", 3), ("intel", 4), ("sara", 4), ("intel-2016", 3)):
        data = encode(message, dialect)
        assert wire.varint_field(3, number) in data
        assert decode(data, "NetParameter", dialect).message == message


def test_a_field_of_another_width() -> None:
    message = pb.UpsampleParameter(scale=2)
    data = encode(message, "segnet")
    assert data == wire.varint_field(1, 2)
    assert encode(message, "caffe-upsample")[1:] == b"\0\0\0\x40"
    lost: list[Any] = []
    assert encode(pb.UpsampleParameter(scale=1.5), "segnet", lost=lost) == b""
    assert [str(item) for item in lost] == ["scale: 1.5 (uint32 of segnet lacks it)"]


def test_texts_that_are_not_utf8_survive() -> None:
    name = "层".encode("gb18030") + b"\xf4\x8f\xbe\x81 conv"
    data = wire.bytes_field(1, name) + wire.bytes_field(2, "Größe".encode())
    decoded = decode(data, "LayerParameter", "bvlc")
    assert isinstance(decoded.message.name, str)
    assert decoded.message.name.endswith(" conv")
    assert decoded.message.type == "Größe"
    assert encode(decoded.message, "bvlc") == data


def test_unknown_fields_survive_where_they_were() -> None:
    strange = wire.bytes_field(7777, b"abc") + wire.varint_field(3, 99)
    loss = wire.bytes_field(101, wire.varint_field(1, 5) + strange)
    layer = wire.bytes_field(100, wire.bytes_field(1, b"x") + loss)
    data = wire.bytes_field(1, b"net") + layer + wire.varint_field(4000, 1)
    decoded = decode(data, "NetParameter", "bvlc")
    assert decoded.message == net('name: "net" layer { name: "x" loss_param { ignore_label: 5 } }')
    inner, enum, outer = decoded.unknown
    assert inner == Unknown(
        ("layer", 0, "loss_param"), "LossParameter", 7777, wire.bytes_field(7777, b"abc")
    )
    assert (path_text(enum.path), enum.number) == ("layer[0].loss_param", 3)
    assert (outer.path, outer.message) == ((), "NetParameter")
    assert encode(decoded.message, "bvlc", unknown=decoded.unknown) == data


def test_a_known_number_with_another_wire_type_is_unknown() -> None:
    data = wire.bytes_field(149, b"\x10\0")  # NVIDIA: bool debug
    decoded = decode(data, "LayerParameter", "nvidia")
    assert [item.wire for item in decoded.unknown] == [data]
    assert encode(decoded.message, "nvidia", unknown=decoded.unknown) == data


def test_what_a_dialect_cannot_express_is_reported() -> None:
    message = net(
        'layer { name: "p" type: "Pooling" engine: "MKLDNN" pooling_param { kernel_size: 3'
        " kernel_size: 5 stride: 2 stride: 2 avg_include_pad: false } loss_param"
        " { normalization: PRE_FIXED } }"
    )
    lost: list[Any] = []
    data = encode(message, "bvlc", lost=lost)
    mode = "LossParameter.NormalizationMode"
    assert {str(item) for item in lost} == {
        "layer[0].pooling_param.kernel_size[1]: 5 (bvlc has room for one value)",
        "layer[0].pooling_param.avg_include_pad: False (bvlc has no such field)",
        "layer[0].engine: 'MKLDNN' (bvlc has no such field)",
        f"layer[0].loss_param.normalization: PRE_FIXED ({mode} of bvlc lacks it)",
    }
    pooling = decode(data, "NetParameter", "bvlc").message.layer[0].pooling_param
    assert (list(pooling.kernel_size), list(pooling.stride)) == ([3], [2])
    with pytest.raises(DialectError, match=r"bvlc cannot express\n.*engine: 'MKLDNN'"):
        encode(net('layer { engine: "MKLDNN" }'), "bvlc")
    assert decode(encode(message, "sara"), "NetParameter", "sara").message == message


def test_packed_as_the_target_declares() -> None:
    message = pb.BlobShape(dim=[3, 4])
    assert encode(message, "bvlc") == wire.bytes_field(1, b"\x03\x04")
    unpacked = wire.varint_field(1, 3) + wire.varint_field(1, 4)
    decoded = decode(unpacked, "BlobShape", "bvlc")
    assert decoded.message == message
    # BatchSampler-like floats are declared unpacked, and read packed too
    packed = wire.bytes_field(5, bytes(8))
    values = decode(packed, "TransformationParameter", "bvlc").message
    assert list(values.mean_value) == [0, 0]
    assert encode(values, "bvlc") == (wire.tag(5, wire.FIXED32) + bytes(4)) * 2


@given(st.sampled_from(schema.dialect_names()), st.data())
@settings(max_examples=60, deadline=None)
def test_any_layer_of_a_dialect_round_trips(dialect: str, data: st.DataObject) -> None:
    own = schema.load(dialect)
    fields = own.messages["LayerParameter"].values()
    names = sorted(f.name for f in fields if f.message and f.name.endswith("_param"))
    layer = pb.LayerParameter(name="x")
    for name in data.draw(st.lists(st.sampled_from(names), max_size=3, unique=True)):
        inner = getattr(layer, name)
        inner.SetInParent()
        _fill(inner, own, data)
    wanted = encode(layer, dialect)
    decoded = decode(wanted, "LayerParameter", dialect)
    assert decoded.message == layer
    assert not decoded.unknown
    assert encode(decoded.message, dialect) == wanted


def _fill(message: Any, own: schema.Schema, data: st.DataObject) -> None:
    name = message.DESCRIPTOR.full_name.partition(".")[2]
    known = {n: f for n, f in own.messages.get(name, {}).items() if not f.message}
    picked = data.draw(st.lists(st.sampled_from(sorted(known)), max_size=4)) if known else []
    for key in picked:
        kind, enum = known[key].type, known[key].enum
        if enum:
            value: Any = data.draw(st.sampled_from(sorted(own.enums[enum])))
            value = message.DESCRIPTOR.fields_by_name[key].enum_type.values_by_name[value].number
        elif kind in ("string", "bytes"):
            value = data.draw(st.text("abc", max_size=3))
            value = value.encode() if kind == "bytes" else value
        elif kind in ("float", "double"):
            value = data.draw(st.integers(-8, 8)) / 4
        else:
            value = data.draw(st.integers(0 if kind[0] == "u" else -1, 1)) % (
                2 if kind == "bool" else 99
            )
        if message.DESCRIPTOR.fields_by_name[key].is_repeated:
            getattr(message, key).append(value)
            if known[key].label != "repeated":
                del getattr(message, key)[1:]
        else:
            setattr(message, key, value)


# --- which dialect


@pytest.mark.parametrize(("name", "dialect"), GOLDENS.items())
def test_detects_who_wrote_a_golden_file(name: str, dialect: str) -> None:
    found = detect((DIALECT / f"{name}.caffemodel").read_bytes())
    assert found.dialect == dialect
    assert found.evidence
    assert 0 < found.confidence <= 1


@needs_shared
@pytest.mark.parametrize(("name", "dialect"), CORPUS.items())
def test_detects_who_wrote_the_corpus(name: str, dialect: str) -> None:
    (path,) = (SHARED / "corpus" / "caffemodels" / name).glob("*.caffemodel")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        assert detect(data).dialect == dialect


@needs_shared
def test_all_golden_nets_of_bvlc_are_bvlcs() -> None:
    paths = [
        path
        for path in sorted((SHARED / "golden").glob("*/*/*.caffemodel"))
        if path.parts[-3] not in ("errors", "fork")
    ]
    assert len(paths) > 50
    assert {detect(path.read_bytes()).dialect for path in paths} == {"bvlc"}


def test_the_shapes_decide_the_ambiguous_pair() -> None:
    name = "fork/fork_iter_6.caffemodel"
    found = detect((DIALECT / "ambiguous_k5s1p2" / name).read_bytes())
    assert found.evidence[0] == "shapes: layer 'fc' has 576 inputs and gets as many"
    assert found.evidence[1] == "not bvlc: layer 'fc' has 576 inputs and would get 36"


@pytest.mark.parametrize("data", ["fork", "bvlc"])
def test_the_evidence_is_for_people(data: str) -> None:
    found = detect((FORK if data == "fork" else BVLC).read_bytes())
    text = "\n".join(found.evidence)
    if data == "fork":
        assert "LayerParameter.engine (149): 'CAFFE'" in text
        assert "not bvlc: a pooling would be impossible: kernel 1, stride 3, pad 1" in text
    else:
        assert "not sara: a pooling would be impossible" in text
    assert [name for name, score, why in found.alternatives if score > 0 and why]


DISTINCT = {
    "ssd": 'layer { name: "n" type: "Normalize" norm_param { across_spatial: false } }',
    "intel": 'layer { name: "r" type: "Reorg" engine: "CAFFE" reorg_param { stride: 2 } }'
    'layer { type: "RegionLoss" region_loss_param { side: 3 } }',
    "sara": 'layer { type: "Pooling" pooling_param { kernel_size: 3 stride: 2 } engine: "MKLDNN" }',
    "nvidia": 'layer { type: "Data" forward_type: FLOAT16 backward_type: FLOAT16 }'
    'layer { type: "BatchNorm" batch_norm_param { scale_bias: true } } eltwise_mem_sharing: true',
    "waifu2x": 'layer { type: "CropCenter" crop_center_param { crop_size: [0, 0, 2, 2] } }',
    "caffe-on-spark": 'layer { type: "MemoryData" source_class: "com.yahoo.ml.caffe.LMDB" }',
    "mtcnn": 'layer { type: "EuclideanLoss" loss_param { target_dim: 4 } }',
    "segnet": 'layer { type: "Upsample" upsample_param { scale: 2 upsample_h: 7 } }'
    'layer { type: "BN" bn_param { bn_mode: INFERENCE scale_filler { value: 1 } } }',
    "eric612-yolo": 'layer { type: "Yolov3" yolov3_param { num_class: 20 anchors_scale: 32 } }',
    "tsn": 'layer { type: "VideoData" video_data_param { num_segments: 3 modality: RGB } }',
    "rfcn": 'layer { type: "PSROIPooling" psroi_pooling_param { spatial_scale: 0.0625 '
    "output_dim: 21 group_size: 7 } }",
}


@pytest.mark.parametrize("dialect", DISTINCT)
def test_detects_what_we_wrote(dialect: str) -> None:
    data = encode(net(DISTINCT[dialect]), dialect)
    found = detect(data)
    assert dialect in (found.dialect, *found.also), found.evidence
    assert found.dialect != "bvlc"
    assert decode(data, "NetParameter", found.dialect).message == net(DISTINCT[dialect])


def test_two_readings_side_by_side() -> None:
    conv = 'layer { name: "c" type: "Convolution" convolution_param { num_output: 8 relu: true } }'
    data = encode(net(conv), "intel")
    with pytest.raises(DialectError) as error:
        detect(data)
    text = str(error.value)
    assert "--dialect intel" in text and "--dialect nvidia" in text
    assert "layer 'c' (Convolution)" in text
    assert "convolution_param { num_output: 8 relu: true }" in text
    assert "cudnn_convolution_algo_seeker: FINDEX" in text


def test_merged_batch_norms_tell_intel_from_nvidia() -> None:
    blobs = "blobs { shape { dim: 2 } data: [1, 2] } " * 2
    factor = "blobs { shape { dim: 1 } data: %g }"
    text = 'layer { name: "b" type: "BatchNorm" ' + blobs + factor + blobs + "}"
    intel = detect(encode(net(text % 12.5), "bvlc"))
    assert intel.dialect == "intel"
    assert "a BatchNorm would have no scale: 5 blobs" in "\n".join(intel.evidence)
    nvidia = detect(encode(net(text % 1), "bvlc"))
    assert nvidia.dialect == "nvidia"


def test_solverstates_of_the_two() -> None:
    fork = detect((DIALECT / "main/fork/fork_iter_6.solverstate").read_bytes(), "solverstate")
    assert fork.dialect == "ssd"
    assert {"sara", "intel", "nvidia"} <= set(fork.also)
    assert "SolverState.minimum_loss (5)" in fork.evidence[0]
    bvlc = detect((DIALECT / "main/bvlc/bvlc_iter_6.solverstate").read_bytes(), "solverstate")
    assert bvlc.dialect == "bvlc"


def test_old_nets() -> None:
    data = encode(
        net(
            'layers { name: "c" type: CONVOLUTION blobs { num: 1 channels: 1 height: 1 width: 2'
            " data: [1, 2] } convolution_param { num_output: 1 kernel_size: 1 } }"
        ),
        "bvlc",
    )
    assert detect(data).dialect == "bvlc"
    decoded = decode(data, "NetParameter", "bvlc")
    assert list(decoded.payload) == [("layers", 0, "blobs", 0)]


# --- hostile bytes


def test_nesting_has_an_end() -> None:
    # the OpenCL branch's MOE layers have nets in them, which have layers ...
    def nested(times: int) -> bytes:
        data = b""
        for _ in range(times):
            data = wire.bytes_field(100, wire.bytes_field(150, wire.bytes_field(2, data)))
        return data

    layer = decode(nested(20), "NetParameter", "bvlc-opencl").message.layer[0]
    assert layer.moe_param.expert_net[0].layer[0].HasField("moe_param")
    with pytest.raises(ParseError, match="100 deep"):
        decode(nested(40), "NetParameter", "bvlc-opencl")
    with pytest.raises(CaffeIOError):
        detect(nested(400))
    run = Transcoder(wire.bytes_field(1, b""), "bvlc", "canonical")
    with pytest.raises(ParseError, match="100 deep"):
        run.message(0, 2, "BlobProtoVector", "BlobProtoVector", (), 100)


def test_the_number_of_fields_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    data = wire.varint_field(4, 1) * 50
    run = Transcoder(data, "bvlc", "canonical", budget=49)
    with pytest.raises(ParseError, match="more than 1000000 fields"):
        run.message(0, len(data), "NetParameter", "NetParameter")
    monkeypatch.setattr("caffeio.proto.dialect.scorer.MAX_FIELDS", 49)
    with pytest.raises(ParseError, match="more than 49 fields"):
        detect(data)


@pytest.mark.parametrize("cut", [1, 100, 1000, 3000])
def test_a_cut_file(cut: int) -> None:
    data = FORK.read_bytes()[:-cut]
    for work in (lambda: detect(data), lambda: decode(data, "NetParameter", "sara")):
        with pytest.raises(ParseError, match="byte"):
            work()


def test_unknown_dialect() -> None:
    with pytest.raises(DialectError, match="unknown dialect 'cafe'; known are bvlc, ssd"):
        decode(b"", "NetParameter", "cafe")


@given(st.binary(max_size=200), st.sampled_from(["bvlc", "sara", "nvidia", "bvlc-opencl"]))
@settings(max_examples=300, deadline=None)
def test_any_bytes(data: bytes, dialect: str) -> None:
    try:
        decoded = decode(data, "NetParameter", dialect)
    except CaffeIOError:
        return
    encode(decoded.message, dialect, unknown=decoded.unknown)


@given(st.lists(st.tuples(st.integers(0, 3300), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_damaged_files(damage: list[tuple[int, int]]) -> None:
    data = bytearray(FORK.read_bytes())
    for place, byte in damage:
        data[place % len(data)] = byte
    try:
        found = detect(bytes(data))
        decoded = decode(bytes(data), "NetParameter", found.dialect)
    except CaffeIOError:
        return
    encode(decoded.message, found.dialect, unknown=decoded.unknown, lost=[])


@given(st.binary(max_size=100), st.sampled_from(["net", "solver", "solverstate", "blob"]))
@settings(max_examples=100, deadline=None)
def test_detect_of_any_bytes(data: bytes, kind: str) -> None:
    try:
        found = detect(data, kind)
    except CaffeIOError:
        return
    assert found.dialect in schema.dialect_names()
