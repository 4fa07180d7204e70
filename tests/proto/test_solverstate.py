from __future__ import annotations

import os
import shutil
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caffeio.errors import SnapshotError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.io.wire import bytes_field, varint_field
from caffeio.proto.weights.load import write_caffemodel
from caffeio.proto.weights.solverstate import (
    SolverState,
    find_weights,
    newest_whole_pair,
    read_solverstate,
    snapshot_names,
    write_solverstate,
)
from tests import warm
from tests.paths import GOLDEN, NIGHT, ROOT
from tests.proto.huge import huge
from tests.proto.test_hdf5 import ids, timeless

STATES = sorted(GOLDEN.glob("**/*.solverstate"))
HDF5_STATES = sorted(GOLDEN.glob("**/*.solverstate.h5"))


def test_there_are_states() -> None:
    assert len(STATES) > 35
    assert len(HDF5_STATES) >= 6


@pytest.mark.parametrize("path", STATES, ids=ids)
def test_reads_what_protobuf_reads(path: Path) -> None:
    state = read_solverstate(path)
    message = pb.SolverState.FromString(path.read_bytes())
    assert state.iter == message.iter
    assert f"_iter_{state.iter}." in path.name
    assert state.learned_net == message.learned_net
    assert state.current_step == message.current_step
    assert len(state.history) == len(message.history)
    for array, blob in zip(state.history, message.history, strict=True):
        assert array.shape == tuple(blob.shape.dim)
        assert array.ravel().tolist() == list(blob.data)


@pytest.mark.parametrize("path", STATES, ids=ids)
def test_writes_the_bytes_of_caffe(path: Path, tmp_path: Path) -> None:
    state = read_solverstate(path)
    extras = state.minimum_loss is not None
    assert extras == ("fork" in path.parts and path.parent.name != "bvlc")
    write_solverstate(tmp_path / "x", state, profile_extras=extras)
    assert (tmp_path / "x").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("path", HDF5_STATES, ids=ids)
def test_writes_the_hdf5_of_caffe(path: Path, tmp_path: Path) -> None:
    """Read and written, an HDF5 state is the same file, times of modification apart."""
    state = read_solverstate(path)
    with h5py.File(path) as file:
        assert state.iter == file["iter"][0]
        assert state.current_step == file["current_step"][0]
        assert state.learned_net == file["learned_net"][()].decode()
        assert len(state.history) == len(file["history"])
        for i, array in enumerate(state.history):
            assert np.array_equal(array, file[f"history/{i}"])
    out = tmp_path / "x.h5"
    write_solverstate(out, state, profile_extras=state.minimum_loss is not None)
    assert timeless(out) == timeless(path)


def test_extras_of_the_fork() -> None:
    state = read_solverstate(GOLDEN / "fork/lr/plateau_resume/snap_iter_22.solverstate")
    assert state.minimum_loss is not None
    assert 0 < state.minimum_loss < 1e38
    assert state.iter_last_event is not None
    folder = GOLDEN / "fork/dialect/main"
    assert read_solverstate(folder / "fork/fork_h5_iter_6.solverstate.h5").minimum_loss is not None
    assert read_solverstate(folder / "bvlc/bvlc_h5_iter_6.solverstate.h5").minimum_loss is None


def test_defaults(tmp_path: Path) -> None:
    for path in (tmp_path / "x", tmp_path / "x.h5"):
        write_solverstate(path, SolverState(0), profile_extras=True)
        state = read_solverstate(path)
        assert (state.iter, state.current_step, state.history) == (0, 0, [])
        assert state.minimum_loss == np.finfo(np.float32).max
        assert state.iter_last_event == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.integers(-(2**31), 2**31 - 1),
    st.none() | st.text(),
    st.integers(0, 2**31 - 1),
    st.lists(st.lists(st.integers(0, 4), max_size=4), max_size=5),
    st.none() | st.floats(width=32, allow_nan=False),
)
def test_equals_protobuf(
    tmp_path: Path,
    iteration: int,
    net: str | None,
    step: int,
    shapes: list[list[int]],
    loss: float | None,
) -> None:
    history = [np.random.default_rng(i).random(s, np.float32) for i, s in enumerate(shapes)]
    state = SolverState(iteration, net, step, [np.asarray(h) for h in history], loss, 7)
    path = tmp_path / "x.solverstate"
    write_solverstate(path, state, profile_extras=loss is not None, sync=False)
    message = pb.SolverState(iter=iteration, learned_net=net, current_step=step)
    for array in state.history:
        blob = message.history.add()
        blob.data.extend(array.ravel().tolist())
        if array.ndim:
            blob.shape.dim.extend(array.shape)
    wanted = message.SerializeToString()
    if loss is not None:
        wanted += b"\x2d" + struct.pack("<f", loss) + varint_field(6, 7)
    assert path.read_bytes() == wanted
    back = read_solverstate(path)
    assert (back.iter, back.learned_net, back.current_step) == (iteration, net, step)
    assert back.minimum_loss == loss
    assert all(np.array_equal(a, b) for a, b in zip(back.history, state.history, strict=True))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty"),
        (b"iter: 3\n", "is text"),
        (STATES[0].read_bytes()[:-1], "cut off"),
        (STATES[0].read_bytes()[:100], "cut off"),
        (bytes_field(2, b"x.caffemodel"), "no `iter`"),
        ((GOLDEN / "nets/multi_loss/weights.caffemodel").read_bytes(), "is a .caffemodel, weights"),
        (varint_field(1, 3) + bytes_field(3, bytes_field(5, b"123")), "history blob 0"),
        (
            varint_field(1, 3) + bytes_field(3, bytes_field(7, b"\x08\x05")),
            "history blob 0: .*no v",
        ),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 200, "HDF5"),
    ],
)
def test_broken_states(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "x.solverstate"
    path.write_bytes(content)
    with pytest.raises(SnapshotError, match=rf"x\.solverstate: .*{text}"):
        read_solverstate(path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"data/a/0": np.ones(3)}, "no 'iter' and 'history'"),
        ({"iter": np.ones((2,), int), "history/0": np.ones(3)}, r"iter has the shape \(2,\)"),
        ({"iter": "three", "history/0": np.ones(3)}, "damaged"),
        ({"iter": 3, "history/x": np.ones(3)}, "history has data sets named x"),
    ],
)
def test_broken_hdf5_states(tmp_path: Path, content: dict[str, Any], text: str) -> None:
    path = tmp_path / "x.solverstate.h5"
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            file[name] = value
    with pytest.raises(SnapshotError, match=text):
        read_solverstate(path)


def test_compressed_hdf5_state(tmp_path: Path) -> None:
    path = tmp_path / "x.solverstate.h5"
    with h5py.File(path, "w") as file:
        file["iter"] = np.array([3])
        file["learned_net"] = "x.caffemodel"
        file.create_dataset("history/0", data=np.ones((50, 50)), compression="gzip")
    state = read_solverstate(path)
    assert (state.iter, state.learned_net) == (3, "x.caffemodel")
    assert state.history[0].sum() == 2500


def test_missing_state(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="no such file"):
        read_solverstate(tmp_path / "x.solverstate")


def test_what_cannot_be_history(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="history blob 0 cannot be written"):
        write_solverstate(tmp_path / "x", SolverState(1, None, 0, [np.zeros(3, complex)]))
    assert os.listdir(tmp_path) == []


# -- pairs ----------------------------------------------------------------------------------


def snapshot(
    folder: Path,
    iteration: int,
    *,
    moments: int = 1,
    end: str = "",
    blobs: list[list[np.ndarray]] | None = None,
) -> tuple[Path, Path]:
    """A snapshot as a trainer writes it: weights, then state."""
    blobs = blobs or [[], [np.ones((2, 3), np.float32), np.ones(2, np.float32)], [np.ones(4)]]
    net = pb.NetParameter(name="n")
    for i in range(len(blobs)):
        net.layer.add(name=f"layer{i}")
    weights = folder / f"snap_iter_{iteration}.caffemodel"
    write_caffemodel(weights, net, blobs)
    history = [np.zeros(b.shape, np.float32) for layer in blobs for b in layer] * moments
    state = folder / f"snap_iter_{iteration}.solverstate{end}"
    write_solverstate(state, SolverState(iteration, str(weights), 0, history))
    return state, weights


def test_newest_pair(tmp_path: Path) -> None:
    prefix = tmp_path / "snap"
    assert newest_whole_pair(prefix) is None
    assert newest_whole_pair(tmp_path / "none" / "snap") is None
    for i in (9, 100, 20):
        snapshot(tmp_path, i)
    assert newest_whole_pair(prefix) == (
        tmp_path / "snap_iter_100.solverstate",
        tmp_path / "snap_iter_100.caffemodel",
        100,
    )
    assert newest_whole_pair(tmp_path / "sna") is None
    assert [n for n, _ in snapshot_names(prefix)] == [100, 20, 9]


@pytest.mark.parametrize("broken", ["weights", "state", "no weights", "no state", "name"])
def test_half_a_pair_is_passed_over(tmp_path: Path, broken: str) -> None:
    wanted = (*snapshot(tmp_path, 10), 10)
    state, weights = snapshot(tmp_path, 20)
    if broken in ("weights", "state"):
        half = weights if broken == "weights" else state
        half.write_bytes(half.read_bytes()[:-9])
    elif broken == "name":
        state.rename(tmp_path / "snap_iter_30.solverstate")
    else:
        (weights if broken == "no weights" else state).unlink()
    assert newest_whole_pair(tmp_path / "snap") == wanted


@pytest.mark.parametrize("moments", [1, 2])
def test_weights_cut_between_two_layers(tmp_path: Path, moments: int) -> None:
    """Such a file is a well-formed net: only the history shows that layers are missing."""
    wanted = (*snapshot(tmp_path, 10, moments=moments), 10)
    _, weights = snapshot(tmp_path, 20, moments=moments)
    net = pb.NetParameter.FromString(weights.read_bytes())
    del net.layer[2]
    weights.write_bytes(net.SerializeToString())
    assert newest_whole_pair(tmp_path / "snap") == wanted


def test_shared_blobs_have_no_history(tmp_path: Path) -> None:
    state, weights = snapshot(tmp_path, 5)
    short = read_solverstate(state)
    short.history = short.history[:1] + short.history[2:]
    write_solverstate(state, short)
    assert newest_whole_pair(tmp_path / "snap") == (state, weights, 5)


def test_pairs_of_hdf5_states(tmp_path: Path) -> None:
    wanted = (*snapshot(tmp_path, 7, end=".h5"), 7)
    assert newest_whole_pair(tmp_path / "snap") == wanted


@pytest.mark.parametrize("state", STATES + HDF5_STATES, ids=ids)
def test_pairs_of_real_caffe(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each golden state and its weights are a pair, found beside each other wherever they lie."""
    name = read_solverstate(state).learned_net
    assert name is not None
    weights = state.parent / Path(name).name
    if not weights.exists():
        pytest.skip("the weights are not recorded")
    for path in (state, weights):
        shutil.copy(path, tmp_path)
    prefix, _, _ = state.name.rpartition("_iter_")
    monkeypatch.chdir("/")
    found = newest_whole_pair(tmp_path / prefix)
    assert found is not None
    assert found[:2] == (tmp_path / state.name, tmp_path / weights.name)


def test_find_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "w").write_bytes(b"x")
    state = SolverState(1, "b/w")
    monkeypatch.chdir(tmp_path)
    assert find_weights("a/s", state) == Path("b/w")
    monkeypatch.chdir("/")
    assert find_weights(tmp_path / "a" / "s", state) is None
    assert find_weights(tmp_path / "b" / "s", state) == tmp_path / "b" / "w"
    assert find_weights(tmp_path / "b" / "s", SolverState(1)) is None


KILLED = """
import sys
import numpy as np
from pathlib import Path
from tests.proto.test_solverstate import snapshot
blobs = [[np.zeros((300, 1000), np.float32)], [np.ones(3, np.float32)]]
for i in range(int(sys.argv[2]), 1 << 20):
    snapshot(Path(sys.argv[1]), i, blobs=blobs)
    print(i, flush=True)
    for old in Path(sys.argv[1]).glob(f"snap_iter_{i - 3}.*"):
        old.unlink()
"""


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """kill -9 while snapshots are written: the newest whole pair is never older than the last."""
    last = 0
    for round_ in range(6):
        process = subprocess.Popen(
            **warm.command("-c", KILLED, str(tmp_path), str(last + 1)),
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.0037 * round_)  # somewhere in the next snapshot
        process.kill()
        process.communicate()
        states = snapshot_names(tmp_path / "snap")
        found = newest_whole_pair(tmp_path / "snap")
        assert found is not None
        assert found[2] == states[0][0] > last  # a state is there only with whole weights
        last = found[2]
    assert len([p for p in tmp_path.iterdir() if p.suffix == ".tmp"]) <= 1  # of the last instant


@pytest.mark.slow
def test_states_over_four_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if NIGHT and shutil.disk_usage(tmp_path).free < 8 << 30:
        pytest.skip("needs 5 GB of disk")
    path = tmp_path / "x.solverstate"
    rows = huge(tmp_path, monkeypatch)
    write_solverstate(path, SolverState(3, "x", 1, [rows, np.ones(2)]), sync=False)
    assert path.stat().st_size > 1 << 32
    state = read_solverstate(path)
    assert state.current_step == 1
    assert state.history[0][1079, -1] == 1079
    assert state.history[1].tolist() == [1, 1]
