"""The files that curves are written to: their suffixes."""

from __future__ import annotations

import os
from pathlib import Path

from caffeio.errors import UnsupportedError

PICTURES = (".png", ".svg", ".pdf")


def require_suffix(path: str | os.PathLike[str]) -> str:
    """The suffix of a file for curves. Raises UnsupportedError, before any work, for another."""
    suffix = Path(path).suffix.lower()
    if suffix != ".csv" and suffix not in PICTURES:
        raise UnsupportedError(
            f"curves are written as .csv, {', '.join(PICTURES)}", where=os.fspath(path)
        )
    return suffix
