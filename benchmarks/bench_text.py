"""Parsing prototxt: our text_format against google.protobuf.text_format, in the same run.

    python benchmarks/bench_text.py [FILE.prototxt]

Without a file a ResNet of about 3,000 lines is made. `first` is the first parse of the process,
which fills the tables; `again` is a later one; `cold` has its tables emptied every time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from google.protobuf import text_format

from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.text import tables
from caffeio.proto.text.document import Document
from caffeio.proto.text.text_format import format_message, parse

LAYERS = """
layer {{
  name: "conv{0}"
  type: "Convolution"
  bottom: "relu{1}"
  top: "conv{0}"
  convolution_param {{
    num_output: {2}
    bias_term: false
    pad: 1
    kernel_size: 3
    weight_filler {{
      type: "msra"
      variance_norm: FAN_OUT
    }}
  }}
}}
layer {{
  name: "bn{0}"
  type: "BatchNorm"
  bottom: "conv{0}"
  top: "bn{0}"
  param {{ lr_mult: 0 }}
  param {{ lr_mult: 0 }}
  param {{ lr_mult: 0 }}
  batch_norm_param {{
    moving_average_fraction: 0.95
  }}
}}
layer {{
  name: "scale{0}"
  type: "Scale"
  bottom: "bn{0}"
  top: "bn{0}"
  param {{ decay_mult: 0 }}  # no decay
  param {{ decay_mult: 0 }}
  scale_param {{
    bias_term: true
  }}
}}
layer {{
  name: "relu{0}"
  type: "ReLU"
  bottom: "bn{0}"
  top: "relu{0}"
}}
"""


def resnet() -> str:
    return 'name: "net"\n' + "".join(LAYERS.format(i, i - 1, 64 << i % 6) for i in range(1, 66))


def best(function: Callable[[], object], seconds: float = 1.0) -> float:
    """The fastest of as many runs as fit into the time, in milliseconds."""
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def cold(text: str) -> None:
    tables.table.cache_clear()
    parse(text, pb.NetParameter)


def main() -> None:
    text = Path(sys.argv[1]).read_text() if len(sys.argv) > 1 else resnet()
    start = time.perf_counter()
    parsed = parse(text, pb.NetParameter)
    first = (time.perf_counter() - start) * 1e3
    assert parsed.message == text_format.Parse(text, pb.NetParameter(), allow_unknown_field=True)
    again = best(lambda: parse(text, pb.NetParameter))
    fresh = best(lambda: cold(text))
    theirs = best(lambda: text_format.Parse(text, pb.NetParameter(), allow_unknown_field=True))
    tree = best(lambda: Document(text, pb.NetParameter))
    shown = best(lambda: format_message(parsed.message))
    google = best(lambda: text_format.MessageToString(parsed.message))
    print(f"{text.count(chr(10))} lines, {len(text)} characters")
    print(f"parse, first in the process    {first:7.2f} ms")
    print(f"parse, tables emptied          {fresh:7.2f} ms   {theirs / fresh:5.1f} x")
    print(f"parse, again                   {again:7.2f} ms   {theirs / again:5.1f} x")
    print(f"google.protobuf.text_format    {theirs:7.2f} ms   1.0 x")
    print(f"the lossless tree, if asked    {tree:7.2f} ms")
    print(f"format_message                 {shown:7.2f} ms   {google / shown:5.1f} x")
    print(f"text_format.MessageToString    {google:7.2f} ms   1.0 x")


if __name__ == "__main__":
    main()
