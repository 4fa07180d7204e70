"""Nothing grows: long trainings, many nets, many records (at night)."""

from __future__ import annotations

import gc
import os
from pathlib import Path

from caffeio.data.db.lmdb import write_lmdb
from caffeio.data.records.datum import encode_datum
from caffeio.net import load_net
from caffeio.training.trainer import Trainer
from tests.paths import NIGHT, nightly
from tests.reliability.forked import check, run


def used() -> tuple[int, int]:
    """The pages of memory that are resident, in bytes, and the open descriptors."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))


def test_a_long_training(training_case: Path) -> None:
    """20,000 iterations (1,000 by day) with tests and snapshots: memory and descriptors stay."""
    count = 20_000 if NIGHT else 1_000
    options = [f"max_iter={count}", f"snapshot={count // 10}", "display=0",
               f"test_interval={count // 20}", "test_iter=[1]"]  # fmt: skip
    with Trainer("solver.prototxt", overrides=options) as trainer:
        trainer.step(count // 4)
        before = used()
        trainer.step(count // 2)
        after = used()
    assert after[1] <= before[1]
    assert after[0] - before[0] < (12 if NIGHT else 6) << 20, f"{before[0]} -> {after[0]} bytes"


def test_trainers_and_nets_leave_nothing(training_case: Path) -> None:
    """Trainers, and nets, that are made and closed again and again."""

    def one() -> None:
        with Trainer("solver.prototxt", overrides=["max_iter=2", "snapshot=0"]) as trainer:
            trainer.step(1)
        load_net("net.prototxt", phase="TEST").close()

    for _ in range(5):
        one()
    before = used()
    for _ in range(200 if NIGHT else 12):
        one()
    after = used()
    assert after[1] <= before[1]
    assert after[0] - before[0] < (16 if NIGHT else 9) << 20, f"{before[0]} -> {after[0]} bytes"


def test_a_hundred_test_nets(training_case: Path) -> None:
    """A solver with 100 test nets, all of which read one database."""
    count = 100 if NIGHT else 30
    text = Path("solver.prototxt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith(("test_iter", "net:"))]
    lines += ['train_net: "net.prototxt"']
    lines += ['test_net: "net.prototxt" test_iter: 1'] * count
    Path("many.prototxt").write_text("\n".join(lines))
    options = ["max_iter=2", "test_interval=1", "snapshot=0", "test_initialization=true"]
    before = used()[1]
    with Trainer("many.prototxt", overrides=options) as trainer:
        assert len(trainer.test_nets) == count
        trainer.solve()
        during = used()[1]
    assert used()[1] <= before + 1
    assert during - before < 2 * count + 20


@nightly
def test_a_million_records(tmp_path: Path) -> None:
    """An LMDB of 1,000,000 records is written, checked, counted and read from, in little memory."""
    datum = encode_datum(data=b"\1\2\3\4", shape=(1, 2, 2), label=1)
    write_lmdb(tmp_path / "db", ((b"%08d" % i, datum) for i in range(1_000_000)))
    net = f"""layer {{ name: "d" type: "Data" top: "data" top: "label" data_param {{
        source: "{tmp_path / "db"}" batch_size: 1000 backend: LMDB }} }}"""
    size = (tmp_path / "db" / "data.mdb").stat().st_size
    assert check(run("db", "verify", "db", cwd=tmp_path, memory=2 << 30, seconds=600)).code == 0
    with load_net(net) as made:
        made()
        before = used()
        for _ in range(1_000):  # a whole pass
            made()
        after = used()
    assert after[1] <= before[1]
    assert after[0] - before[0] < size + (16 << 20), f"{before[0]} -> {after[0]} bytes"
