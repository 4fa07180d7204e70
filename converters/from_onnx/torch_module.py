"""`caffeio.from_torch`: a torch module as a Caffe net."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from caffeio.converters.from_onnx.compile import DEFAULT_TARGET, compile_model
from caffeio.converters.from_onnx.torch_export import model_of_module
from caffeio.converters.from_onnx.verify import build_net, check, verify
from caffeio.converters.from_onnx.write import is_hdf5, prototxt_beside, refuse_size, write_files
from caffeio.net.net import Net


def from_torch(
    module: Any,
    example_inputs: Any,
    *,
    target: str = DEFAULT_TARGET,
    caffemodel: str | os.PathLike[str] | None = None,
    prototxt: str | os.PathLike[str] | None = None,
    check_numbers: bool = True,
) -> Net:
    """Return the Caffe net that computes what `module` computes in evaluation.

    `example_inputs` is a tensor or a tuple of tensors; their shapes are those of the net's inputs,
    which are called `data`, or as the parameters of `forward` if there are several. With
    `caffemodel` (which may end in .h5) the files are written, `prototxt` beside it unless named.
    The net is compared with onnxruntime's numbers of the exported module first.
    Raises UnsupportedError, which lists every operator that the target has no layers for or says
    which package is missing, and CaffeIOError if the numbers differ by more than 1e-4.
    """
    where = type(module).__name__
    compiled = compile_model(model_of_module(module, example_inputs), target=target, where=where)
    hdf5 = caffemodel is not None and is_hdf5(caffemodel)
    if caffemodel is not None and not hdf5:
        refuse_size(compiled, str(caffemodel))
    if check_numbers:
        check(verify(compiled), where)
    if caffemodel is not None:
        path = Path(caffemodel)
        write_files(compiled, path, prototxt or prototxt_beside(path), where, hdf5=hdf5)
    return build_net(compiled, own=True)
