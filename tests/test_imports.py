"""The house has no circles: no two modules need each other, not even for their types."""

from __future__ import annotations

import re
import tomllib
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.paths import ROOT

grimp = pytest.importorskip("grimp", reason="comes with import-linter")

# `caffeio` itself names what lies above it, loaded when it is asked for
FACADE = "caffeio"


def test_no_modules_need_each_other() -> None:
    graph = grimp.build_graph(FACADE, exclude_type_checking_imports=False, cache_dir=None)
    needs = {
        module: graph.find_modules_directly_imported_by(module) - {FACADE}
        for module in graph.modules - {FACADE}
    }
    assert len(needs) > 200
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_contract_of_the_floors_looks_at_imports_for_types() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert settings["exclude_type_checking_imports"] is False
    floors = settings["contracts"][0]["layers"]
    assert settings["contracts"][1]["ancestors"] == ["caffeio", "caffeio.**"]  # all rooms
    rooms = {room for floor in floors for room in re.split(r" \| ", floor)}
    present = {f"caffeio.{path.stem}" for path in (ROOT / "caffeio").iterdir()
               if path.suffix == ".py" or (path / "__init__.py").exists()}  # fmt: skip
    assert present - rooms <= {"caffeio.__init__", "caffeio.__main__"}


def _picture() -> tuple[dict[str, str], set[tuple[str, str]]]:
    """The rooms of docs/architecture.md (module below caffeio -> box) and its arrows."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    lines = text.partition("```mermaid")[2].partition("```")[0].splitlines()
    boxes = dict(re.findall(r'(\w+)\["([^"]*)"\]', "\n".join(lines)))
    rooms = {box: box for box in boxes}
    for box in ("profiles", "errors"):  # of several modules each
        rooms |= dict.fromkeys(boxes[box].split(", "), box)
    arrows = re.findall(r'^ *(\w+)(?:\["[^"]*"\])? --> (\w+)', "\n".join(lines), re.MULTILINE)
    return rooms, set(arrows)


def test_the_picture_of_the_house_is_what_the_code_imports() -> None:
    """Each arrow is an import, and each import between rooms follows arrows downwards."""
    rooms, arrows = _picture()
    below: dict[str, set[str]] = {}
    graph = {box: {b for a, b in arrows if a == box} for box in rooms.values()}
    for box in TopologicalSorter(graph).static_order():
        below[box] = {b for a, b in arrows if a == box}.union(
            *(below[b] for a, b in arrows if a == box)
        )
    modules = grimp.build_graph(FACADE, exclude_type_checking_imports=False, cache_dir=None)
    found = {
        (rooms[module.split(".")[1]], rooms[other.split(".")[1]])
        for module in modules.modules - {FACADE}
        for other in modules.find_modules_directly_imported_by(module) - {FACADE}
        if module.split(".")[1] in rooms and other.split(".")[1] in rooms
    }
    assert arrows <= found, f"no import: {arrows - found}"
    wrong = {(a, b) for a, b in found if a != b and b not in below[a]}
    assert wrong == {("layers", "ops")}  # `Layer` is loaded when it is asked for
