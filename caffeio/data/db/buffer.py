"""What databases give: bytes of their own, or views of a map."""

from __future__ import annotations

Buffer = bytes | memoryview
