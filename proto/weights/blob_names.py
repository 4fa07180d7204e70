"""What the blobs of a layer are called in files of tensors: "<layer>.weight" and so on."""

from __future__ import annotations

from collections.abc import Iterable

# Names of the blobs in their order; other types' blobs are named by their index.
BLOBS = {
    "Convolution": ("weight", "bias"),
    "ConvolutionDepthwise": ("weight", "bias"),
    "DepthwiseConvolution": ("weight", "bias"),
    "Deconvolution": ("weight", "bias"),
    "InnerProduct": ("weight", "bias"),
    "Embed": ("weight", "bias"),
    "Scale": ("weight", "bias"),
    "Bias": ("bias",),
    "PReLU": ("weight",),
    "BatchNorm": ("mean", "variance", "factor", "scale", "bias"),
}
TORCH_ONLY = ("running_mean", "running_var", "num_batches_tracked", "weight_ih_l0", "weight_hh_l0")
_ORDER = ("weight", "mean", "variance", "factor", "scale", "bias")


def blob_names(kind: str, count: int) -> list[str]:
    """The names of the first `count` blobs of a layer of that type."""
    names = BLOBS.get(kind, ())
    return [names[i] if i < len(names) else str(i) for i in range(count)]


def blob_name(kind: str, index: int) -> str:
    """The name of one blob; its index where the type is not known ("") or gives it none."""
    return blob_names(kind, index + 1)[index]


def rank(last: str, place: int) -> tuple[int, int]:
    """Where a blob of this name stands among those of its layer; `place` is that in the file."""
    if last.isdecimal():
        return 0, int(last)
    return (1, _ORDER.index(last)) if last in _ORDER else (2, place)


def is_torch_named(names: Iterable[str]) -> bool:
    """Whether tensors have names that only a PyTorch module gives."""
    return any(name.rpartition(".")[2] in TORCH_ONLY for name in names)
