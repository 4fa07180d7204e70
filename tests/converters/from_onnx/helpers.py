"""Exports of small torch modules, and what every compiled net is held to."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from caffeio.converters.from_onnx.compared import VerifyReport
from caffeio.converters.from_onnx.compile import Compiled, compile_model
from caffeio.converters.from_onnx.verify import verify

onnx: Any = __import__("onnx")
NEAR = 1e-5
# A float32 run of a net may be farther from the float64 of it by half again than another runtime's
# float32, which one of two right runs is. Where that is farther than ROUNDING, it is no rounding.
EQUAL_RANK, ROUNDING = 1.5, 0.1


def of_equal_rank(mine: float, theirs: float) -> bool:
    """Whether two runs are about as far from float64."""
    return theirs <= ROUNDING and mine <= EQUAL_RANK * theirs


class Of(nn.Module):
    """A module of a function and the modules that it uses."""

    def __init__(self, function: Callable[..., Any], *modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.m = nn.ModuleList(modules)

    def forward(self, *x: torch.Tensor) -> Any:
        return self.function(self.m, *x)


def export(module: nn.Module, *inputs: torch.Tensor, opset: int = 17, dynamic: bool = True) -> Any:
    """The ModelProto that the TorchScript exporter makes; the batch may be any if `dynamic`."""
    module.eval()
    names = [f"x{i}" if i else "data" for i in range(len(inputs))]
    buffer: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, inputs, buffer, dynamo=False, opset_version=opset, input_names=names,
            dynamic_axes={name: {0: "N"} for name in names} if dynamic else None,
        )  # fmt: skip
    return onnx.load_from_string(buffer.getvalue())


def compiled(
    model: Any, *, target: str = "bvlc-1.0", near: float = NEAR, **options: Any
) -> Compiled:
    """Compile and compare; every output is within `near`."""
    net = compile_model(model, target=target, **options)
    report = verify(net)
    assert report.worst <= near, report
    return net


def report_of(model: Any, target: str = "bvlc-1.0") -> VerifyReport:
    return verify(compile_model(model, target=target))


def kinds(net: Compiled) -> list[str]:
    return [layer.type_name for layer in net.layers]


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics as after a training: nothing is 0 or 1 by chance."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.data.uniform_(0.7, 1.3, generator=generator)
            part.bias.data.normal_(0, 0.2, generator=generator)
            part.running_mean.normal_(0, 0.3, generator=generator)  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 2, generator=generator)  # type: ignore[union-attr]
    return module.eval()


def graph_of(
    nodes: Sequence[Any],
    inputs: dict[str, Sequence[int | str]],
    outputs: Sequence[str],
    constants: dict[str, Any] | None = None,
    opset: int = 17,
) -> Any:
    """A ModelProto of hand-written nodes."""
    h = onnx.helper
    infos = [h.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in inputs.items()]
    tensors = [onnx.numpy_helper.from_array(v, n) for n, v in (constants or {}).items()]
    proto = h.make_graph(
        list(nodes), "net", infos, [onnx.ValueInfoProto(name=n) for n in outputs], tensors
    )
    imports = [h.make_opsetid("", opset)]
    return h.make_model(proto, opset_imports=imports, ir_version=8)
