"""onnx's own test cases of operators, and which of them become a Caffe net.

Run as `python tests/converters/from_onnx/node_cases.py` it writes the table `node_cases.txt` anew:
a case a line, and the forms in which it is equal: w as it is, 0 and 1 with that input only, the
others being constants. What a change adds or takes away is to be read before it is committed.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from caffeio.converters.from_onnx.compile import Compiled, compile_model
from caffeio.converters.from_onnx.load import load_model
from caffeio.converters.from_onnx.verify import LIMIT, verify
from caffeio.errors import CaffeIOError

onnx: Any = __import__("onnx")
TABLE = Path(__file__).with_suffix(".txt")
FORMS = "w01"
LONG = ("averagepool", "lppool", "maxpool")  # onnx's modules of cases


@cache
def table() -> dict[str, str]:
    """Cases that are equal, and in which forms."""
    lines = (line.split() for line in TABLE.read_text().splitlines() if line[:1] not in ("", "#"))
    return dict(lines)  # type: ignore[arg-type]


@cache
def cases() -> dict[str, Any]:
    """onnx's cases by their names; by day without those that take seconds to compute."""
    node = import_module("onnx.backend.test.case.node")
    whole = "CAFFEIO_NIGHTLY" in os.environ or __name__ == "__main__"
    left_out = [] if whole else [f"{node.__name__}.{name}" for name in LONG]
    sys.modules.update({name: ModuleType(name) for name in left_out})  # in place of them
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx computes what it expects: 1 / 0, 1e9 as float16
        found = node.collect_testcases(None)
    for name in left_out:
        del sys.modules[name]
    return {case.name: case for case in found if case.kind == "node"}


def bound(model: Any, arrays: list[Any], kept: int) -> Any:
    """The model with every input but one as a constant; None if it has no such input."""
    names = [item.name for item in model.graph.input]
    if len(names) < 2 or len(arrays) != len(names) or kept >= len(names):
        return None
    out = type(model)()
    out.CopyFrom(model)
    for number, (name, array) in enumerate(zip(names, arrays, strict=True)):
        if number != kept:
            if not isinstance(array, np.ndarray):
                return None
            out.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    del out.graph.input[:]
    out.graph.input.append(model.graph.input[kept])
    return out


def outcome(name: str, form: str, folder: Path) -> Compiled | None:
    """The compiled case, after the comparison; None if it is refused in one message."""
    case = cases()[name]
    model = case.model if form == "w" else bound(case.model, case.data_sets[0][0], int(form))
    if model is None:
        return None
    onnx.save(model, folder / "m.onnx")
    try:
        net = compile_model(load_model(folder / "m.onnx"))
        report = verify(net)
    except CaffeIOError:
        return None
    return net if report.worst <= LIMIT else None  # else nothing would be written


def main() -> None:
    """Write the table."""
    warnings.simplefilter("ignore")
    lines = [f"# {onnx.__name__} {onnx.__version__}: see node_cases.py"]
    with tempfile.TemporaryDirectory() as folder:
        for name in sorted(cases()):
            forms = "".join(f for f in FORMS if outcome(name, f, Path(folder)) is not None)
            if forms:
                lines.append(f"{name} {forms}")
    TABLE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
