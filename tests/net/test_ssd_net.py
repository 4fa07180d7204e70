"""A small SSD learns to find squares: all of its layers together, TRAIN and TEST."""

from __future__ import annotations

import torch

from caffeio import load_net
from caffeio.training.mean_average_precision import detection_map
from tests.paths import ROOT

NET = ROOT / "tests" / "nets" / "ssd_like.prototxt"


def squares(num: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images with a bright (label 1) or dark (label 2) square, and AnnotatedData's rows."""
    images, rows = 0.1 * torch.randn(num, 1, 32, 32), []
    for i in range(num):
        x, y, side = (int(torch.randint(*limits, ())) for limits in ((1, 18), (1, 18), (8, 13)))
        label = 1 + i % 2
        images[i, 0, y : y + side, x : x + side] += 1 if label == 1 else -1
        rows.append([i, label, 0, x / 32, y / 32, (x + side) / 32, (y + side) / 32, 0])
    return images, torch.tensor(rows).view(1, 1, num, 8)


def test_learns_to_detect():
    torch.manual_seed(0)
    shapes = {"data": (8, 1, 32, 32), "label": (1, 1, 8, 8)}
    train = load_net(NET, phase="TRAIN", input_shapes=shapes)
    test = load_net(NET, phase="TEST", input_shapes=shapes)
    test.share_trained_layers_with(train)
    optimizer = torch.optim.Adam([item.tensor for item in train.learnable if item.lr_mult], lr=0.01)
    losses = []
    for _ in range(150):
        data, label = squares(8)
        optimizer.zero_grad()
        train({"data": data, "label": label})
        train.loss.backward()
        optimizer.step()
        losses.append(train.loss.item())
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])
    data, label = squares(8)
    with torch.no_grad():
        rows = test({"data": data, "label": label})["detection_eval"]
    found = detection_map(rows[0, 0].numpy(), "11point")
    assert set(found.by_label) == {1, 2} and found.mean > 0.8
