"""Solvers against each other: the five phases of the recipe, and small cases of every kind."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from caffeio.converters.diff import solver_report
from caffeio.converters.diff.compare import Settings, compare, solver_diff_of
from caffeio.converters.diff.training import snapshot_iterations, spans
from caffeio.converters.diff.training import test_iterations as iterations_of_tests
from caffeio.converters.source import Source
from caffeio.profiles import BVLC, NVIDIA
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.text.text_format import parse
from tests.paths import SHARED, needs_shared

RECIPE = Path(__file__).parent / "recipe"
PHASES = ("init", "cyc1", "cyc2", "cyc3", "collapse")
PAIRS = list(itertools.combinations_with_replacement(PHASES, 2))


def phase(name: str) -> Source:
    return Source(f"{name}.prototxt", RECIPE / f"{name}.prototxt", "solver")


def solver_diff(left: str, right: str, tmp_path: Path, **settings):
    sources = []
    for name, text in (("a", left), ("b", right)):
        path = tmp_path / f"{name}.prototxt"
        path.write_text(text)
        sources.append(Source(path.name, path, "solver"))
    return solver_diff_of(*sources, Settings(**settings))


def changed(diff) -> dict[str, tuple[str, str]]:
    return {c.rule.name: (c.left, c.right) for c in diff.fields}


def test_the_second_cycle_against_the_first():
    diff = solver_diff_of(phase("cyc1"), phase("cyc2"), Settings(workers=128, dataset_size=1281167))
    assert not diff.same and not diff.trains_alike
    assert changed(diff) == {
        "base_lr": ("1.02", "0.764"),
        "warmup_iter": ("0", "1000"),
        "warmup_start_lr": ("0", "0.255"),
        "max_iter": ("3750", "4750"),
        "snapshot": ("3750", "4750"),
        "snapshot_prefix": ("snap/cyc1", "snap/cyc2"),
    }
    assert (diff.rates.first, diff.rates.common, diff.rates.differing) == (0, 3750, 3750)
    assert diff.rates.largest_at == 0
    assert diff.rates.largest_ratio == pytest.approx(4)
    assert diff.same_net_file and diff.nets is None
    first, second = diff.seen
    assert (first.per_update, first.images) == (4096, 4096 * 3750)
    assert second.epochs == pytest.approx(4096 * 4750 / 1281167)
    text = "; ".join(solver_report.headline(diff))
    assert "from iteration 0 on, up to 4 x" in text
    assert "1,000 more updates (+26.7 %)" in text


def test_the_collapse_against_the_third_cycle():
    diff = solver_diff_of(phase("cyc3"), phase("collapse"), Settings())
    fields = changed(diff)
    assert fields["lr_policy"] == ("poly_cyc", "poly")
    assert fields["weight_decay"] == ("5e-05", "0.0002")
    assert fields["net"] == ("net.prototxt", "net_noaug.prototxt")
    assert diff.right.profile.name == "intel"  # the left solver tells whose Caffe both are for
    words = {c.rule.name: c.effect for c in diff.fields}
    assert words["weight_decay"] == "the pull of weights to 0 4 x as large"
    assert "lr_policy" in words["lr_iter"]
    assert diff.nets is not None
    assert [diff.left.net.message.layer[i].name for i in diff.nets.alignment.removed] == ["data"]
    (data,) = diff.nets.changed
    (change,) = data.changes
    assert change.what == "transform_param.random_aspect_ratio_param"
    assert change.right == "-"
    report = solver_report.report(diff)
    sees = next(s for s in report.sections if s.title == "What the net sees in TRAIN")
    rows = {row[0].text: (row[1].text, row[2].text) for row in sees.blocks[0].rows}
    assert "8 to 100 % of the area, height:width 0.562 to 1.78" in rows["window"][0]
    assert rows["crop"][1] == "random 24 x 24 of the image as stored"
    assert rows["scale"] == ("1/128", "same")


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_all_phases_against_each_other(a, b):
    there = solver_diff_of(phase(a), phase(b), Settings())
    back = solver_diff_of(phase(b), phase(a), Settings())
    assert there.same == (a == b) == there.rates.same
    assert there.rates.first == back.rates.first
    assert there.rates.largest_ratio == back.rates.largest_ratio
    assert [c.rule.name for c in there.fields] == [c.rule.name for c in back.fields]
    assert [(c.left, c.right) for c in there.fields] == [(c.right, c.left) for c in back.fields]
    report = compare(phase(a), phase(b), Settings())
    assert report.data["same"] == (a == b)
    assert report.headline


def test_first_difference_is_found_where_it_is(tmp_path):
    base = 'base_lr: 0.1 lr_policy: "multistep" gamma: 0.1 max_iter: 1000 stepvalue: 400\n'
    diff = solver_diff(base + "stepvalue: 700", base + "stepvalue: 800", tmp_path)
    assert (diff.rates.first, diff.rates.last, diff.rates.differing) == (700, 799, 100)
    assert diff.rates.largest_ratio == pytest.approx(10)
    assert {699, 700, 799, 800} <= set(diff.rates.marks)


@pytest.mark.parametrize(
    ("left", "right", "note"),
    [
        ("solver_type: ADAM", 'type: "Adam"', ""),
        ('base_lr: 0.01 lr_policy: "fixed" momentum2: 0.999', 'base_lr: 0.01 lr_policy: "fixed"',
         "momentum2 (0.999 is the default)"),
        ("weight_decay: 0.00005", "weight_decay: 5e-5", ""),
        ('snapshot_prefix: "./a//b"', 'snapshot_prefix: "a/b"', "snapshot_prefix (./a//b and a/b)"),
        ("iter_size: 1", "", "iter_size (1 is the default)"),
    ],
)  # fmt: skip
def test_other_spellings_mean_the_same(left, right, note, tmp_path):
    if "snapshot_prefix" not in left:
        left, right = (f'snapshot_prefix: "s" {text}' for text in (left, right))
    diff = solver_diff(left, right, tmp_path)
    assert diff.same
    assert diff.respelled == ([note] if note else [])


def test_unused_fields_have_no_effect(tmp_path):
    base = 'base_lr: 0.1 lr_policy: "fixed" max_iter: 10 snapshot_prefix: "s" '
    diff = solver_diff(base + "gamma: 0.5 power: 3", base + "gamma: 0.1", tmp_path)
    assert not diff.same and diff.trains_alike and diff.rates.same
    assert {c.effect for c in diff.fields} == {"no effect: not used by this lr_policy"}


def test_harmless_fields_train_alike(tmp_path):
    base = 'base_lr: 0.1 lr_policy: "fixed" max_iter: 10 snapshot_prefix: "s" '
    diff = solver_diff(base + "display: 5 snapshot: 2", base, tmp_path)
    assert not diff.same and diff.trains_alike
    worse = solver_diff(base + "clip_gradients: 2", base, tmp_path)
    assert not worse.trains_alike
    assert worse.fields[0].effect == "gradients are no longer clipped"


def test_rates_that_follow_the_loss_or_do_not_exist(tmp_path):
    base = 'base_lr: 0.1 max_iter: 10 snapshot_prefix: "s" '
    plateau = base + 'lr_policy: "plateau" gamma: 0.5 plateau_winsize: 3'
    diff = solver_diff(plateau, plateau, tmp_path)
    assert diff.same and "training loss" in diff.rates.left.note
    broken = solver_diff(base + 'lr_policy: "pollly"', base + 'lr_policy: "fixed"', tmp_path)
    assert not broken.rates.comparable
    assert "pollly" in broken.rates.left.problem
    report = solver_report.report(broken)
    texts = [b.text for s in report.sections for b in s.blocks if hasattr(b, "text")]
    assert any("Unknown learning rate policy" in text for text in texts)


def test_nan_and_negative_rates_do_not_break(tmp_path):
    base = 'base_lr: 0.1 lr_policy: "poly_cyc" max_iter: 20 lr_iter: 10 snapshot_prefix: "s" '
    diff = solver_diff(base + "power: 1.5", base + "power: 1", tmp_path)
    assert diff.rates.first == 1
    assert diff.rates.differing == 18  # both start at base_lr, both are 0 at lr_iter
    assert solver_report.report(diff).data["learning_rate"]["differing_iterations"] == 18


def test_unknown_nets_are_named(tmp_path):
    diff = solver_diff('net: "one.prototxt"', 'net: "two.prototxt"', tmp_path)
    assert "one.prototxt was not found" in diff.left.net_problem
    assert changed(diff)["net"] == ("one.prototxt", "two.prototxt")


def test_inline_nets_are_followed(tmp_path):
    net = (
        'net_param { layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 2 } } } '
        'layer { name: "p" type: "Power" bottom: "x" top: "y" power_param { scale: %s } } } '
    )
    diff = solver_diff(net % "2", net % "3", tmp_path)
    assert diff.nets is not None
    assert [c.changes[0].right for c in diff.nets.changed] == ["3"]


def test_iterations_of_tests_and_snapshots():
    solver = parse(
        "max_iter: 10 test_iter: 1 test_interval: 4 snapshot: 4", pb.SolverParameter
    ).message
    assert snapshot_iterations(solver) == [4, 8, 10]
    assert iterations_of_tests(solver, BVLC) == [0, 4, 8]
    solver.test_initialization = False
    solver.snapshot_after_train = False
    assert snapshot_iterations(solver) == [4, 8]
    assert iterations_of_tests(solver, NVIDIA) == [4, 8]
    assert spans([]) == "never"
    assert spans(range(500, 10001, 500)) == "every 500 from 500 to 10,000 (20 x)"
    assert spans([4, 8, 12, 16, 17]) == "every 4 from 4 to 16 (4 x), and 17"


@needs_shared
@pytest.mark.parametrize("name", PHASES)
def test_the_real_files_hold_the_same_numbers(name):
    real = SHARED / "seed" / f"solver_{name}.prototxt"
    source = Source(real.name, real, "solver")
    diff = solver_diff_of(phase(name), source, Settings())
    assert set(changed(diff)) <= {"net", "snapshot_prefix"}
    assert diff.rates.same
    assert diff.right.net is not None and len(diff.right.net.message.layer) > 200
