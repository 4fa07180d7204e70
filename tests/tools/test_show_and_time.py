"""`show` states nothing of a net that the net as it is built contradicts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from caffeio.cli.main import main
from caffeio.converters.show.view import as_data, make_view
from caffeio.errors import CaffeIOError
from caffeio.net.recipe import NetRecipe
from caffeio.net.shapes import infer_net
from caffeio.tools.benchmark import layer_facts
from tests.fuzz.golden_nets import cases_of
from tests.paths import GOLDEN, SHARED, needs_shared

NETS = sorted(GOLDEN.glob("nets/*/net.prototxt"))
CORPUS = [  # a family each, small enough to be run here
    "BVLC+caffe/examples/cifar10/cifar10_quick.prototxt",
    "BVLC+caffe/examples/hdf5_classification/nonlinear_train_val.prototxt",
]
LARGE = [  # these are built without memory
    "BVLC+caffe/examples/mnist/lenet_train_test.prototxt",
    "BVLC+caffe/examples/cifar10/cifar10_quick_train_test.prototxt",
    "BVLC+caffe/models/bvlc_alexnet/train_val.prototxt",
    "BVLC+caffe/models/bvlc_reference_caffenet/deploy.prototxt",
    "BVLC+caffe/examples/feature_extraction/imagenet_val.prototxt",
    "chuanqi305+MobileNet-SSD/deploy.prototxt",
    "dgschwend+netscope/presets/squeezenet.prototxt",
    "intel+caffe/models/default_vgg_16/train_val.prototxt",
    "sara-nl+caffe/models/intel_optimized_models/int8/resnet50_int8.prototxt",
    "sara-nl+caffe/models/intel_optimized_models/int8/ssd_int8.prototxt",
]
FUZZ = [(name, case) for name in ("nets", "inplace") for case in cases_of(name)]


def run(*words: str) -> Any:
    done = CliRunner().invoke(main, [*words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    return facts.get("net", facts)


def contradictions(shown: dict[str, Any], real: dict[str, Any]) -> Iterator[str]:
    """What `show --json` states and the built net has otherwise."""
    named = {row["name"] for row in shown["layers"]}
    layers = [r for r in real["layers"] if r["type"] != "Split" or r["name"] in named]
    assert len(layers) == len(shown["layers"])
    for mine, theirs in zip(shown["layers"], layers, strict=True):
        tops = list(zip(mine["top_shapes"], theirs["top_shapes"], strict=False))
        fine = len(tops) == len(mine["top_shapes"]) and all(
            a is None or (len(a) == len(b) and all(n in (-1, m) for n, m in zip(a, b, strict=True)))
            for a, b in tops
        )
        fine = fine and mine["parameters"] in (None, theirs["parameters"])
        fine = fine and mine["macs"] in (None, theirs["macs"])
        if not fine:
            yield f"{mine}; the net has {theirs}"
    for name in ("parameters", "macs"):
        if shown[name] > real[name] or (shown[f"{name}_known"] and shown[name] != real[name]):
            yield f"in all {shown[name]} {name}; the net has {real[name]}"


@pytest.mark.parametrize("path", NETS, ids=lambda p: p.parent.name)
@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_show_and_time_of_golden_nets(path, phase):
    shown = run("show", str(path), "--phase", phase)
    timed = run("time", str(path), "--phase", phase, "--synthetic", "--iterations", "1")
    assert shown["problems"] == []
    assert list(contradictions(shown, timed)) == []


@needs_shared
@pytest.mark.parametrize("name", CORPUS)
def test_show_and_time_of_public_nets(name):
    path = str(SHARED / "corpus" / "prototxt" / name)
    shown = run("show", path)
    words = ("--phase", shown["phase"], "--synthetic", "--iterations", "1")
    assert list(contradictions(shown, run("time", path, *words))) == []


def net_facts(recipe: NetRecipe) -> dict[str, Any]:
    """Build the net without memory, and tell what `time` tells of it."""
    net = recipe.build(device="meta")
    rows = [vars(layer_facts(step)) for step in net.steps]
    parameters = sum(item.tensor.numel() for item in net.learnable)
    return {"layers": rows, "parameters": parameters, "macs": sum(row["macs"] for row in rows)}


def shown_facts(recipe: NetRecipe) -> dict[str, Any]:
    folders = recipe.search_path
    shapes = infer_net(recipe.graph(), profile=recipe.profile, search_path=folders)
    return as_data(make_view(shapes))


@needs_shared
@pytest.mark.parametrize("name", LARGE)
def test_large_public_nets(name):
    recipe = NetRecipe.of_tool(os.fspath(SHARED / "corpus" / "prototxt" / name), phase="TEST")
    assert list(contradictions(shown_facts(recipe), net_facts(recipe))) == []


@pytest.mark.parametrize("part", range(4))
def test_random_nets(part):
    """Nets that a machine wrote, wired at will: the same sizes or the same refusal."""
    wrong, built = [], 0
    for name, case in FUZZ[part::4]:
        title = f"{name} {case['seed']}"
        try:
            recipe = NetRecipe.of_tool(case["text"], phase=case["phase"])
            shown = shown_facts(recipe)
        except CaffeIOError:  # the text or the graph is wrong: both need them
            with pytest.raises(CaffeIOError):
                NetRecipe.of_tool(case["text"], phase=case["phase"]).build(device="meta")
            continue
        told = [problem["message"] for problem in shown["problems"]]
        try:
            real = net_facts(recipe)
        except CaffeIOError as error:
            unknown = not all(row["known_type"] for row in shown["layers"])
            if error.message not in told and not unknown:
                wrong.append(f"{title}: built: {error.message}; told: {told}")
            continue
        built += 1
        wrong += [f"{title}: told {told}; it is built"] if told else []
        wrong += [f"{title}: {text}" for text in contradictions(shown, real)]
    assert built > 10
    assert not wrong, "\n".join(wrong[:5]) + f"\n{len(wrong)} in all"
