"""Prototxt out of a caffemodel, and a binary NetParameter out of a prototxt."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from caffeio.converters.deploy.deploy import deploy as make_deploy
from caffeio.converters.deploy.deploy import drop_fillers, from_snapshot
from caffeio.converters.netstate import located
from caffeio.converters.splits import heal_splits
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.dialect.dialect import Lost, Unknown, decode, detect, encode
from caffeio.proto.dialect.transcode import path_text
from caffeio.proto.files import read_net
from caffeio.proto.io.atomic import atomic_write
from caffeio.proto.io.mapped import foreign, is_hdf5, map_file
from caffeio.proto.text.printer import format_message
from caffeio.proto.upgrade.upgrade import upgrade_net


@dataclass
class Rebuilt:
    """A net out of a caffemodel: canonical, without blobs; `notes` say what was done to it."""

    message: pb.NetParameter
    dialect: str
    notes: list[str] = field(default_factory=list)
    unknown: list[Unknown] = field(default_factory=list)

    def text(self) -> str:
        """The prototxt. What no schema knows has no text form; comments tell of it."""
        lost = [
            f"# {path_text(item.path) or 'the net'}: field {item.number} of {item.message}"
            f" ({len(item.wire)} bytes) has no known name\n"
            for item in self.unknown
        ]
        return "".join(lost) + format_message(self.message, dialect=self.dialect)


def read(
    path: str | os.PathLike[str],
    *,
    dialect: str | None = None,
    deploy: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> Rebuilt:
    """Rebuild the net of a caffemodel, in today's form, without the Splits that Caffe put in.

    `deploy` makes a net for use of it (`converters.deploy.deploy`), with `input_shapes` by blob
    name where the file does not tell. Raises DialectError if the dialect is not clear, ParseError
    for broken bytes, UnsupportedError for HDF5 and for unknown input shapes.
    """
    data = map_file(path, CaffeIOError, "a caffemodel")
    if is_hdf5(data):
        raise UnsupportedError("an HDF5 file holds weights without a net", where=str(path))
    if kind := foreign(data):
        raise CaffeIOError(f"{kind}; a caffemodel was expected", where=str(path))
    try:
        chosen = dialect or detect(data).dialect
        decoded = decode(data, "NetParameter", chosen)
        upgraded = upgrade_net(decoded.message, dialect=chosen, path=str(path))
        unknown = [item for item in decoded.unknown if "blobs" not in item.path]
        out = Rebuilt(upgraded.message, chosen, list(upgraded.done), unknown)
        if count := heal_splits(out.message):
            out.notes.append(f"{count} Split layers that Caffe had put in are gone")
        if deploy:
            out.notes += from_snapshot(out.message)
            out.notes += make_deploy(out.message, input_shapes)
            drop_fillers(out.message, {layer.name for layer in out.message.layer if layer.blobs})
    except CaffeIOError as error:
        raise located(error, path) from None
    for layer in out.message.layer:
        layer.ClearField("blobs")
    return out


def write(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    dialect: str | None = None,
    deploy: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> Rebuilt:
    """Write the prototxt of the caffemodel `src` as `dst`; the rest is as for `read`."""
    rebuilt = read(src, dialect=dialect, deploy=deploy, input_shapes=input_shapes)
    with atomic_write(dst, error=CaffeIOError) as file:
        file.write(rebuilt.text().encode("utf-8", "surrogateescape"))
    return rebuilt


def write_binary(
    src: str | os.PathLike[str], dst: str | os.PathLike[str], *, dialect: str | None = None
) -> list[Lost]:
    """Write the prototxt `src` as a binary NetParameter without weights; return what is lost.

    The dialect is the one that the text is written for, unless given.
    """
    net = read_net(src, upgrade=False)
    lost: list[Lost] = []
    data = encode(net.message, dialect or net.dialect, lost=lost)
    lost += [Lost((item.path,), item.text, f"unknown field {item.name!r}") for item in net.unknown]
    with atomic_write(dst, error=CaffeIOError) as file:
        file.write(data)
    return lost
