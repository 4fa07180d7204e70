"""What is said about the pictures that a converted net reads."""

from __future__ import annotations

from contextlib import suppress

from caffeio.converters.preprocessing import recipe_of
from caffeio.converters.request import Conversion
from caffeio.errors import CaffeIOError
from caffeio.proto.files import read_net


def told_preprocessing(job: Conversion) -> list[str]:
    """One line a step of the preprocessing, where the net's file tells it."""
    from caffeio.net.graph import build_graph
    from caffeio.net.shapes import infer_net

    r = job.request
    with suppress(CaffeIOError):
        file = read_net(job.sources[0], dialect=r.dialect)
        graph = build_graph(file.message, phase="TEST", level=r.level, stages=r.stage)
        shapes = infer_net(graph, r.input_shape, search_path=(str(job.sources[0].parent),))
        tops = [top for node in graph.nodes if not node.param.bottom for top in node.param.top]
        found = recipe_of(file.message, {name: shapes.blobs.get(name) for name in tops})
        if found is not None and found.told:
            lines = [f"  {title}: {words}" for title, words in found.rows()]
            how = f"caffeio show {job.sources[0]} --script onnxruntime (opencv, pytorch)"
            return [f"pictures for it (`{how}` prints a program):", *lines]
    return []
