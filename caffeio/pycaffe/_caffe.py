"""Names that scripts look up in pycaffe's C++ module, `caffe._caffe`."""

from __future__ import annotations

from typing import Any

from caffeio._lazy import lazy_names
from caffeio.layers.python.pycaffe import PyLayer as Layer
from caffeio.pycaffe.blob import Blob, BlobVec

IntVec = tuple[int, ...]  # what a blob's shape is
RawBlobVec = list  # what a Python layer gets as bottom and top


def layer_type_list() -> list[str]:
    """All layer types, sorted."""
    from caffeio.layers import known_types

    return known_types()


_lazy, __dir__, _names = lazy_names(
    __name__,
    {
        **dict.fromkeys(("Net",), "caffeio.pycaffe.nets"),
        **dict.fromkeys(
            ("SGDSolver", "NesterovSolver", "AdaGradSolver", "RMSPropSolver", "AdaDeltaSolver",
             "AdamSolver", "get_solver"),
            "caffeio.pycaffe.solvers",
        ),
        "Timer": "caffeio.pycaffe.timer",
        **dict.fromkeys(("NCCL", "has_nccl"), "caffeio.pycaffe.nccl"),
        **dict.fromkeys(
            ("init_log", "log", "set_mode_cpu", "set_mode_gpu", "set_device", "set_random_seed",
             "solver_count", "set_solver_count", "solver_rank", "set_solver_rank",
             "set_multiprocess"),
            "caffeio.pycaffe.state",
        ),
    },
)  # fmt: skip
__version__ = "1.0.0"


def __getattr__(name: str) -> Any:
    return _lazy(name)


__all__ = ["Blob", "BlobVec", "IntVec", "Layer", "RawBlobVec", "layer_type_list"]
