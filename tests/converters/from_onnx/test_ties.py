"""Indices of numbers that are equal but for rounding, and of those that are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from caffeio.converters.from_onnx.compile import Compiled, compile_model
from caffeio.converters.from_onnx.ties import settled
from caffeio.converters.from_onnx.verify import check, verify
from caffeio.errors import CaffeIOError
from tests.converters.from_onnx.helpers import Of, export

pytest.importorskip("onnxruntime")
X = torch.randn(1, 3, 9, 8, generator=torch.Generator().manual_seed(0))


def labels(choose: Any) -> tuple[nn.Module, nn.Conv2d]:
    """A segmentation net two of whose five classes have one score everywhere."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3)
    with torch.no_grad():
        conv.weight[3], conv.bias[3] = conv.weight[1], conv.bias[1]  # type: ignore[index]
    return Of(lambda m, x: choose(m[0](x)), conv), conv


def shifted(net: Compiled, *by: float) -> Compiled:
    """The Caffe net with other scores of its classes."""
    conv = next(layer for layer in net.layers if layer.type_name == "Convolution")
    conv.blobs[1] = conv.blobs[1] + np.float32(by)
    return net


@pytest.mark.parametrize(
    "choose",
    [
        lambda y: y.argmax(1),
        lambda y: y.argmax(1, keepdim=True),
        lambda y: y.argmin(1),
        lambda y: y.permute(0, 2, 3, 1).argmax(3),
        lambda y: y.flatten(2).argmax(1).float(),
    ],
)
def test_of_equal_scores_either_index_is_right(choose: Any) -> None:
    net = compile_model(export(labels(choose)[0], X))
    report = verify(net)
    check(report, "net")
    assert report.worst == 0
    assert any("indices are other ones of numbers that are equal" in note for note in report.notes)
    check(verify(shifted(net, 0, 1e-6, 0, 0, 0)), "net")
    with pytest.raises(CaffeIOError, match="differ"):
        check(verify(shifted(net, 0, 0.1, 0, 0.1, 0)), "net")


def test_which_indices_are_settled() -> None:
    scores = np.array([[1, 2, 2 - 1e-7, np.inf, -3], [0, 5, 1, 1, 5]], np.float32)
    theirs = {"y": np.array([3, 1]), "caffeio:chosen:1:y": scores, "z": np.array([1.5])}
    for mine, wanted, count in (
        ([3, 1], [3, 1], 0), ([3, 4], [3, 1], 1), ([1, 4], [1, 1], 1), ([3, 2], [3, 2], 0),
        ([3, 4.5], [3, 4.5], 0), ([3, 5], [3, 5], 0), ([3, -1], [3, -1], 0),
    ):  # fmt: skip
        found, ties = settled("y", np.array(mine, np.float32), theirs)
        assert (found.tolist(), ties) == (wanted, count)
    assert settled("z", np.array([1.25]), theirs)[1] == 0
    assert settled("y", np.array([[3, 1]]), theirs)[1] == 0
    colon = {"a:y": theirs["y"], "caffeio:chosen:1:a:y": scores, "y": np.array([3, 1])}
    assert settled("a:y", np.array([3, 4]), colon)[1] == 1
    assert settled("y", np.array([3, 4]), colon)[1] == 0  # no ArgMax made it
