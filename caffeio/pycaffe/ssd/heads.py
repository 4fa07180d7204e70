"""SSD's heads for a NetSpec. Source: model_libs.py of weiliu89/caffe (ssd)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from caffeio.pycaffe.net_spec import NetSpec
from caffeio.pycaffe.net_spec import layers as L
from caffeio.pycaffe.ssd.blocks import ConvBNLayer, constant


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _at(values: Sequence[Any], index: int) -> Any:
    """The value of that index; an empty list where there is none."""
    return values[index] if len(values) > index else []


@dataclass
class _Head:
    """The layers on one source."""

    net: NetSpec
    bottom: str
    use_batchnorm: bool
    lr_mult: float
    bn_param: dict[str, Any]

    def normalize(self, scale: float) -> None:
        """Put a Normalize between."""
        name = f"{self.bottom}_norm"
        self.net[name] = L.Normalize(
            self.net[self.bottom], scale_filler=constant(scale), across_spatial=False,
            channel_shared=False,
        )  # fmt: skip
        self.bottom = name

    def conv(self, name: str, outputs: int, kernel: int, pad: int, relu: bool = False) -> None:
        """Add a convolution on the source."""
        ConvBNLayer(
            self.net, self.bottom, name, use_bn=self.use_batchnorm, use_relu=relu,
            lr_mult=self.lr_mult, num_output=outputs, kernel_size=kernel, pad=pad, stride=1,
            **self.bn_param,
        )  # fmt: skip

    def predict(self, what: str, outputs: int, kernel: int, pad: int) -> Any:
        """A convolution, its channels last, flat."""
        name = f"{self.bottom}_mbox_{what}"
        self.conv(name, outputs, kernel, pad)
        self.net[f"{name}_perm"] = L.Permute(self.net[name], order=[0, 2, 3, 1])
        self.net[f"{name}_flat"] = L.Flatten(self.net[f"{name}_perm"], axis=1)
        return self.net[f"{name}_flat"]


def _prior_fields(
    max_size: list[Any], ratios: list[Any], flip: bool, step: Any, height: int, width: int
) -> dict[str, Any]:
    """The fields of PriorBox that are only given where they say something."""
    fields: dict[str, Any] = {}
    if max_size:
        fields["max_size"] = max_size
    if ratios:
        fields.update(aspect_ratio=ratios, flip=flip)
    if step:
        fields["step"] = step
    if height != 0 and width != 0:
        fields.update(
            {"img_size": height} if height == width else {"img_h": height, "img_w": width}
        )
    return fields


def CreateMultiBoxHead(  # noqa: N802
    net: NetSpec,
    data_layer: str = "data",
    num_classes: Any = (),
    from_layers: Sequence[str] = (),
    use_objectness: bool = False,
    normalizations: Sequence[float] = (),
    use_batchnorm: bool = True,
    lr_mult: float = 1,
    use_scale: bool = True,
    min_sizes: Sequence[Any] = (),
    max_sizes: Sequence[Any] = (),
    prior_variance: Any = None,
    aspect_ratios: Sequence[Any] = (),
    steps: Sequence[Any] = (),
    img_height: int = 0,
    img_width: int = 0,
    share_location: bool = True,
    flip: bool = True,
    clip: bool = True,
    offset: float = 0.5,
    inter_layer_depth: Sequence[int] = (),
    kernel_size: int = 1,
    pad: int = 0,
    conf_postfix: str = "",
    loc_postfix: str = "",
    **bn_param: Any,
) -> list[Any]:
    """Add locations, confidences and priors on each of `from_layers`, and their Concats.

    Lists have a value for each source; `normalizations` of -1 and depths of 0 add nothing. Returns
    the tops mbox_loc, mbox_conf, mbox_priorbox and, if wanted, mbox_objectness. Raises
    AssertionError if a list has another length.
    """
    assert num_classes, "must provide num_classes"
    assert num_classes > 0, "num_classes must be positive number"
    count = len(from_layers)
    lists = {
        "normalizations": normalizations, "max_sizes": max_sizes, "aspect_ratios": aspect_ratios,
        "steps": steps, "inter_layer_depth": inter_layer_depth,
    }  # fmt: skip
    for name, values in {"min_sizes": min_sizes, **{n: v for n, v in lists.items() if v}}.items():
        assert len(values) == count, f"from_layers and {name} should have same length"
    assert data_layer in net.tops, "data_layer is not in net's layers"
    found: dict[str, list[Any]] = {"loc": [], "conf": [], "priorbox": [], "objectness": []}
    for i, source in enumerate(from_layers):
        head = _Head(net, source, use_batchnorm, lr_mult, bn_param)
        if normalizations and normalizations[i] != -1:
            head.normalize(normalizations[i])
        if inter_layer_depth and inter_layer_depth[i] > 0:
            inter = f"{head.bottom}_inter"
            head.conv(inter, inter_layer_depth[i], 3, 1, relu=True)
            head.bottom = inter
        small, large = _list(min_sizes[i]), _list(_at(max_sizes, i))
        ratios = _list(_at(aspect_ratios, i))
        assert not large or len(large) == len(small), (
            "max_size and min_size should have same length."
        )
        priors = ((2 if large else 1) + len(ratios) * (2 if flip else 1)) * len(small)
        boxes = priors * 4 * (1 if share_location else num_classes)
        found["loc"].append(head.predict(f"loc{loc_postfix}", boxes, kernel_size, pad))
        classes = priors * num_classes
        found["conf"].append(head.predict(f"conf{conf_postfix}", classes, kernel_size, pad))
        name = f"{head.bottom}_mbox_priorbox"
        net[name] = L.PriorBox(
            net[head.bottom], net[data_layer], min_size=small, clip=clip,
            variance=[0.1] if prior_variance is None else prior_variance, offset=offset,
            **_prior_fields(large, ratios, flip, _at(steps, i), img_height, img_width),
        )  # fmt: skip
        found["priorbox"].append(net[name])
        if use_objectness:
            found["objectness"].append(head.predict("objectness", 2 * priors, kernel_size, pad))
    return [_concat(net, f"mbox_{what}", tops) for what, tops in found.items() if tops]


def _concat(net: NetSpec, name: str, tops: Sequence[Any]) -> Any:
    net[name] = L.Concat(*tops, axis=2 if name == "mbox_priorbox" else 1)
    return net[name]
