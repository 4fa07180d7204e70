"""Stands in for pycaffe: the whole of `import caffe` for scripts written for Caffe's Python module.

Nothing is registered under the name `caffe` until `install()` is called or `caffeio run` starts a
script. Names are imported when they are first asked for. Sources: python/caffe/__init__.py,
pycaffe.py and _caffe.cpp (BVLC).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from caffeio._lazy import lazy_names

__version__ = "1.0.0"  # of the pycaffe that this stands in for
TRAIN = 0
TEST = 1

_HERE = "caffeio.pycaffe"
_SUBMODULES = frozenset(
    ("io", "net_spec", "coord_map", "classifier", "detector", "draw", "proto", "pycaffe", "_caffe",
     "model_libs")
)  # fmt: skip
_lazy, _names, _all = lazy_names(
    __name__,
    {
        **dict.fromkeys(("Net",), f"{_HERE}.nets"),
        **dict.fromkeys(
            ("SGDSolver", "NesterovSolver", "AdaGradSolver", "RMSPropSolver", "AdaDeltaSolver",
             "AdamSolver", "get_solver"),
            f"{_HERE}.solvers",
        ),
        **dict.fromkeys(("Layer", "Blob", "BlobVec"), f"{_HERE}._caffe"),
        "layer_type_list": f"{_HERE}._caffe",
        "Timer": f"{_HERE}.timer",
        **dict.fromkeys(("NCCL", "has_nccl"), f"{_HERE}.nccl"),
        **dict.fromkeys(
            ("init_log", "log", "set_mode_cpu", "set_mode_gpu", "set_device", "set_random_seed",
             "solver_count", "set_solver_count", "solver_rank", "set_solver_rank",
             "set_multiprocess"),
            f"{_HERE}.state",
        ),
        "Classifier": f"{_HERE}.classifier",
        "Detector": f"{_HERE}.detector",
        **dict.fromkeys(("layers", "params", "NetSpec", "to_proto"), f"{_HERE}.net_spec"),
        **dict.fromkeys(("install", "uninstall"), f"{_HERE}.install_module"),
    },
)  # fmt: skip
__all__ = [*_all, "TRAIN", "TEST", "io"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"{_HERE}.{name}")
    return _lazy(name)


def __dir__() -> list[str]:
    return sorted({*_names(), *_SUBMODULES})
