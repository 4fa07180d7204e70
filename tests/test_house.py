"""Functions are short, files are one thing, and names do not say less than they mean."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.paths import ROOT

FOLDERS = ("caffeio", "proto", "converters", "cli")
LONGEST_FUNCTION = 40  # lines of its body, without the docstring, comments and empty lines
LONGEST_FILE = 300
POSSESSIVE = re.compile(r"\)[*+?]\+(?!\+)")

# A longer file is one thing, and says which.
LONG_FILES = {
    "caffeio/data/db/lmdb.py": "the reader of LMDB files",
    "caffeio/data/loader.py": "the pool of threads that makes batches",
    "caffeio/layers/base.py": "the class that all layer types extend",
    "caffeio/layers/sources.py": "the layer types that read data",
    "caffeio/net/net.py": "the class Net",
    "caffeio/net/prepared.py": "a net that is prepared for inference",
    "caffeio/ops/backward.py": "Backward_cpu on overwritten memory, a class each layer type",
    "caffeio/pycaffe/live_net.py": "a net that runs layer by layer on shared memory",
    "caffeio/pycaffe/nets.py": "pycaffe's class Net",
    "caffeio/pycaffe/solvers.py": "pycaffe's solver classes",
    "caffeio/solver/optimizer.py": "Caffe's ApplyUpdate",
    "caffeio/solver/schedule.py": "the learning-rate policies",
    "caffeio/training/trainer.py": "the training loop",
    "converters/convert/conversions.py": "one function for each pair of kinds",
    "converters/deploy/deploy_net.py": "the net of a deploy prototxt, cut and filled",
    "converters/onnx/export.py": "from a net to an ONNX model, and what the flags change",
    "converters/onnx/opset.py": "one form for each operator that an older opset says otherwise",
    "converters/torch_code/forms.py": "one PyTorch form for each layer without weights",
    "proto/dialect/scorer.py": "how well a dialect explains bytes",
    "proto/dialect/detect_dialect.py": "which dialect it is",
    "converters/show/nets.py": "the report on a net",
    "converters/show/page.py": "the page of a net",
    "proto/text/edits.py": "edits of a prototxt's text",
    "proto/weights/solverstate.py": "solver states, read and written",
    "proto/io/blobs.py": "views of a blob's numbers",
}


def _files() -> list[Path]:
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    own = [path for path in found if not any(parent.is_symlink() for parent in path.parents)]
    return sorted(path for path in own if not path.name.endswith("_pb2.py"))


def _code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    if not body:
        return 0
    texts = (line.strip() for line in lines[body[0].lineno - 1 : node.end_lineno])
    return sum(1 for text in texts if text and not text.startswith("#"))


def _functions(path: Path) -> Iterator[tuple[str, int]]:
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (
                f"{path.relative_to(ROOT)}:{node.lineno} {node.name}",
                _code_lines(node, text.splitlines()),
            )


def test_functions_are_short() -> None:
    long = [
        (name, lines)
        for path in _files()
        for name, lines in _functions(path)
        if lines > LONGEST_FUNCTION
    ]
    assert not long, "\n".join(f"{name}: {lines} lines" for name, lines in long)


def test_a_long_file_says_what_one_thing_it_is() -> None:
    sizes = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in _files()
    }
    long = {name for name, lines in sizes.items() if lines > LONGEST_FILE}
    assert long <= set(LONG_FILES), "\n".join(sorted(long - set(LONG_FILES)))
    assert set(LONG_FILES) <= long, "no longer long"


def test_groups_are_repeated_possessively_only_where_they_cannot_fail_late() -> None:
    """Python 3.11 before 3.11.5 does not go back where an iteration of such a group fails."""
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if POSSESSIVE.search(path.read_text())
    }
    # each was held against what it does in 3.11.2: what follows fails there as well, or is checked
    assert found == {"proto/text/literals.py", "proto/text/tables.py", "proto/dialect/transcode.py"}
