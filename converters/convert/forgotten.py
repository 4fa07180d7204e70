"""Weights that were forgotten on the command line: told before torch is loaded."""

from __future__ import annotations

from pathlib import Path

from caffeio.converters.report.model import count, listed
from caffeio.converters.request import Request
from caffeio.errors import UnsupportedError
from caffeio.net.graph import is_included, net_state
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import read_net

# Types whose weights only a training makes, and where their filler stands. All that a net lacks is
# counted when it is built (deploy_net.py): this is about files that nobody meant.
_LEARNED = {
    "Convolution": "convolution_param", "ConvolutionDepthwise": "convolution_param",
    "DepthwiseConvolution": "convolution_param", "Deconvolution": "convolution_param",
    "InnerProduct": "inner_product_param", "Embed": "embed_param", "LSTM": "recurrent_param",
    "RNN": "recurrent_param",
}  # fmt: skip
_MEANT = ("constant", "bilinear")  # fillers that draw nothing


def require_weights(path: Path, request: Request) -> None:
    """Raise UnsupportedError for a net whose layers have learned weights, given without any."""
    if request.untrained or request.input_blob or request.output_blob:
        return
    net = read_net(path, dialect=request.dialect).message
    state = net_state(net, "TEST", request.level, request.stage)
    names = [layer.name for layer in net.layer if is_included(layer, state) and _is_learned(layer)]
    if names:
        have = "has some" if len(names) == 1 else "have some"
        raise UnsupportedError(
            f"no weights are given, and {count(len(names), 'layer')} {have} ({listed(names)}): "
            "give the weights' file too, or say --untrained"
        )


def _is_learned(layer: pb.LayerParameter) -> bool:
    """Whether a layer's first blob is what a training makes, and the text does not hold it."""
    if layer.type not in _LEARNED or layer.blobs:
        return False
    param = getattr(layer, _LEARNED[layer.type])
    filler = param.weight_filler
    if not param.HasField("weight_filler"):
        return True  # all 0
    return filler.type not in _MEANT or (filler.type == "constant" and filler.value == 0)
