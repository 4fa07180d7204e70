"""Lists of images and labels, as ImageData and convert_imageset read them.

Sources: src/caffe/layers/image_data_layer.cpp, tools/convert_imageset.cpp.
"""

from __future__ import annotations

import os
import re

_ATOI = re.compile(rb"\s*([+-]?\d+)")


def parse_list(data: bytes) -> list[tuple[str, int]]:
    """(path, label) of every line: all up to the last blank, and the integer behind it.

    As in C's atoi the label ends at the first character that is no digit, and is 0 without any.
    """
    lines = data.split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    out = []
    for line in lines:
        path, blank, label = line.rpartition(b" ")
        number = _ATOI.match(label)
        out.append((os.fsdecode(path if blank else line), int(number[1]) if number else 0))
    return out
