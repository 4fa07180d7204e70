"""`caffeio train --dry-run` says what would happen, and nothing happens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from caffeio.cli.main import main
from caffeio.demo import glyphs, recipe
from caffeio.net import load_net
from caffeio.proto.weights.load import write_caffemodel
from caffeio.proto.weights.solverstate import SolverState, write_solverstate
from tests.fresh import modules_of


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo's five phases of which the first is done and the second was interrupted."""
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    glyphs.make_lmdb(Path("demo/train_lmdb"), 40, seed=1)
    glyphs.make_lmdb(Path("demo/test_lmdb"), 64, seed=2)
    recipe.write(Path("demo"))
    return tmp_path


def write_pair(prefix: str, iteration: int) -> None:
    net = load_net("demo/train_val.prototxt", phase="TRAIN")
    blobs = net.blob_arrays()
    name = f"{prefix}_iter_{iteration}.caffemodel"
    write_caffemodel(name, net.to_proto(), blobs, dialect="sara")
    history = [np.zeros_like(blob) for layer in blobs for blob in layer]
    state = SolverState(iteration, f"{prefix}_iter_{iteration}.caffemodel", history=history)
    write_solverstate(f"{prefix}_iter_{iteration}.solverstate", state)


def dry(*arguments: str) -> Any:
    result = CliRunner().invoke(main, ["train", *arguments, "--dry-run", "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["phases"]


def files(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_a_chain(demo: Path) -> None:
    write_pair("demo/init", 450)
    write_pair("demo/cyc1", 100)
    before = files(demo)
    names = ("init", "cyc1", "cyc2")
    solvers = [f"demo/solver_{name}.prototxt" for name in names]
    first, second, third = dry(*solvers, "--nproc", "4")
    assert (first["what"], second["what"], third["what"]) == ("skipped", "resumed", "begins")
    assert second["from"] == "demo/cyc1_iter_100.solverstate" and second["iteration"] == 100
    assert second["run"] == {
        "batch": 32, "workers": 4, "iter_size": 1, "images_per_update": 128,
        "images": 80 * 128, "dataset": 40, "epochs": 256.0,
    }  # fmt: skip
    assert third["from"] == "demo/cyc1_iter_180.caffemodel"
    assert third["data"][0] == {
        "layer": "data", "phase": "TRAIN", "source": "demo/train_lmdb", "records": 40, "batch": 32
    }  # fmt: skip
    result = CliRunner().invoke(main, ["train", *solvers, "--dry-run"], env={"COLUMNS": "80"})
    assert result.exit_code == 0 and max(map(len, result.stdout.splitlines())) <= 80
    flat = " ".join(result.stdout.split())
    assert "skipped: demo/init_iter_450.caffemodel is there and whole" in flat
    assert "goes on from demo/cyc1_iter_100.solverstate at iteration 100" in flat
    assert "data: demo/train_lmdb, 40 records found" in flat
    assert "phases to train 2 of 3" in flat and "iterations 308" in flat
    assert files(demo) == before


def test_the_memory_is_that_of_the_built_net(demo: Path) -> None:
    from caffeio.net.room import estimate
    from caffeio.training.trainer import Trainer

    [phase] = dry("demo/solver_init.prototxt")
    with Trainer("demo/solver_init.prototxt") as trainer:
        built = estimate(trainer.net, trainer.test_nets, 1)
    told = phase["memory"]
    assert told["weights"] == built.weights and told["gradients and history"] == built.training
    assert told["blobs of the training net"] == built.blobs


def test_one_solver_with_weights_tests_and_snapshots(demo: Path) -> None:
    write_pair("demo/w", 7)
    sets = ["test_iter=2", "test_interval=50", "snapshot=100", "type=Adam"]
    options = [word for text in sets for word in ("--set", text)]
    arguments = ["demo/solver_init.prototxt", "--weights", "demo/w_iter_7.caffemodel", *options]
    [phase] = dry(*arguments)
    assert phase["what"] == "begins" and phase["from"] == "demo/w_iter_7.caffemodel"
    assert phase["snapshots"] == [100, 200, 300, 400, 450]
    assert phase["memory"]["gradients and history"] == 3 * phase["memory"]["weights"]
    text = CliRunner().invoke(main, ["train", *arguments, "--dry-run"]).stdout
    assert re.search(r"tests +every 50 .*: 64 images \(100 % of the\s+data\)", text)
    [phase] = dry(*arguments[:1], "--snapshot", "auto")
    assert phase["what"] == "begins" and phase["from"] is None


@pytest.mark.parametrize(("caffe", "images"), [("bvlc", 64), ("intel", 256), ("nvidia", 64)])
def test_images_of_a_test_are_those_of_all_who_test(caffe: str, images: int, demo: Path) -> None:
    """BVLC: worker 0; Intel: each worker test_iter batches; NVIDIA: each a part of the batch."""
    data = 'layer { name: "data" type: "Data" top: "data" top: "label" data_param { batch_size: 32'
    rest = ' source: "demo/test_lmdb" backend: LMDB } }'
    Path("n.prototxt").write_text(data + rest)
    Path("s.prototxt").write_text(
        'net: "n.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 100 test_iter: 2 '
        'test_interval: 50 snapshot_prefix: "s"'
    )
    more = ["--caffe", caffe, "--nproc", "4", "--dry-run"]
    result = CliRunner().invoke(main, ["train", "s.prototxt", *more])
    assert result.exit_code == 0, result.stderr
    assert re.search(rf"tests +0, 50, 100: {images} images", result.stdout), result.stdout


def test_what_is_missing_is_an_error_before_and_a_warning_here(demo: Path) -> None:
    arguments = ["train", "demo/solver_init.prototxt", "--set", "snapshot_prefix=none/x"]
    result = CliRunner().invoke(main, [*arguments, "--dry-run"])
    assert result.exit_code == 0 and "the folder none is missing" in result.stdout
    source = "layer[data].data_param.source=none"
    result = CliRunner().invoke(main, [*arguments[:2], "--set", source, "--dry-run"])
    assert result.exit_code == 2 and "'none' does not exist" in result.stderr
    result = CliRunner().invoke(main, [*arguments[:2], "--json"])
    assert result.exit_code == 2 and "--dry-run" in result.stderr


def test_it_needs_no_torch(demo: Path) -> None:
    assert "torch" not in modules_of("train", "demo/solver_init.prototxt", "--dry-run")


def test_layers_that_the_weights_do_not_have_are_named(demo: Path) -> None:
    """Whoever renames a layer to learn it anew sees that it is (P8)."""
    write_pair("demo/w", 7)
    net = Path("demo/train_val.prototxt")
    net.write_text(net.read_text().replace('"fc"', '"fc_new"'))
    arguments = ["train", "demo/solver_init.prototxt", "--weights", "demo/w_iter_7.caffemodel"]
    batch = "layer[data].data_param.batch_size=2"
    result = CliRunner().invoke(main, [*arguments, "--set", "max_iter=1", "--set", batch])
    assert result.exit_code == 0
    assert "Ignoring source layer fc" in result.stderr
    assert result.stderr.count("Not in the file, start from their fillers: fc_new\n") == 1


def test_a_layer_that_shares_what_the_weights_have_is_not_missing(demo: Path) -> None:
    """Its blobs are those of a layer that is in the file; no filler's values are kept."""
    write_pair("demo/w", 7)
    net = Path("demo/train_val.prototxt")
    text = net.read_text()
    at = text.index('layer {\n  name: "fc"')
    end = text.index("\n}\n", at) + 3
    named = text[at:end].replace(
        'type: "InnerProduct"', 'type: "InnerProduct"\n  param { name: "w" } param { name: "b" }'
    )
    twin = named.replace('name: "fc"', 'name: "twin"').replace('top: "fc"', 'top: "twin"')
    silent = 'layer { name: "silent" type: "Silence" bottom: "twin" }\n'
    net.write_text(text[:at] + named + twin + silent + text[end:])
    arguments = ["train", "demo/solver_init.prototxt", "--weights", "demo/w_iter_7.caffemodel"]
    batch = "layer[data].data_param.batch_size=2"
    result = CliRunner().invoke(main, [*arguments, "--set", "max_iter=1", "--set", batch])
    assert result.exit_code == 0, result.output
    assert "Sharing parameters" not in result.stderr or "twin" in result.stderr
    assert "Not in the file" not in result.stderr


def test_a_state_of_another_solver_is_guessed(demo: Path) -> None:
    write_pair("demo/init", 7)
    arguments = ["train", "demo/solver_init.prototxt", "--set", "type=Adam"]
    result = CliRunner().invoke(main, [*arguments, "--snapshot", "demo/init_iter_7.solverstate"])
    assert result.exit_code == 2
    assert re.search(r"an Adam solver of this net has \d+: .* another type", result.stderr)


def test_a_batch_that_workers_share_is_counted_once(demo: Path) -> None:
    """In the plan, in `show` and in `diff`: NVIDIA's workers take parts of the file's batch."""
    text = (
        'net: "demo/train_val.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 100\n'
        'snapshot_prefix: "nv" solver_mode: CPU\n'
    )
    Path("solver.prototxt").write_text(text)
    solver = "solver.prototxt"
    nvidia = ("--caffe", "nvidia")
    [whole], [part] = dry(solver, *nvidia), dry(solver, *nvidia, "--nproc", "8")
    assert (whole["run"]["batch"], part["run"]["batch"]) == (32, 4)
    for key in ("images_per_update", "images", "epochs"):
        assert part["run"][key] == whole["run"][key], key
    assert part["data"] == whole["data"]  # what the file says
    blobs = "blobs of the training net"
    assert part["memory"][blobs] < whole["memory"][blobs] / 7
    for command in (("show", solver, solver), ("show", solver)):
        more = ("--workers", "8", "--speed", "100", *nvidia)
        result = CliRunner().invoke(main, [*command, *more])
        assert result.exit_code == 0, result.output
        told = result.stdout
        alone = CliRunner().invoke(main, [*command, "--speed", "100", *nvidia]).stdout
        assert re.findall(r"\d+(?:\.\d+)? (?:h|min)\b", told) == re.findall(
            r"\d+(?:\.\d+)? (?:h|min)\b", alone
        ) != []  # fmt: skip
        bvlc = CliRunner().invoke(main, [*command, *more[:-1], "bvlc"]).stdout
        assert re.findall(r"images seen +[\d,]+", told) == re.findall(
            r"images seen +[\d,]+", alone
        ) != re.findall(r"images seen +[\d,]+", bvlc)  # fmt: skip
        odd = CliRunner().invoke(main, [*command, "--workers", "7", *nvidia])
        assert odd.exit_code == 2
        assert "layer 'data': data_param.batch_size 32 is the batch of all" in odd.stderr
    Path("nv.prototxt").write_text(text + "rampup_interval: 1\n")
    result = CliRunner().invoke(
        main, ["diff", "nv.prototxt", "nv.prototxt", "--workers", "8", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["left"]["data"]["images_per_update"] == 32
