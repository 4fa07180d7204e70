"""Solvers for another number of workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from caffeio.cli.main import main
from caffeio.errors import SolverError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import read_solver
from caffeio.solver import learning_rates
from caffeio.solver.scaling import RULES, scale_solver
from tests.paths import SHARED, needs_shared

INIT = """net: "net.prototxt"
base_lr: 1.6  # for 4096 images
lr_policy: "poly_cyc"
power: 1
max_iter: 7800 # 25 epochs
lr_iter: 18720
warmup_iter: 1560
warmup_start_lr: 0.1
test_iter: 40
test_interval: 780
momentum: 0.9
"""


def scaled(solver: pb.SolverParameter, factor: float, **options: object) -> dict[str, float]:
    return {c.key: c.new for c in scale_solver(solver, factor, **options)}  # type: ignore[arg-type]


def solver_of(tmp_path: Path, text: str) -> pb.SolverParameter:
    path = tmp_path / "solver.prototxt"
    path.write_text(text)
    return read_solver(path).message


def test_an_eighth_of_the_workers(tmp_path: Path) -> None:
    solver = solver_of(tmp_path, INIT)
    expected = {
        "base_lr": 0.2, "max_iter": 62400, "lr_iter": 149760, "warmup_iter": 12480,
        "test_iter[0]": 320, "test_interval": 6240,
    }  # fmt: skip
    assert scaled(solver, 1 / 8, starts=True) == expected
    assert scaled(solver, 1 / 8) == expected | {"warmup_start_lr": 0.0125}
    alone = scaled(solver, 1 / 8, starts=True, tests_shared=False)
    assert alone == {key: value for key, value in expected.items() if key != "test_iter[0]"}
    assert scaled(solver, 4, rule="sqrt", starts=True)["base_lr"] == 3.2
    assert "base_lr" not in scaled(solver, 4, rule="none")


@pytest.mark.parametrize(
    "policy",
    ['"step" gamma: 0.1 stepsize: 400', '"multistep" gamma: 0.1 stepvalue: 100 stepvalue: 600',
     '"poly" power: 2', '"exp" gamma: 0.999', '"inv" gamma: 0.01 power: 0.75',
     '"sigmoid" gamma: -0.01 stepsize: 400',
     '"multifixed" stagelr: 0.1 stagelr: 0.3 stageiter: 200 stageiter: 800'],
)  # fmt: skip
def test_the_rate_follows_the_same_curve_over_the_images(policy: str, tmp_path: Path) -> None:
    """At the same number of images the rate is `factor` times the old one, for every policy."""
    text = f'net: "n" base_lr: 0.1 max_iter: 800 lr_policy: {policy}\n'
    old = solver_of(tmp_path, text)
    new = pb.SolverParameter()
    new.CopyFrom(old)
    for change in scale_solver(old, 4):
        if change.index is None:
            setattr(new, change.field, change.new)
        else:
            getattr(new, change.field)[change.index] = change.new
    assert new.max_iter == 200
    few = np.array(learning_rates(new, 200))
    many = np.array(learning_rates(old, 800))[::4]
    np.testing.assert_allclose(few, 4 * many, rtol=2e-4)


@given(
    st.integers(1, 10**6), st.floats(1e-5, 10), st.sampled_from([2, 4, 8, 64]),
    st.sampled_from(sorted(RULES)),
)  # fmt: skip
def test_there_and_back(iterations: int, rate: float, factor: int, rule: str) -> None:
    solver = pb.SolverParameter(base_lr=rate, max_iter=iterations * factor)
    away = scaled(solver, factor, rule=rule)
    assert away["max_iter"] == iterations
    solver.base_lr = away.get("base_lr", solver.base_lr)
    solver.max_iter = int(away["max_iter"])
    back = scaled(solver, 1 / factor, rule=rule)
    assert back["max_iter"] == iterations * factor
    assert back.get("base_lr", solver.base_lr) == pytest.approx(rate, rel=1e-6)


def test_what_does_not_fit_is_said() -> None:
    solver = pb.SolverParameter(base_lr=0.1, max_iter=10)
    [change] = [c for c in scale_solver(solver, 4) if c.field == "max_iter"]
    assert (change.new, change.note) == (2, "20 % off: 2.50 is no whole number")
    with pytest.raises(SolverError, match="above 0"):
        scale_solver(solver, 0)
    with pytest.raises(SolverError, match="no such rule: cubic"):
        scale_solver(solver, 2, rule="cubic")
    assert scale_solver(solver, 1) == []


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "init.prototxt"
    path.write_text(INIT)
    run = CliRunner().invoke
    done = run(main, ["scale", str(path), "--from", "128", "--workers", "16"])
    assert done.exit_code == 0 and path.read_text() == INIT
    assert "+base_lr: 0.2  # for 4096 images" in done.output
    done = run(
        main, ["scale", str(path), "--from", "128", "--workers", "16", "-o", str(tmp_path / "s")]
    )
    new = (tmp_path / "s" / "init.prototxt").read_text()
    assert "max_iter: 62400 # 25 epochs" in new and "warmup_start_lr: 0.1\n" in new
    plain = tmp_path / "plain.prototxt"
    plain.write_text('net: "n" base_lr: 0.1 lr_policy: "fixed" max_iter: 800\n')
    done = run(main, ["scale", str(plain), "--workers", "8", "-i"])
    assert "no warm-up" in done.output and "base_lr: 0.8" in plain.read_text()
    assert run(main, ["scale", str(path), str(path), "--workers", "2", "-o", "x"]).exit_code == 2
    assert run(main, ["scale", "missing.prototxt", "--workers", "2"]).exit_code == 2


@pytest.mark.parametrize(
    ("workers", "more", "warned"),
    [("1024", "", True), ("512", "", False), ("1024", "local_lr_auto: true", False),
     ("1024", 'type: "Adam"', False)],
)  # fmt: skip
def test_rates_that_nobody_trained_with(
    tmp_path: Path, workers: str, more: str, warned: bool
) -> None:
    path = tmp_path / "init.prototxt"
    path.write_text(INIT + more)
    done = CliRunner().invoke(main, ["scale", str(path), "--from", "128", "--workers", workers])
    assert done.exit_code == 0
    assert ("base_lr 12.8: rates that grow" in done.output) == warned


@needs_shared
def test_the_seeds_chain_sees_as_many_images() -> None:
    names = ("init", "cyc1", "cyc2", "cyc3", "collapse")
    for i, name in enumerate(names):
        solver = read_solver(SHARED / "seed" / f"solver_{name}.prototxt").message
        changes = {c.field: c for c in scale_solver(solver, 2 / 128, starts=i == 0)}
        assert changes["max_iter"].new == solver.max_iter * 64
        assert ("warmup_start_lr" in changes) == (name in ("cyc2", "cyc3"))


def test_a_batch_that_workers_share_is_not_scaled(tmp_path: Path) -> None:
    """NVIDIA's: told by --caffe, by the solver's fields, or by its net alone."""
    path, net = tmp_path / "solver.prototxt", tmp_path / "net.prototxt"
    plain = 'net: "net.prototxt"\nbase_lr: 0.1\nlr_policy: "fixed"\nmax_iter: 100\n'
    cases = [
        (plain, "", ("--caffe", "nvidia")),
        (plain + "rampup_interval: 5\n", "", ()),
        (plain, "default_forward_type: FLOAT16\n", ()),
    ]
    for text, head, more in cases:
        path.write_text(text)
        net.write_text(head + 'layer { name: "d" type: "Data" top: "d" }\n')
        done = CliRunner().invoke(main, ["scale", str(path), "--workers", "8", "-i", *more])
        assert done.exit_code == 0, done.output
        assert "batch_size is that of all workers together" in done.stderr
        assert path.read_text() == text
    net.unlink()
    path.write_text(plain)
    done = CliRunner().invoke(main, ["scale", str(path), "--workers", "8"])
    assert "base_lr: 0.8" in done.stdout
