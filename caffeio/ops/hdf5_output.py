"""Write blobs as datasets of an HDF5 file.

Source: src/caffe/layers/hdf5_output_layer.cpp.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from caffeio.errors import CaffeIOError
from caffeio.proto.io.atomic import atomic_write
from caffeio.proto.weights.hdf5_file import memory_file

if TYPE_CHECKING:
    from caffeio.layers.sources import HDF5Output


def hdf5_output(layer: HDF5Output, *bottoms: Tensor) -> tuple[Tensor, ...]:
    """Write both bottoms; there is no top."""
    data, label = bottoms
    if data.is_meta:
        return ()
    try:
        h5py: Any = import_module("h5py")
    except ImportError:
        raise layer.error(
            "writing HDF5 needs the package h5py: pip install 'caffeio[hdf5]'"
        ) from None
    layer.check(
        not layer.written, f"{layer.file_name!r} has its datasets already: Caffe writes one batch"
    )
    try:
        image = memory_file(h5py, lambda file: _fill(file, data=data, label=label))
        with atomic_write(layer.file_name, needed=len(image)) as whole:
            whole.write(image)
    except (OSError, CaffeIOError) as error:
        raise layer.error(
            f"cannot write {layer.file_name!r}: {error}", field="hdf5_output_param.file_name"
        ) from None
    layer.written = True
    return ()


def _fill(file: Any, **blobs: Tensor) -> None:
    for name, blob in blobs.items():
        values = blob.detach().cpu().numpy().astype(np.float32)
        file[name] = values.reshape(values.shape + (1,) * (4 - values.ndim))
