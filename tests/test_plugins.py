"""Layer types of third parties, with the package of tests/plugin_example."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from caffeio import load_net
from caffeio.errors import CaffeIOError, LayerError, UnknownLayerError
from caffeio.layers import registry
from tests import warm
from tests.paths import ROOT

EXAMPLE = Path(__file__).with_name("plugin_example")
NET = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } }
layer { name: "soft" type: "Softsign" bottom: "x" top: "y" }
"""
PYTHON = NET.replace(
    'type: "Softsign"',
    'type: "Python" python_param { module: "project.layers" layer: "SoftsignLayer" }',
)
# What a process finds that has the package. Each answer is that of a fork which has not looked for
# packages yet; only torch, which takes seconds, is there.
SCRIPT = """
import io, json, sys
from contextlib import redirect_stdout
from multiprocessing import get_context
import torch, torch._dynamo  # a layer that is set up on the meta device asks for it
from caffeio.layers import registry
registry._Loaded.plugins = False
from caffeio import load_net
from caffeio.cli.main import main

def told(words):
    with redirect_stdout(io.StringIO()) as out:
        main(words.split(), standalone_mode=False)
    return out.getvalue()

def learned(name):
    net = load_net(open(name).read())
    y = net({"x": torch.tensor([[1.0, -3.0, 0.0]])})["y"]
    y.sum().backward()
    return [y.tolist(), net.params["soft"][0].grad.item(), net.layer_types]

def answer(question):
    assert "caffeio_example_layers" not in sys.modules
    return told(question) if " " in question else learned(question)

with get_context("fork").Pool(1, maxtasksperchild=1) as pool:
    print(json.dumps(dict(zip(sys.argv[1:], pool.map(answer, sys.argv[1:], chunksize=1)))))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What commands print, and what nets compute, in processes that have the package."""
    folder = tmp_path_factory.mktemp("plugins")
    texts = {"known": NET, "other": NET.replace("Softsign", "Softsigm"), "python": PYTHON}
    for name, text in texts.items():
        (folder / name).write_text(text)
    commands = ["layers --json", *(f"show {name} --json" for name in texts), "diff known python"]
    questions = [*commands, "known", "python"]
    path = os.pathsep.join(map(str, (EXAMPLE, ROOT)))
    result = subprocess.run(
        **warm.command("-c", SCRIPT, *questions, env={"PYTHONPATH": path}),
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    out: dict[str, Any] = json.loads(result.stdout)
    return out


def test_a_net_with_the_type_runs_and_learns(found):
    assert found["known"] == [[[0.5, -0.75, 0.0]], -0.25, ["Input", "Softsign"]]


def test_a_python_layer_of_the_package_needs_no_permission(found):
    assert found["python"] == [[[0.5, -0.75, 0.0]], -0.25, ["Input", "Python"]]
    with pytest.raises(LayerError, match="which is not allowed"):
        load_net(PYTHON)


def test_show_and_diff_ask_the_package_too(found):
    """A class that computes in `forward` is set up on the meta device, where shapes are known."""

    def shown(name: str) -> tuple[object, object]:
        net = json.loads(found[f"show {name} --json"])["net"]
        return net["layers"][-1]["parameters"], net["parameters_known"]

    assert shown("known") == shown("python") == (1, True)
    assert shown("other") == (None, False)
    both = found["diff known python"]
    assert "24 B" in both and "or more" not in both


def test_the_type_is_listed(found):
    types = {kind["name"]: kind for kind in json.loads(found["layers --json"])}
    assert types["Softsign"]["family"] == "caffeio_example_layers"
    assert types["Pooling"]["family"] == "pooling"


def test_the_entry_point_is_that_of_the_project_file():
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    entry = (EXAMPLE / "caffeio_example_layers-1.0.dist-info" / "entry_points.txt").read_text()
    for group, names in project["entry-points"].items():
        assert f"[{group}]" in entry
        for name, module in names.items():
            assert f"{name} = {module}" in entry


def test_without_the_package_the_error_says_how_to_define_it():
    with pytest.raises(UnknownLayerError) as caught:
        load_net(NET)
    message = str(caught.value)
    assert "layer 'soft': unknown layer type 'Softsign'" in message
    assert "@caffeio.layers.layer('Softsign')" in message and "'caffeio.layers'" in message
    assert message.startswith("<text>:3:1:")


def test_a_broken_package_is_named_each_time(tmp_path, monkeypatch):
    (tmp_path / "broken_layers.py").write_text("import no_such_module")
    info = tmp_path / "broken_layers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-layers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[caffeio.layers]\nbroken = broken_layers\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry._Loaded, "plugins", False)
    for _ in range(2):
        with pytest.raises(CaffeIOError, match=r"package 'broken-layers'.*no_such_module"):
            load_net(NET)


def test_a_class_cannot_stand_for_a_type_that_is_built_in() -> None:
    """Not even where it is the first that anyone asks for."""
    code = (
        "from caffeio.layers.base import LayerType\n"
        "from caffeio.layers.registry import find, layer\n"
        "try: layer('LRN')(type('Mine', (LayerType,), {}))\n"
        "except ValueError as error: print(error)\n"
        "print(find('LRN').__module__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert "'LRN' is already defined" in done.stdout
    assert done.stdout.endswith("caffeio.layers.lrn\n")
