"""The one thing that texts need of the wire format: the bytes of an integer."""

from __future__ import annotations

_MASK64 = (1 << 64) - 1
_SMALL = [bytes([i]) for i in range(0x80)]


def varint(value: int) -> bytes:
    """Encode an integer; negative ones take ten bytes, as protobuf's int32 and int64 do."""
    if 0 <= value < 0x80:
        return _SMALL[value]
    value &= _MASK64
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
