"""What does not fit into memory is one error: what it is, the bytes wanted, the bytes free."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffeio import memory
from caffeio.errors import OutOfMemoryError
from caffeio.net.room import estimate, warn_of
from caffeio.training.trainer import Trainer
from tests.reliability import hostile
from tests.reliability.forked import one_error, run

INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { %s } } }\n'
NETS = {  # what is large, "SIZE" being its first extent; the layer that the error names
    "weights": (
        INPUT
        % "dim: 1 dim: 32768"
        + 'layer { name: "big" type: "InnerProduct" bottom: "x" top: "y"'
        " inner_product_param { num_output: SIZE } }",
        32768,
        "layer 'big'",
    ),
    "forward": (
        INPUT
        % "dim: 1 dim: 1000 dim: 1000"
        + 'layer { name: "many" type: "Tile" bottom: "x" top: "y"'
        " tile_param { axis: 0 tiles: SIZE } }",
        1_000_000,
        "layer 'many'",
    ),
    "dummy": (
        'layer { name: "dummy" type: "DummyData" top: "x" '
        + "dummy_data_param { shape { dim: SIZE dim: 1000000 } } }",
        1_000_000,
        "layer 'dummy'",
    ),
    "input": (INPUT % "dim: SIZE dim: 1000000", 1_000_000, ""),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("fits", [False, True])
def test_nets(name: str, fits: bool, tmp_path: Path) -> None:
    """Some 8 GB, which Caffe's blobs can hold but the process may not; and more than blobs hold."""
    text, rest, layer = NETS[name]
    size = 2_000_000_000 // rest if fits else 2_147_483_647
    (tmp_path / "net.prototxt").write_text(text.replace("SIZE", str(size)))
    words = ("not enough memory", "are wanted", "are free") if fits else ("larger than a blob",)
    ended = run("time", "net.prototxt", "--iterations", "1", cwd=tmp_path)
    one_error(ended, *words, layer)


def test_batches_and_archives(tmp_path: Path) -> None:
    hostile.make(tmp_path)
    for size, says in (
        ("1000000000", "1000000000 3 4 5 is larger than a blob may be"),
        ("30000000", "7.2 GB are wanted"),
    ):
        batch = f"layer[data].data_param.batch_size={size}"
        ended = run("train", "solver.prototxt", "--set", batch, cwd=tmp_path)
        one_error(ended, "layer 'data'", says)
    for name, target in (("lie.npz", "o.h5"), ("lie.npy", "o.binaryproto")):
        assert "17592186044416 bytes" in one_error(run("convert", name, target, cwd=tmp_path), name)
    one_error(run("convert", "bools.safetensors", "o.h5", cwd=tmp_path), "bools.safetensors")


def test_the_estimate(training_case: Path) -> None:
    with Trainer("solver.prototxt") as trainer:
        found = estimate(trainer.net, trainer.test_nets, 1)
        own = sum(p.numel() * 4 for p in trainer.net.parameters())
        assert found.weights == own and found.training == 2 * own
        assert found.blobs > 0 and found.total == sum(found)
        assert warn_of(found) is None
        huge = found._replace(blobs=1 << 60)
        assert "This training needs about 1152.9 PB" in (warn_of(huge) or "")


def test_show_tells_it() -> None:
    from tests.cli.test_show import NET
    from tests.cli.test_show import run as show

    assert "memory in training" in show(NET).output


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.empty((1 << 40, 1 << 10)),
        lambda: np.empty((1 << 60, 1 << 10)),
        lambda: torch.empty(1 << 50),
        lambda: torch.empty(1 << 62),
        lambda: bytearray(1 << 60),
    ],
)
def test_kinds_of_failures(make: object) -> None:
    with (
        pytest.raises(OutOfMemoryError, match=r"^here: not enough memory"),
        memory.memory_named("here"),
    ):
        make()  # type: ignore[operator]


def test_other_errors_are_not_touched() -> None:
    with pytest.raises(ValueError, match="something else"), memory.memory_named("here"):
        raise ValueError("something else")


def test_free_memory_is_known() -> None:
    free = memory.free_bytes()
    assert free is not None and 1 << 20 < free < 1 << 50
    with pytest.raises(OutOfMemoryError, match="PB are wanted"):
        memory.check_room(1 << 60, "x")
