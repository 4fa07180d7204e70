"""What load_net does not do: draw numbers that weights replace."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
import torch

from caffeio import load_net
from caffeio.errors import CaffeIOError, WeightsError

TEXT = """
layer { name: "data" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" inner_product_param { num_output: 4
  weight_filler { type: "gaussian" } bias_filler { type: "uniform" } } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" inner_product_param { num_output: 2
  weight_filler { %s } } }
"""
GOOD = TEXT % 'type: "xavier"'


def saved(tmp_path: Path, text: str = GOOD) -> Path:
    path = tmp_path / "w.caffemodel"
    load_net(text, seed=2).save(path)
    return path


def test_replaced_blobs_are_not_drawn(tmp_path: Path) -> None:
    path, reference = saved(tmp_path), load_net(GOOD, seed=2)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    net = load_net(GOOD, path)
    assert torch.equal(before, torch.get_rng_state())
    for name, blobs in reference.params.items():
        for mine, theirs in zip(net.params[name], blobs, strict=True):
            assert torch.equal(mine, theirs) and mine.requires_grad


def test_other_blobs_are_drawn(tmp_path: Path) -> None:
    net = load_net(GOOD, saved(tmp_path, GOOD.replace('"b" type', '"other" type')))
    assert torch.equal(net.params["a"][0], load_net(GOOD, seed=2).params["a"][0])
    assert net.params["b"][0].abs().min() > 0 and net.params["b"][0].abs().max() < 2


def test_a_seed_draws_all_in_caffes_order(tmp_path: Path) -> None:
    path = saved(tmp_path, GOOD.replace('"a" type', '"other" type'))
    plain, loaded = load_net(GOOD, seed=7), load_net(GOOD, path, seed=7)
    assert torch.equal(plain.params["a"][1], loaded.params["a"][1])


@pytest.mark.parametrize(
    ("filler", "message"),
    [('type: "gaussian" std: -1', "std must be above 0"), ('type: "no"', "unknown filler type")],
)
def test_fillers_are_checked_though_nothing_is_drawn(
    tmp_path: Path, filler: str, message: str
) -> None:
    path = saved(tmp_path)
    with pytest.raises(CaffeIOError, match=message):
        load_net(TEXT % filler, path)


def test_weights_that_do_not_fit_are_refused_before_any_draw(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with mock.patch("caffeio.net.net.fill", side_effect=AssertionError("drawn")):
        with pytest.raises(WeightsError, match="shape mismatch"):
            load_net(GOOD.replace("num_output: 4", "num_output: 5"), path)
        load_net(GOOD, path)
    with pytest.raises(CaffeIOError, match="absent"):
        load_net(GOOD, tmp_path / "absent.caffemodel")
