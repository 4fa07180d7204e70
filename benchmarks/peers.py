"""What benchmarks of training share: pictures to read, and the step that a PyTorch user writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

RATE, DECAY = 0.001, 0.0001  # of SGD with momentum 0.9, on both sides


def plain_step(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    precision: str = "fp32",
    *,
    compiled: bool = False,
) -> Callable[[], None]:
    """An iteration of `net` on one batch; `labels` are int64."""
    optimizer = torch.optim.SGD(net.parameters(), RATE, 0.9, weight_decay=DECAY, fused=True)
    run = torch.compile(net) if compiled else net
    kind = images.device.type

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16"):
            loss = nn.functional.cross_entropy(run(images), labels)
        loss.backward()
        optimizer.step()

    return step


def make_lmdb(folder: Path, count: int, classes: int) -> None:
    """Write JPEGs of 340 x 256, as ImageNet's are after resizing; after 256 they come again."""
    import cv2

    from caffeio.data.db.lmdb import write_lmdb
    from caffeio.data.records.datum import encode_datum

    rng = np.random.default_rng(0)
    jpegs = []
    for _ in range(min(count, 256)):
        small = rng.integers(0, 256, (24, 32, 3), np.uint8)
        image = cv2.resize(small, (340, 256), interpolation=cv2.INTER_CUBIC)
        jpegs.append(cv2.imencode(".jpg", image)[1].tobytes())
    records = (
        (f"{i:08d}", encode_datum(data=jpegs[i % len(jpegs)], label=i % classes, encoded=True))
        for i in range(count)
    )
    write_lmdb(folder, records)
