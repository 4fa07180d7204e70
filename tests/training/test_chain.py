"""Chains of solvers: what is skipped, resumed and refused, and what each phase starts from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffeio import Trainer, load_weights
from caffeio.errors import CaffeIOError, SolverError
from caffeio.training.chain import Phase, progress, read_chain, run_chain
from caffeio.training.trainer import Action, Events
from tests.paths import GOLDEN

QUIET = ["test_interval=1000000", "test_initialization=false", "display=0", "max_iter=6"]


@pytest.fixture
def solvers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three solvers of the same net, in a folder with their data and first weights."""
    shutil.copytree(GOLDEN / "solvers" / "lmdb", tmp_path / "solvers" / "lmdb")
    here = tmp_path / "solvers" / "case"
    here.mkdir()
    monkeypatch.chdir(here)
    for name in ("net.prototxt", "init.caffemodel"):
        shutil.copy(GOLDEN / "solvers" / "sgd_fixed" / name, name)
    text = (GOLDEN / "solvers" / "sgd_fixed" / "solver.prototxt").read_text()
    for i in range(3):
        changed = text.replace('snapshot_prefix: "snap"', f'snapshot_prefix: "p{i}"')
        Path(f"s{i}.prototxt").write_text(changed)
    return [f"s{i}.prototxt" for i in range(3)]


def run(solvers: list[str], *changes: str, **options: Any) -> list[Phase]:
    options.setdefault("weights", ["init.caffemodel"])
    return run_chain(solvers, overrides=[*QUIET, *changes], **options)


def statuses(phases: list[Phase]) -> list[str]:
    return [phase.status for phase in phases]


def test_each_phase_starts_from_the_last_ones_weights(solvers: list[str]) -> None:
    notes: list[str] = []
    phases = run(solvers, "snapshot=2", "base_lr=0.02", note=notes.append)
    assert statuses(phases) == ["trained"] * 3
    assert [phase.iterations for phase in phases] == [6, 6, 6]
    assert [note.split(" (")[0] for note in notes] == [f"phase {i} of 3" for i in (1, 2, 3)]
    start = phases[0].weights
    with Trainer(solvers[1], overrides=[*QUIET, "base_lr=0.02"], weights=[start]) as alone:
        assert alone.param.base_lr == pytest.approx(0.02)
        alone.step(6)
        for layer, blobs in load_weights(phases[1].weights).items():
            for mine, theirs in zip(alone.net.params[layer], blobs, strict=True):
                np.testing.assert_array_equal(mine.detach().numpy(), theirs)


def test_a_finished_chain_is_told_without_opening_data(
    solvers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(solvers)

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a net was built")

    monkeypatch.setattr("caffeio.training.build.build_net", refuse)
    shutil.rmtree("../lmdb")
    notes: list[str] = []
    assert statuses(run(solvers, note=notes.append)) == ["skipped"] * 3
    assert all("is there and whole" in note for note in notes)


@pytest.mark.parametrize("cut", ["half", "last layer"])
def test_final_weights_that_were_cut_off_do_not_count(solvers: list[str], cut: str) -> None:
    run(solvers[:2])
    final = Path("p1_iter_6.caffemodel")
    whole = final.read_bytes()
    last = whole.rindex(b"\xa2\x06", 0, whole.rindex(b"\x0a\x04loss"))  # field 100 begins
    final.write_bytes(whole[: len(whole) // 2] if cut == "half" else whole[:last])
    if cut == "last layer":
        assert load_weights(final).layers[-1].name == "ip"  # well-formed all the same
    # all blobs are there without the last layer, so that the state of iteration 6 can be used
    again = "trained" if cut == "half" else "resumed"
    assert statuses(run(solvers[:2])) == ["skipped", again]
    assert final.read_bytes() == whole


def stop_after(count: int) -> Callable[[], Action]:
    """A poll that asks to stop at its call number `count`."""
    calls = [Action.NONE] * (count - 1) + [Action.STOP]
    return lambda: calls.pop(0) if calls else Action.NONE


def test_stopped_chain_ends_and_goes_on_later(solvers: list[str]) -> None:
    phases = run(solvers, events=Events(poll=stop_after(8)))
    assert statuses(phases) == ["trained", "stopped"]
    assert phases[1].iterations == 2
    assert Path("p1_iter_2.solverstate").exists()
    seen: list[int] = []
    phases = run(solvers, on_trainer=lambda trainer: seen.append(trainer.iter))
    assert statuses(phases) == ["skipped", "resumed", "trained"]
    assert seen == [2, 0]


def test_hdf5_snapshots(solvers: list[str]) -> None:
    changes = ("snapshot_format=HDF5", "snapshot=2")
    assert statuses(run(solvers[:2], *changes)) == ["trained", "trained"]
    Path("p1_iter_6.caffemodel.h5").unlink()
    Path("p1_iter_6.solverstate.h5").unlink()
    assert statuses(run(solvers[:2], *changes)) == ["skipped", "resumed"]


def test_a_run_that_was_longer_does_not_count(solvers: list[str]) -> None:
    run(solvers[:1], "max_iter=9")
    [job] = read_chain(solvers[:1], overrides=QUIET)
    assert progress(job) == (False, None)


def test_chains_that_cannot_work_are_refused_before_training(solvers: list[str]) -> None:
    with pytest.raises(SolverError, match="same snapshot_prefix"):
        run([solvers[0], solvers[0]])
    with pytest.raises(SolverError, match="overwrite"):
        run(solvers, "snapshot_prefix=x")
    with pytest.raises(SolverError, match="would leave no weights"):
        run(solvers, "snapshot_after_train=false", "snapshot=4")
    with pytest.raises(CaffeIOError, match=r"s9\.prototxt"):
        run([*solvers, "s9.prototxt"])
    assert not list(Path().glob("p?_iter_*"))
    changes = ("snapshot_after_train=false", "snapshot=3")
    assert statuses(run(solvers[:2], *changes)) == ["trained", "trained"]


def test_phases_of_one_file(solvers: list[str]) -> None:
    text = """
    params_pair { batch_size: 5 solver_params { net: "net.prototxt" base_lr: 0.05 max_iter: 2
      lr_policy: "fixed" momentum: 0.9 snapshot_prefix: "m" solver_mode: CPU } }
    params_pair { batch_size: 20 }
    """
    Path("m.prototxt").write_text(text)
    sizes: list[int] = []
    phases = run_chain(
        ["m.prototxt"], weights=["init.caffemodel"],
        on_trainer=lambda trainer: sizes.append(trainer.images_per_iteration),
    )  # fmt: skip
    assert sizes == [5, 20]
    assert [phase.weights for phase in phases] == [
        "m_phase_0_iter_2.caffemodel", "m_phase_1_iter_2.caffemodel",
    ]  # fmt: skip
