"""The open data sources of a net: by layer name, all or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from caffeio.data import SOURCE_TYPES, DataSource, Options, open_source
from caffeio.data.base import SourceContext
from caffeio.errors import CaffeIOError, DataError
from caffeio.layers.registry import batch_message
from caffeio.net.graph import NetGraph
from caffeio.profiles import Profile


def open_sources(
    graph: NetGraph,
    profile: Profile,
    search_path: Sequence[str],
    options: Options,
    *,
    errors: dict[str, CaffeIOError] | None = None,
) -> dict[str, DataSource]:
    """Open what the data layers of `graph` read, by layer name (`Node.key`).

    With `errors` a source that cannot be opened is noted there and left out. Else DataError is
    raised; the sources that were open are closed then.
    """
    sources: dict[str, DataSource] = {}
    try:
        for node in graph.nodes:
            if node.type not in SOURCE_TYPES:
                continue
            try:
                sources[node.key] = open_source(
                    node.param,
                    phase=graph.phase,
                    profile=profile,
                    search_path=search_path,
                    where=node.where,
                    options=options,
                )
            except DataError as error:
                if errors is None:
                    raise
                errors[node.key] = error
    except BaseException:
        close_sources(sources)
        raise
    return sources


def close_sources(sources: Mapping[str, DataSource]) -> None:
    """Stop the threads and close the files of all of them."""
    for source in sources.values():
        source.close()


def check_sources(graph: NetGraph, profile: Profile, search_path: Sequence[str]) -> None:
    """Raise DataError if a data layer names a source or a mean file that is not there.

    Nothing is opened, and no torch is needed.
    """
    for node in graph.nodes:
        field = batch_message(node.type)
        if node.type not in SOURCE_TYPES or not hasattr(getattr(node.param, field, None), "source"):
            continue
        context = SourceContext(
            node.param, profile=profile, search_path=tuple(search_path), where=node.where
        )
        named = {f"{field}.source": getattr(node.param, field).source}
        t = node.param.transform_param
        if t.mean_file and not t.mean_value:  # both are an error of their own
            named["transform_param.mean_file"] = t.mean_file
        for place, name in named.items():
            if "%" not in name:  # Intel's placeholders are filled when the workers are known
                context.find(name, place)
