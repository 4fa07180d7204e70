"""Shapes, parameters and MACs that are told without torch are those of the net that is built."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from caffeio.data import Options
from caffeio.errors import CaffeIOError
from caffeio.net.builder import Assembler, share_params
from caffeio.net.graph import LayerNode, build_graph
from caffeio.net.shapes import LayerShapes, NetShapes, class_asked, infer_net, is_known
from caffeio.net.sources import close_sources, open_sources
from caffeio.net.step import Step
from caffeio.ops.module import Layer
from caffeio.profiles import profile_of_dialect
from caffeio.proto.files import NetFile, read_net
from tests.corpus import by_day
from tests.paths import GOLDEN, SHARED, needs_shared

CASES = sorted(GOLDEN.glob("layers/*/*.prototxt")) + sorted(GOLDEN.glob("nets/*/net.prototxt"))
Shape = tuple[int, ...]


def with_all_inputs(shapes: NetShapes) -> dict[str, Shape]:
    """Shapes for every blob that a source makes; what is not known gets some size."""
    out = {}
    for node, found in zip(shapes.graph.nodes, shapes.layers, strict=True):
        if node.bottoms or node.type == "Parameter":
            continue
        for top, shape in zip(node.tops, found.tops, strict=True):
            some = (2, 3, 65, 65) if shape is None else shape
            out[top] = tuple(64 if dim < 0 else dim for dim in some)
    return out


def fits(told: Shape | None, real: Shape) -> bool:
    """Whether what is told of a shape is true, as far as it goes."""
    if told is None:
        return True
    return len(told) == len(real) and all(a in (-1, b) for a, b in zip(told, real, strict=True))


def _is_asked(node: LayerNode) -> bool:
    cls = class_asked(node.param)
    return cls is not None and not cls.runs_code


def _layer_differences(layer: Layer, found: LayerShapes, title: str, given: bool) -> Iterator[str]:
    tops, blobs = layer.top_shapes, tuple(spec.shape for spec in layer.blob_specs)
    told = (found.tops[: len(tops)], found.blobs, found.macs)
    whole = given and found.known_type
    if whole and told != (tops[: len(found.tops)], blobs, layer.macs()):
        yield f"{title}: {told}; {(tops, blobs, layer.macs())}"
    pairs = zip((*told[0], *told[1]), (*tops[: len(told[0])], *blobs), strict=False)
    if not all(fits(a, b) for a, b in pairs):
        yield f"{title}: {told} contradicts {(tops, blobs)}"


def differences(file: NetFile, phase: str, folder: Path, *, given: bool) -> Iterator[str]:
    """Every layer of which the net without torch and the built one tell different things.

    `given`: all inputs have known shapes, so everything must be known; else what is known must be
    true. A layer that is refused must be refused by both; what hangs on it is looked at no more.
    """
    profile = profile_of_dialect(file.dialect)
    try:
        graph = build_graph(file.message, phase=phase, profile=profile)
    except CaffeIOError:
        return  # both need the graph
    mine = infer_net(graph, profile=profile, search_path=[folder])
    inputs = with_all_inputs(mine) if given else {}
    if given:
        mine = infer_net(graph, inputs, profile=profile, search_path=[folder])
    refused = defaultdict(list)
    for refused_node, text in mine.problems:
        refused[id(refused_node)].append(text)
    folders = [os.fspath(folder)]
    sources = open_sources(graph, profile, folders, Options(threads=0), errors={})
    close_sources(sources)  # their shapes are enough
    net = Assembler(
        build_graph(file.message, phase=phase, profile=profile),
        profile=profile, sources=sources, input_shapes=inputs, allow_python=False,
        search_path=folders,
    )  # fmt: skip
    lost: set[str] = set()
    steps: list[Step] = []
    for mine_node, node, found in zip(graph.nodes, net.graph.nodes, mine.layers, strict=True):
        if lost.intersection(node.bottoms):
            lost.update(node.tops)
            continue
        try:
            step = net.build(node)
        except CaffeIOError as error:
            lost.update(node.tops)
            known = all(is_known(mine.blobs.get(name)) for name in node.bottoms)
            told = refused.pop(id(mine_node), [])
            if known and _is_asked(node) and error.message not in told:
                yield f"{node.name} ({node.type}, {phase}): built: {error}; told: {told or found}"
            continue
        steps.append(step)
        yield from _layer_differences(
            step.layer, found, f"{node.name} ({node.type}, {phase})", given
        )
    try:
        share_params(steps)
    except CaffeIOError as error:
        told = [text for texts in refused.values() for text in texts]
        if error.message not in told and not lost and all(f.set_up for f in mine.layers):
            yield f"built: {error}; told: {told}"
        return
    if refused and not lost:
        yield f"told: {dict(refused)}; it is built"


@pytest.mark.parametrize("path", CASES, ids=[f"{p.parent.name}-{p.stem}" for p in CASES])
def test_golden_nets(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    file = read_net(path)
    for phase in ("TRAIN", "TEST"):
        for given in (True, False):
            assert list(differences(file, phase, path.parent, given=given)) == []


@needs_shared
@pytest.mark.parametrize("part", range(4))
def test_nets_of_the_world(part):
    rows = csv.DictReader((SHARED / "corpus" / "index.csv").read_text().splitlines())
    paths = by_day([SHARED / "corpus" / row["path"] for row in rows if row["kind"] == "net"])
    wrong = []
    for number, path in enumerate(paths[part::4]):
        try:
            file = read_net(path)
        except CaffeIOError:
            continue  # both need a file that is one net
        for phase in ("TRAIN", "TEST"):
            found = differences(file, phase, path.parent, given=bool(number % 3))
            wrong += [f"{path}: {text}" for text in found]
    assert wrong == []
