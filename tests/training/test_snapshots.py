"""Snapshots: the structure of real Caffe's files, what they hold, how a run goes on from them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from caffeio import Trainer, load_weights
from caffeio.cli.main import main
from caffeio.errors import SnapshotError
from caffeio.log.glog import Log
from caffeio.proto.dialect.dialect import decode
from caffeio.proto.io.wire import iter_fields
from caffeio.proto.weights.solverstate import read_solverstate
from tests.paths import GOLDEN

DIALECT = GOLDEN / "fork" / "dialect" / "main"
DIALECT_OF = {"fork": "sara", "bvlc": "bvlc"}


def wire_types(path: Path) -> list[tuple[int, int]]:
    return [(number, wire_type) for number, wire_type, _ in iter_fields(path.read_bytes())]


def h5_tree(path: Path) -> list[tuple[str, Any, str]]:
    out: list[tuple[str, Any, str]] = []
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: out.append(
                (name, getattr(item, "shape", None), str(getattr(item, "dtype", "")))
            )
        )
    return out


@pytest.mark.parametrize("name", ["fork", "bvlc"])
def test_files_of_the_same_run_have_the_structure_of_caffes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    theirs = DIALECT / name
    for file in ("net.prototxt", "solver.prototxt", "solver_h5.prototxt"):
        shutil.copy(theirs / file, file)
    for solver in ("solver.prototxt", "solver_h5.prototxt"):
        with Trainer(solver) as trainer:
            trainer.solve()
    weights = f"{name}_iter_6.caffemodel"
    mine = decode(Path(weights).read_bytes(), "NetParameter", DIALECT_OF[name])
    wanted = decode((theirs / weights).read_bytes(), "NetParameter", DIALECT_OF[name])
    assert not mine.unknown
    assert mine.message == wanted.message  # every field of every layer but the numbers themselves
    assert wire_types(Path(weights)) == wire_types(theirs / weights)
    assert Path(weights).stat().st_size == (theirs / weights).stat().st_size
    state = f"{name}_iter_6.solverstate"
    assert wire_types(Path(state)) == wire_types(theirs / state)
    for end in ("caffemodel", "solverstate"):
        file = f"{name}_h5_iter_6.{end}.h5"
        assert h5_tree(Path(file)) == h5_tree(theirs / file)
    ours, caffes = (read_solverstate(p / state) for p in (Path(), theirs))
    assert (ours.iter, ours.learned_net, ours.current_step) == (6, weights, 0)
    assert (caffes.iter, caffes.learned_net, caffes.minimum_loss) == (6, weights, ours.minimum_loss)
    for a, b in zip(ours.history, caffes.history, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= 1e-4 * max(np.abs(b).max(), 1e-2)


# -- a small case ------------------------------------------------------------------------------


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(GOLDEN / "solvers" / "sgd_fixed", tmp_path / "solvers" / "sgd_fixed")
    shutil.copytree(GOLDEN / "solvers" / "lmdb", tmp_path / "solvers" / "lmdb")
    monkeypatch.chdir(tmp_path / "solvers" / "sgd_fixed")
    for path in Path().glob("snap_iter_*"):
        path.unlink()
    return Path.cwd()


QUIET = ["test_interval=1000000", "test_initialization=false", "display=0"]


def trainer(*changes: str, **options: Any) -> Trainer:
    options.setdefault("weights", ["init.caffemodel"])
    if "snapshot" in options:
        del options["weights"]
    return Trainer("solver.prototxt", overrides=[*QUIET, *changes], **options)


def blobs(run: Trainer) -> list[np.ndarray]:
    return [item.tensor.detach().numpy().copy() for item in run.net.learnable]


def stored_diffs(path: str) -> list[np.ndarray]:
    weights = load_weights(path)
    return [np.array(d) for blobs in weights.diffs.values() for d in blobs]


def test_snapshot_diff_of_bvlc_is_the_applied_update(case: Path) -> None:
    with trainer("snapshot_diff=true") as run:
        run.step(3)
        before = blobs(run)
        run.step(1)
        after = blobs(run)
        path, _ = run.snapshot()
    for a, b, diff in zip(before, after, stored_diffs(path), strict=True):
        np.testing.assert_allclose(diff, a - b, atol=2e-7)
        assert np.abs(diff).max() > 1e-5


def test_snapshot_diff_of_the_fused_fork_is_the_gradient(case: Path) -> None:
    changes = ("snapshot_diff=true", "solver_mode=CPU", "momentum=0")
    with trainer(*changes, profile="intel") as run:
        decay, rate = run.param.weight_decay, run.param.base_lr
        assert decay > 0
        run.step(3)
        before = blobs(run)
        run.step(1)
        after = blobs(run)
        path, _ = run.snapshot()
    for item, a, b, diff in zip(run.net.learnable, before, after, stored_diffs(path), strict=True):
        gradient = (a - b) / (rate * item.lr_mult) - decay * item.decay_mult * a
        np.testing.assert_allclose(diff, gradient, atol=2e-3 * np.abs(gradient).max())


def test_snapshot_diff_in_hdf5(case: Path) -> None:
    with trainer("snapshot_diff=true", "snapshot_format=HDF5") as run:
        run.step(2)
        before = blobs(run)
        run.step(1)
        path, state = run.snapshot()
    assert (path, state) == ("snap_iter_3.caffemodel.h5", "snap_iter_3.solverstate.h5")
    with h5py.File(path) as file:
        diff = np.array(file["diff/conv1/0"])
        data = np.array(file["data/conv1/0"])
    np.testing.assert_allclose(before[0] - data, diff, atol=2e-7)


@pytest.mark.parametrize("format", ["BINARYPROTO", "HDF5"])
def test_resume_from_another_folder(
    format: str, case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """learned_net is as the first run saw it; it is found beside the state all the same."""
    with trainer(f"snapshot_format={format}") as run:
        run.step(20)  # one epoch: the data begin anew, as they do after a resume
        _, state = run.snapshot()
        run.step(3)
        wanted = blobs(run)
    saved = read_solverstate(state)
    assert saved.learned_net == state.replace("solverstate", "caffemodel")
    assert saved.iter == 20
    (tmp_path / "elsewhere" / "there").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere" / "there")
    with Trainer(case / "solver.prototxt", overrides=QUIET, snapshot=case / state) as run:
        assert run.iter == 20
        run.step(3)
        for a, b in zip(blobs(run), wanted, strict=True):
            np.testing.assert_array_equal(a, b)


def test_missing_weights_of_a_state_are_named(case: Path) -> None:
    with trainer() as run:
        run.step(1)
        weights, state = run.snapshot()
    Path(weights).unlink()
    with pytest.raises(SnapshotError, match=r"snap_iter_1\.caffemodel.*tried"):
        trainer(snapshot=state)


def test_state_of_another_net_changes_nothing(case: Path) -> None:
    with trainer() as run:
        run.step(1)
        _, state = run.snapshot()
    net = Path("net.prototxt")
    text = net.read_text()
    wider = text.replace(
        "inner_product_param { num_output: 4", "inner_product_param { num_output: 5"
    )
    assert wider != text
    net.write_text(wider)
    with trainer(weights=[]) as run:
        before = blobs(run)
        with pytest.raises(SnapshotError, match=r"solverstate.*history blob 2.*'ip'"):
            run.restore(state)
        assert run.iter == 0
        for a, b in zip(blobs(run), before, strict=True):
            np.testing.assert_array_equal(a, b)


def test_state_of_another_solver_type_is_refused(case: Path) -> None:
    with trainer() as run:
        run.step(1)
        _, state = run.snapshot()
    with pytest.raises(SnapshotError, match="Incorrect length of history"):
        trainer("type=Adam", snapshot=state)


def test_state_beyond_max_iter_trains_nothing_and_snapshots(case: Path) -> None:
    lines: list[str] = []
    with trainer() as run:
        run.step(5)
        _, state = run.snapshot()
        wanted = blobs(run)
    with trainer("max_iter=3", snapshot=state, log=Log(lines.append)) as run:
        for path in Path().glob("snap_iter_*.caffemodel"):
            path.rename("kept.caffemodel")
        assert run.solve()
        assert run.iter == 5
        for a, b in zip(blobs(run), wanted, strict=True):
            np.testing.assert_array_equal(a, b)
    assert Path("snap_iter_5.caffemodel").exists()
    assert not [line for line in lines if "lr =" in line]
    assert lines[-1].endswith("Optimization Done.")


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        (["max_iter=4", "snapshot=0"], [4]),
        (["max_iter=4", "snapshot=0", "snapshot_after_train=false"], []),
        (["max_iter=5", "snapshot=2"], [2, 4, 5]),
        (["max_iter=4", "snapshot=2"], [2, 4]),
        (["max_iter=5", "snapshot=2", "snapshot_after_train=false"], [2, 4]),
    ],
)
def test_when_snapshots_are_written(case: Path, changes: list[str], wanted: list[int]) -> None:
    written: list[str] = []
    with trainer(*changes) as run:
        run.events.snapshot = lambda weights, state: written.append(weights)
        run.solve()
    assert written == [f"snap_iter_{n}.caffemodel" for n in wanted]
    assert all(Path(name).exists() for name in written)


@pytest.mark.parametrize("format", ["BINARYPROTO", "HDF5"])
def test_auto_takes_the_newest_pair_and_may_start_from_weights(format: str, case: Path) -> None:
    changes = [*QUIET, f"snapshot_format={format}", "snapshot=2", "max_iter=5"]
    sets = [word for change in changes for word in ("--set", change)]
    arguments = ["train", "solver.prototxt", "--snapshot", "auto", "--weights", "init.caffemodel"]
    first = CliRunner().invoke(main, [*arguments, *sets])
    assert first.exit_code == 0, first.output
    assert "No whole snapshot yet" in first.stderr
    assert "Finetuning from init.caffemodel" in first.stderr
    for path in Path().glob("snap_iter_5.*"):
        path.unlink()
    again = CliRunner().invoke(main, [*arguments, *sets])
    assert again.exit_code == 0, again.output
    end = ".h5" if format == "HDF5" else ""
    assert f"Resuming from snap_iter_4.solverstate{end}" in again.stderr
    assert "Finetuning" not in again.stderr
    assert Path(f"snap_iter_5.caffemodel{end}").exists()


def test_prefix_rules(case: Path, tmp_path: Path) -> None:
    text = Path("solver.prototxt").read_text().replace('snapshot_prefix: "snap"', "")
    Path("own.prototxt").write_text(text)
    lines: list[str] = []
    options: dict[str, Any] = {"overrides": [*QUIET, "snapshot=0"], "log": Log(lines.append)}
    with Trainer("own.prototxt", **options) as run:
        assert run.snapshots.names(3)[0] == "own_iter_3.caffemodel"
    assert "snapshot_prefix was not specified and is set to own" in lines[0]
    Path("folder").mkdir()
    Path("own.prototxt").write_text(text + '\nsnapshot_prefix: "folder/"\n')
    with Trainer("own.prototxt", **options) as run:
        assert run.snapshots.names(3)[0] == "folder/own_iter_3.caffemodel"
    Path("own.prototxt").write_text(text)
    with Trainer("own.prototxt", profile="intel", device="cpu", **options) as run:
        assert run.snapshots.names(3)[0] == "_iter_3.caffemodel"
    Path("own.prototxt").write_text(text + '\nsnapshot_prefix: "nowhere/snap"\n')
    with pytest.raises(SnapshotError, match="cannot write to snapshot prefix 'nowhere/snap'"):
        Trainer("own.prototxt", overrides=[*QUIET, "snapshot=5"])
