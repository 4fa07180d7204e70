"""All blobs of a forward that ran prepared: computed by the layers as written, when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor


class LateBlobs(Mapping[str, Tensor]):
    """The outputs as they were returned; any other blob from a second forward of the same inputs.

    That forward runs once, at the first question for a blob that is no output.
    """

    def __init__(self, outputs: Mapping[str, Tensor], run: Callable[[], dict[str, Tensor]]) -> None:
        self._outputs = dict(outputs)
        self._run = run
        self._all: dict[str, Tensor] | None = None

    def _every(self) -> dict[str, Tensor]:
        if self._all is None:
            self._all = {**self._run(), **self._outputs}
        return self._all

    def __getitem__(self, name: str) -> Tensor:
        return self._outputs[name] if name in self._outputs else self._every()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._every())

    def __len__(self) -> int:
        return len(self._every())
