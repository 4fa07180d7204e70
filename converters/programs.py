"""Programs of torch.export, read without what torch logs of it."""

from __future__ import annotations

import logging
import os
from typing import Any


def load_program(path: str | os.PathLike[str]) -> Any:
    """The program that torch.export.save wrote.

    Raises what torch raises of a file that is none; its log has a traceback of the same beforehand.
    """
    import torch

    logger = logging.getLogger("torch.export")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        return torch.export.load(path)
    finally:
        logger.setLevel(before)
