"""Every error that a user's file or option can cause: the whole tree on one screen."""

from __future__ import annotations

from collections.abc import Callable

Locator = Callable[..., str]  # the path of a field or a layer -> "file:line:column"


class CaffeIOError(Exception):
    """Base of all caffeio errors; its text is shown to the user as it is, exit code 2.

    `where` names the place: "file:line:column", "layer 'conv1'", a path. It is put in front.
    """

    def __init__(self, message: str, *, where: str | None = None) -> None:
        self.message, self.where = message, where
        super().__init__(f"{where}: {message}" if where else message)


class ParseError(CaffeIOError):
    """A prototxt or a binary file is not well-formed."""


class DialectError(CaffeIOError):
    """A file fits none of the known Caffe dialects, or more than one with different meanings."""


class NetError(CaffeIOError):
    """The layers of a net do not fit together (unknown bottoms, blob counts, rules ...)."""


class UnknownLayerError(NetError):
    """A layer type has no definition."""


class LayerError(NetError):
    """A layer's parameters are wrong, or do not fit the shapes of its bottoms."""


class WeightsError(CaffeIOError):
    """Weights are missing, broken, or those of another net."""


class DataError(CaffeIOError):
    """A data source is missing, broken, or its records do not fit."""


class SolverError(CaffeIOError):
    """A solver's fields contradict each other or name something unknown."""


class SnapshotError(CaffeIOError):
    """A snapshot cannot be written or resumed from."""


class OutOfMemoryError(CaffeIOError):
    """A net, a batch or a file needs more memory than there is."""


class UnsupportedError(CaffeIOError):
    """The wanted conversion or mode exists, but not for this layer, field or format."""
