"""Forms that OpenCV 4 computes as well: it is wrong about some operators without a word.

OpenCV 4.14 reduces over three axes at once wrongly, and does not see `count_include_pad`. Both were
found by running these layers there; the forms avoid them.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import caffeio
from caffeio.cli.main import main
from caffeio.converters.onnx.choices import Choices
from caffeio.converters.onnx.export import export_onnx
from caffeio.errors import UnsupportedError

onnx = pytest.importorskip("onnx")
LAYERS = """
Reduction | reduction_param { axis: 1 operation: SUM coeff: 0.5 }
Reduction | reduction_param { axis: 1 operation: ASUM }
Reduction | reduction_param { axis: 1 operation: SUMSQ }
Reduction | reduction_param { axis: 1 operation: MEAN }
Reduction | reduction_param { axis: 2 operation: SUMSQ }
Reduction | reduction_param { axis: 3 operation: SUM }
MVN | mvn_param { across_channels: true }
MVN | mvn_param { across_channels: true normalize_variance: false }
MVN |
Normalize | norm_param { across_spatial: true }
Normalize | norm_param { across_spatial: false channel_shared: false }
LRN | lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 alpha: 2 }
LRN | lrn_param { local_size: 3 alpha: 0.5 }
Pooling | pooling_param { pool: AVE kernel_size: 3 stride: 1 pad: 1 }
Pooling | pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }
Pooling | pooling_param { pool: AVE kernel_size: 2 stride: 2 pad: 1 }
Pooling | pooling_param { pool: AVE kernel_h: 5 kernel_w: 3 pad_h: 2 pad_w: 1 }
SPP | spp_param { pyramid_height: 2 pool: AVE }
Softmax | softmax_param { axis: 2 }
"""
HEAD = """layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 2 dim: 4 dim: 6 dim: 8 } } }
"""


@pytest.mark.parametrize("row", LAYERS.strip().splitlines())
@pytest.mark.parametrize("opset", [11, 17, 21])
def test_opencv_4_computes_the_same(row: str, opset: int, tmp_path: Path) -> None:
    kind, fields = (part.strip() for part in row.split("|"))
    text = f'{HEAD}layer {{ name: "x" type: "{kind}" bottom: "data" top: "y" {fields} }}'
    export_onnx(text, None, tmp_path / "m.onnx", choices=Choices(opset=opset))
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 8)).astype(np.float32)
    with torch.no_grad():
        wanted = caffeio.load_net(text)({"data": torch.from_numpy(x)})["y"].numpy()
    net = cv2.dnn.readNetFromONNX(str(tmp_path / "m.onnx"))
    net.setInput(x)
    found = net.forward()
    assert found.size == wanted.size
    assert np.abs(found.reshape(wanted.shape) - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_a_blob_without_axes_is_refused_for_opencv(tmp_path: Path) -> None:
    """OpenCV would end the process."""
    text = f'{HEAD}layer {{ name: "x" type: "Reduction" bottom: "data" top: "y" }}'
    with pytest.raises(UnsupportedError, match=r"layer 'x' .* OpenCV 4 has no blobs without axes"):
        export_onnx(text, None, tmp_path / "m.onnx", choices=Choices(client="opencv"))


def test_what_opencv_cannot_read_is_not_written_for_it(tmp_path: Path) -> None:
    net, out = tmp_path / "n.prototxt", tmp_path / "m.onnx"
    head = HEAD.replace('top: "data"', 'top: "data" top: "s"')
    head = head.replace("dim: 8 } }", "dim: 8 } shape { dim: 2 dim: 1 } }")
    net.write_text(head + 'layer { name: "x" type: "Filter" bottom: "data" bottom: "s" top: "y" }')
    result = CliRunner().invoke(main, ["convert", str(net), str(out), "--for", "opencv"])
    assert result.exit_code == 2 and "cannot read the model" in result.stderr
    assert not out.exists()
