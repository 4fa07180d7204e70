"""Names of Caffe layers out of those of an ONNX graph."""

from __future__ import annotations

import re

from caffeio.converters.from_onnx.graph import Node

_INDEX = re.compile(r"_\d+$")
_WORDS = {"globalaveragepool": "pool", "averagepool": "pool", "maxpool": "pool", "reshape": "shape"}
_WEIGHTED = ("Conv", "Gemm", "MatMul", "ConvTranspose", "BatchNormalization", "PRelu", "LSTM",
             "GRU", "RNN", "InstanceNormalization", "LayerNormalization")  # fmt: skip


def stem_of(node: Node, weights: str = "") -> str:
    """A name for a node's layers: its weights' module, else its own name, without slashes.

    "/layer1/layer1.0/conv1/Conv" and "layer1.0.conv1.weight" both give layer1.0.conv1.
    """
    if weights.partition("::")[0].endswith(".weight") and "/" not in weights:
        return plain(weights.partition("::")[0].removesuffix(".weight"))
    kind = node.op.rpartition("::")[2]
    parts = [part for part in node.name.split("/") if part]
    if not parts:
        return plain(f"{kind.lower()}_{node.place}")
    tail = _INDEX.sub("", parts[-1])
    if len(parts) > 1 and (tail in _OPERATOR_NAMES or tail == kind):
        number = parts.pop()[len(tail) :]
        if kind not in _WEIGHTED or number:
            word = tail.lower()
            parts[-1] += f"_{_WORDS.get(word, word)}{number}"
    kept = [p for p, after in zip(parts, [*parts[1:], ""], strict=True) if not after.startswith(p)]
    return plain("_".join(kept or parts))


def _operator_names() -> frozenset[str]:
    import onnx

    return frozenset(schema.name for schema in onnx.defs.get_all_schemas())


_OPERATOR_NAMES = _operator_names()


def plain(name: str) -> str:
    """A name of letters, digits, _ . and - only: toolchains use them as file names."""
    return re.sub(r"[^\w.\-]+", "_", name, flags=re.ASCII).strip("_") or "x"
