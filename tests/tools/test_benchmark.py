"""`caffeio time`: whose time is whose, and how many images that makes a second."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from caffeio.data.sources.memory_data import DummySource
from caffeio.errors import CaffeIOError
from caffeio.log.glog import Log
from caffeio.tools.benchmark import Timing, time_net

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 6 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "Reduction" bottom: "ip" top: "loss" loss_weight: 1 }
"""


def test_images_a_second_are_those_of_forward_and_backward() -> None:
    assert Timing([], 30.0, 20.0, 1000.0, 100).images_per_s == 2000.0
    assert Timing([], 0.0, 0.0, 0.0, 100).images_per_s == 0.0


def test_times_are_means_of_a_pass_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every measured piece of work takes 2 ms here."""
    monkeypatch.setattr("caffeio.tools.benchmark._clock", lambda work, device: (work(), 2.0)[1])
    lines: list[str] = []
    timing = time_net(NET, iterations=4, log=Log(lines.append))
    assert [(row.name, row.type) for row in timing.layers] == [
        ("data", "Input"), ("ip", "InnerProduct"), ("loss", "Reduction"),
    ]  # fmt: skip
    assert [(row.forward, row.backward) for row in timing.layers] == [(2, 0), (2, 2), (2, 2)]
    assert (timing.forward, timing.backward, timing.images) == (6, 4, 6)
    assert timing.images_per_s == 600
    shown = [line.split("] ", 1)[1] for line in lines if "Average" in line]
    assert shown[:3] == ["Average time per layer: ", "Average Forward pass: 6 ms.",
                         "Average Backward pass: 4 ms."]  # fmt: skip
    assert sum("Iteration:" in line for line in lines) == 4


def test_a_net_without_its_data_is_timed_on_noise(tmp_path: Path) -> None:
    path = tmp_path / "n.prototxt"
    path.write_text(
        'layer { name: "d" type: "HDF5Data" top: "data" hdf5_data_param { source: "none.txt" '
        "batch_size: 6 } }" + NET[NET.index('layer { name: "ip"') :]
    )
    with pytest.raises(CaffeIOError, match="--synthetic"):
        time_net(path, iterations=1)


def test_a_backward_and_no_batch_goes_before_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Caffe's tool does it; PyTorch's first backward starts its engine: half a second."""
    events: list[str] = []
    backward = torch.autograd.backward
    read = DummySource.next
    monkeypatch.setattr(
        torch.autograd, "backward", lambda *args: (events.append("backward"), backward(*args))
    )
    monkeypatch.setattr(DummySource, "next", lambda self: (events.append("batch"), read(self))[1])
    text = NET.replace(
        'type: "Input" top: "data" input_param { shape { dim: 6 dim: 3 } }',
        'type: "DummyData" top: "data" dummy_data_param { shape { dim: 6 dim: 3 } '
        'data_filler { type: "uniform" } }',
    )
    log = Log(lambda line: events.append("begins") if "Benchmark begins" in line else None)
    time_net(text, iterations=2, log=log)
    before, after = events[: events.index("begins")], events[events.index("begins") + 1 :]
    assert before == ["batch", "backward", "backward"]
    assert after == ["batch", "backward", "backward"] * 2
