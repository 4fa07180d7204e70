"""torchvision's own models at full size: converted for Caffe 1.0 and compared.

Run as `python tests/converters/from_onnx/nightly.py [MODEL...]` where a torchvision that fits torch
is installed; the suite does not import it. Weights are random. Exits with 1 if a model is refused
or off.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from caffeio.converters.from_onnx.compile import compile_model
from caffeio.converters.from_onnx.load import model_of_module
from caffeio.converters.from_onnx.verify import verify
from caffeio.errors import CaffeIOError

MODELS = (
    "resnet18", "resnet50", "vgg11_bn", "mobilenet_v2", "mobilenet_v3_small", "densenet121",
    "squeezenet1_1", "shufflenet_v2_x1_0", "efficientnet_b0", "mnasnet1_0", "regnet_y_400mf",
    "googlenet", "inception_v3",
)  # fmt: skip
NEAR = 1e-5


def check(name: str) -> str:
    """Convert one model; the line that says how it went."""
    import torch

    models: Any = import_module("torchvision.models")
    torch.manual_seed(0)
    module = getattr(models, name)(weights=None).eval()
    for part in module.modules():  # as after a training: nothing is 0 or 1 by chance
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 0.7, 1.3)
            assert part.running_var is not None
            part.running_var.uniform_(0.5, 2)
    size = 299 if name == "inception_v3" else 224
    try:
        net = compile_model(model_of_module(module, torch.randn(1, 3, size, size)), where=name)
    except CaffeIOError as error:
        return f"FAILED {error}"
    worst = verify(net).worst
    return f"{'ok' if worst <= NEAR else 'FAILED'} {name}: {len(net.layers)} layers, {worst:.2g}"


def main(names: list[str]) -> int:
    """Check the models; returns the exit code."""
    lines = [check(name) for name in names or MODELS]
    print("\n".join(lines))
    return int(any(line.startswith("FAILED") for line in lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
