"""What the shell completes behind --set and `edit`: fields, and the names of a net's layers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # before click 8.3 it takes no type

_LAYER = re.compile(r"layer\[([^\]]*)$")


class Setting(_ParamType):
    """`KEY=VALUE`; completes fields of the file and, behind `layer[`, names of its layers."""

    name = "setting"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """What may follow; nothing if the files cannot be read."""
        from caffeio.errors import CaffeIOError

        try:
            return [CompletionItem(text) for text in _keys(_files(ctx), incomplete)]
        except (CaffeIOError, OSError):
            return []


def _files(ctx: click.Context) -> list[str]:
    """The nets and solvers on the command line so far."""
    found: list[str] = []
    for name in ("solvers", "model", "file", "solver_option", "model_option"):
        value = ctx.params.get(name)
        found += [value] if isinstance(value, str) else list(value or ())
    # While an option waits for its value, click leaves all words unparsed.
    found += [word for word in ctx.args if os.path.isfile(word)]
    return list(dict.fromkeys(found))


def _keys(files: Iterable[str], incomplete: str) -> Iterator[str]:
    from caffeio.converters.kinds import kind_of
    from caffeio.proto import caffe_pb2 as pb

    typed = _LAYER.match(incomplete)
    known: set[str] = set()
    for file in files:
        kind = kind_of(file)
        if typed is None:
            message = pb.SolverParameter if kind == "solver" else pb.NetParameter
            known |= {f"{name}=" for name in message.DESCRIPTOR.fields_by_name}
        else:
            known |= {f"layer[{name}]." for name in _layers(file, kind)}
    if typed is None and files:
        known.add("layer[")
    yield from sorted(text for text in known if text.startswith(incomplete))


def _layers(file: str, kind: str) -> Iterator[str]:
    from caffeio.proto.files import read_net, read_solver
    from caffeio.training.net_specs import train_spec

    net = train_spec(read_solver(file)).message if kind == "solver" else read_net(file).message
    yield from (layer.name for layer in net.layer)
