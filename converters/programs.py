"""Programs of torch.export, read without what torch logs of it."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any


def load_program(path: str | os.PathLike[str]) -> Any:
    """The program that torch.export.save wrote.

    Raises what torch raises of a file that is none; its log has a traceback of the same beforehand.
    Some releases (2.11) warn of the buffers that they read themselves: nothing of ours.
    """
    import torch

    logger = logging.getLogger("torch.export")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            return torch.export.load(path)
    finally:
        logger.setLevel(before)
