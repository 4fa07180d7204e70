"""What a signal, or whoever else watches a training, may ask of it."""

from __future__ import annotations

import enum


class Action(enum.IntEnum):
    """Looked at once an iteration and before each test batch."""

    NONE = 0
    SNAPSHOT = 1
    STOP = 2
