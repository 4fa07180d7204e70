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
