"""Scalars of a training for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from caffeio.errors import UnsupportedError


class Board:
    """Writes train/loss, train/lr, train/images_per_s and test/NAME into a folder.

    Iterations of a chain's phases go on from those before. Raises UnsupportedError without the
    package tensorboard. A disk that fails later ends the board with one warning.
    """

    def __init__(self, folder: str, warn: Callable[[str], None]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UnsupportedError(
                "--tensorboard needs the package tensorboard: pip install 'caffeio[tensorboard]'"
            ) from None
        self.folder, self.warn = folder, warn
        self.start = self.last = 0
        try:
            self._writer: Any = SummaryWriter(folder)
        except OSError as error:
            self._writer = None
            self._fail(error)

    def begin(self, iteration: int) -> None:
        """A phase begins, or goes on, at `iteration`."""
        if iteration == 0 and self.last:
            self.start = self.last + 1

    def iteration(self, entry: Mapping[str, Any], speed: float) -> None:
        """Write loss and rate of an iteration."""
        at = self.start + entry["iter"] - 1
        self.last = at
        self._add("train/loss", float(entry["loss"]), at)
        self._add("train/lr", float(entry["lr"]), at)
        self._add("train/images_per_s", speed, at)

    def test(self, iteration: int, net: int, means: Mapping[str, float]) -> None:
        """Write the scores of a test."""
        for name, value in means.items():
            self._add(f"test/{name}" if not net else f"test/#{net} {name}", value,
                      self.start + iteration)  # fmt: skip

    def _add(self, tag: str, value: float, at: int) -> None:
        if self._writer is not None:
            try:
                self._writer.add_scalar(tag, value, at)
            except (OSError, RuntimeError) as error:
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._writer = None
        self.warn(f"{self.folder}: TensorBoard gets nothing more: {error}")

    def close(self) -> None:
        """Write what is waiting."""
        if self._writer is not None:
            try:
                self._writer.close()
            except (OSError, RuntimeError) as error:
                self._fail(error)
