"""Export a small PyTorch classifier to ONNX: what a chip's compiler is to get."""

import warnings

import torch
from torch import nn


class Block(nn.Module):
    """Two convolutions and a way round them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> the same shape."""
        return nn.functional.relu6(self.second(self.norm(self.first(x))) + x)


warnings.simplefilter("ignore")  # the older exporter needs no onnxscript
torch.manual_seed(0)
module = nn.Sequential(
    nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU(), Block(16), nn.MaxPool2d(3, 2, 1), Block(16),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10), nn.Softmax(1),
).eval()  # fmt: skip
torch.onnx.export(
    module, (torch.randn(1, 3, 32, 32),), "module.onnx", dynamo=False, opset_version=17,
    input_names=["data"], output_names=["prob"],
)  # fmt: skip
print("module.onnx: written")
