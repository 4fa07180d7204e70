"""Fields that no known Caffe has: kept when a file is read, refused when a net is built of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from caffeio.errors import ParseError
from caffeio.net.graph import is_included
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.text.text_format import UnknownField

_LAYER = re.compile(r"layer\[(\d+)\]")


def refuse_unknown(unknown: Sequence[UnknownField]) -> None:
    """Raise ParseError if there is any: a misspelt field would change numbers in silence."""
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise ParseError(
            f"{unknown[0]}{more}; no known Caffe has it, and a net without what it says may "
            "compute something else"
        )


def of_active_layers(
    unknown: Iterable[UnknownField], net: pb.NetParameter, state: pb.NetState
) -> list[UnknownField]:
    """Those that matter in `state`: at the net's own level, or in layers that take part."""
    return [field for field in unknown if _matters(field, net, state)]


def _matters(field: UnknownField, net: pb.NetParameter, state: pb.NetState) -> bool:
    found = _LAYER.match(field.path)
    index = int(found.group(1)) if found else len(net.layer)
    return index >= len(net.layer) or is_included(net.layer[index], state)
