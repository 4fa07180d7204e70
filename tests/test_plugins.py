"""Layer types of third parties, with the package of tests/plugin_example."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from caffeio import load_net
from caffeio.errors import CaffeIOError, LayerError, UnknownLayerError
from caffeio.layers import registry

EXAMPLE = Path(__file__).with_name("plugin_example")
NET = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } }
layer { name: "soft" type: "Softsign" bottom: "x" top: "y" }
"""
SCRIPT = """
import sys, torch
from caffeio import load_net
net = load_net(sys.argv[1])
y = net({"x": torch.tensor([[1.0, -3.0, 0.0]])})["y"]
y.sum().backward()
print(y.tolist(), net.params["soft"][0].grad.item(), net.layer_types)
"""


def run(*command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLE)}
    result = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_net_with_the_type_runs_and_learns():
    assert run("-c", SCRIPT, NET) == "[[0.5, -0.75, 0.0]] -0.25 ['Input', 'Softsign']\n"


def test_a_python_layer_of_the_package_needs_no_permission():
    code = 'python_param { module: "project.layers" layer: "SoftsignLayer" }'
    text = NET.replace('type: "Softsign"', f'type: "Python" {code}')
    assert run("-c", SCRIPT, text) == "[[0.5, -0.75, 0.0]] -0.25 ['Input', 'Python']\n"
    with pytest.raises(LayerError, match="which is not allowed"):
        load_net(text)


def test_show_and_diff_ask_the_package_too(tmp_path):
    """A class that computes in `forward` is set up on the meta device, where shapes are known."""
    for name, text in {"known": NET, "other": NET.replace("Softsign", "Softsigm")}.items():
        (tmp_path / name).write_text(text)
    python = 'python_param { module: "project.layers" layer: "SoftsignLayer" }'
    (tmp_path / "python").write_text(NET.replace('type: "Softsign"', f'type: "Python" {python}'))

    def shown(name: str) -> tuple[object, object]:
        text = run("-m", "caffeio.cli", "show", str(tmp_path / name), "--json")
        net = json.loads(text)["net"]
        return net["layers"][-1]["parameters"], net["parameters_known"]

    assert shown("known") == shown("python") == (1, True)
    assert shown("other") == (None, False)
    both = run("-m", "caffeio.cli", "diff", str(tmp_path / "known"), str(tmp_path / "python"))
    assert "24 B" in both and "or more" not in both


def test_the_type_is_listed():
    types = {
        kind["name"]: kind for kind in json.loads(run("-m", "caffeio.cli", "layers", "--json"))
    }
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
