"""The shapes without torch are those of the layers themselves, on torch's meta device."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from caffeio.errors import CaffeIOError
from caffeio.layers import known_types
from caffeio.net.builder import Assembler
from caffeio.net.graph import build_graph
from caffeio.profiles import profile_of_dialect
from caffeio.proto.files import NetFile, read_net
from caffeio.shapes import DATA_LAYERS, RULES, SOURCES, NetShapes, infer_net
from tests.paths import GOLDEN, SHARED, needs_shared

CASES = sorted(GOLDEN.glob("layers/*/*.prototxt")) + sorted(GOLDEN.glob("nets/*/net.prototxt"))


def with_all_inputs(shapes: NetShapes) -> dict[str, tuple[int, ...]]:
    """Shapes for every blob that a source makes; what is not known gets some size."""
    out = {}
    for node, found in zip(shapes.graph.nodes, shapes.layers, strict=True):
        if node.bottoms or node.type == "Parameter":
            continue
        for top, shape in zip(node.tops, found.tops, strict=True):
            some = (2, 3, 65, 65) if shape is None else shape
            out[top] = tuple(64 if dim < 0 else dim for dim in some)
    return out


def differences(file: NetFile, phase: str, folder: Path) -> Iterator[str]:
    """Every layer in which the two ways disagree; nothing once a layer cannot be built."""
    profile = profile_of_dialect(file.dialect)
    try:
        graph = build_graph(file.message, phase=phase)
    except CaffeIOError:
        return
    inputs = with_all_inputs(infer_net(graph, profile=profile, search_path=[folder]))
    mine = infer_net(graph, inputs, profile=profile)
    theirs = Assembler(
        build_graph(file.message, phase=phase),
        profile=profile,
        sources={},
        input_shapes=inputs,
        allow_python=False,
        search_path=[os.fspath(folder)],
    )
    for node, found in zip(theirs.graph.nodes, mine.layers, strict=True):
        try:
            layer = theirs.build(node).layer
        except CaffeIOError:
            return
        if node.type in SOURCES and node.type != "Parameter":
            continue
        a = (found.tops[: len(layer.top_shapes)], found.blobs, found.macs)
        b = (layer.top_shapes, tuple(tuple(s.shape) for s in layer.blob_specs), layer.macs())
        if a != b:
            yield f"{node.name} ({node.type}, {phase}): {a} and {b}"
    yield from (f"only shapes refuses {node.name}: {text}" for node, text in mine.problems)


def test_every_layer_type_has_a_shape_rule():
    assert set(known_types()) <= set(RULES) | DATA_LAYERS


INPUT = 'layer { name: "in" type: "Input" top: "a" top: "b" top: "c" input_param { %s } }\n'
DETECTION = (
    "shape { dim: 2 dim: 125 dim: 13 dim: 13 } " + 2 * "shape { dim: 2 dim: 1 dim: 9 dim: 8 }"
)
SAME = "shape { dim: 2 dim: 3 dim: 4 dim: 5 }"


@pytest.mark.parametrize(
    "text",
    [
        INPUT % DETECTION + """
        layer { name: "x" type: "EvalDetection" bottom: "a" bottom: "b" bottom: "c" top: "y"
                eval_detection_param { side: 13 num_class: 20 num_object: 5 %s } }"""
        % (10 * "biases: 1 "),
        INPUT % SAME + """
        layer { name: "x" type: "SegmentationEvaluate" bottom: "a" bottom: "b" top: "y"
                segmentation_evaluate_param { num_classes: 3 } }""",
        INPUT % SAME + """
        layer { name: "x" type: "ContinuationIndicator" bottom: "a" top: "y"
                continuation_indicator_param { time_step: 4 } }""",
        """
        layer { name: "x" type: "LaneData" top: "a" top: "b" top: "c"
                transform_param { resize_param { height: 64 width: 32 } }
                data_param { batch_size: 2 } }""",
    ],
    ids=["EvalDetection", "SegmentationEvaluate", "ContinuationIndicator", "LaneData"],
)  # fmt: skip
def test_rare_types(text, tmp_path):
    assert list(differences(read_net(text), "TRAIN", tmp_path)) == []


@pytest.mark.parametrize("path", CASES, ids=[f"{p.parent.name}-{p.stem}" for p in CASES])
def test_golden_nets(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    file = read_net(path)
    for phase in ("TRAIN", "TEST"):
        assert list(differences(file, phase, path.parent)) == []


@needs_shared
@pytest.mark.parametrize("part", range(4))
def test_nets_of_the_world(part):
    rows = csv.DictReader((SHARED / "corpus" / "index.csv").read_text().splitlines())
    paths = [SHARED / "corpus" / row["path"] for row in rows if row["kind"] == "net"]
    for path in paths[part::20]:  # a fifth of them: the whole is minutes
        file = read_net(path)
        phase = "TRAIN" if part % 2 else "TEST"
        assert list(differences(file, phase, path.parent)) == [], path
