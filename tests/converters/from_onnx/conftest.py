"""Every net that a test here makes of ONNX has the shapes that the operators' forms told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from caffeio.converters.from_onnx import compile as compiling
from caffeio.net.graph import build_graph
from caffeio.net.shapes import infer_net
from caffeio.profiles import profile_of_dialect


@pytest.fixture(autouse=True)
def shapes_are_those_of_the_layer_types(monkeypatch: pytest.MonkeyPatch) -> None:
    finished: Callable[[Any, Any], Any] = compiling._finished

    def checked(w: Any, model: Any) -> Any:
        net = finished(w, model)
        profile = profile_of_dialect(net.target.dialect)
        found = infer_net(build_graph(net.message(), phase="TEST"), profile=profile)
        assert not found.problems
        pairs = zip(found.graph.nodes, found.layers, strict=True)
        dynamic = {top for node, shapes in pairs if shapes.dynamic for top in node.tops}
        for name, shape in found.blobs.items():
            told = w.shapes.get(name)
            fits = told is None or shape is None or tuple(told) == tuple(shape)
            assert fits or name in dynamic, name
        return net

    monkeypatch.setattr(compiling, "_finished", checked)
