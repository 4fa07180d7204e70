"""Which nets a solver names, in which states, and what Caffe's log calls them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from caffeio import Trainer
from caffeio.errors import CaffeIOError, SolverError
from caffeio.log.glog import Log

LAYERS = """
layer { name: "data" type: "DummyData" top: "data" top: "label" include { phase: TRAIN }
  dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 }
    data_filler { type: "gaussian" } data_filler { value: 1 } } }
layer { name: "data" type: "DummyData" top: "data" top: "label" include { phase: TEST }
  dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 }
    data_filler { type: "gaussian" } data_filler { value: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
  include { phase: TEST not_stage: "quick" } }
layer { name: "extra" type: "Softmax" bottom: "ip" top: "extra" include { stage: "more" } }
"""
RULES = 'base_lr: 0.1 lr_policy: "fixed" snapshot_after_train: false solver_mode: CPU '


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("n.prototxt").write_text('name: "file"' + LAYERS)
    Path("t.prototxt").write_text('name: "test file"' + LAYERS)
    return tmp_path


def built(solver: str, **options: Any) -> tuple[Trainer, list[str]]:
    """The trainer of a solver's text, and its log without prefixes."""
    Path("s.prototxt").write_text(RULES + solver)
    lines: list[str] = []
    with Trainer("s.prototxt", log=Log(lines.append), **options) as trainer:
        return trainer, [line.partition("] ")[2] for line in lines]


def creations(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith(("Creating training", "Creating test"))]


INLINE = 'name: "inline"' + LAYERS


@pytest.mark.parametrize(
    ("solver", "wanted"),
    [
        ('net: "n.prototxt"', ["Creating training net from net file: n.prototxt"]),
        ('train_net: "n.prototxt"', ["Creating training net from train_net file: n.prototxt"]),
        (f"net_param {{ {INLINE} }}", ["Creating training net specified in net_param."]),
        (
            f"train_net_param {{ {INLINE} }}",
            ["Creating training net specified in train_net_param."],
        ),
        (
            'train_net: "n.prototxt" test_net: "t.prototxt" test_iter: 1 test_interval: 2',
            [
                "Creating training net from train_net file: n.prototxt",
                "Creating test net (#0) specified by test_net file: t.prototxt",
            ],
        ),
        (
            f"""net: "n.prototxt" test_net: "t.prototxt" test_net_param {{ {INLINE} }}
            test_iter: [1, 1, 1, 1] test_interval: 2""",
            [
                "Creating training net from net file: n.prototxt",
                "Creating test net (#0) specified by test_net_param",
                "Creating test net (#1) specified by test_net file: t.prototxt",
                "Creating test net (#2) specified by net file: n.prototxt",
                "Creating test net (#3) specified by net file: n.prototxt",
            ],
        ),
        (
            f"net_param {{ {INLINE} }} test_iter: 1 test_interval: 2",
            [
                "Creating training net specified in net_param.",
                "Creating test net (#0) specified by net_param",
            ],
        ),
    ],
)
def test_names_of_nets_in_the_log(solver: str, wanted: list[str]) -> None:
    trainer, lines = built(solver)
    assert creations(lines) == wanted
    assert len(trainer.test_nets) == len(wanted) - 1
    names = [net.name for net in (trainer.net, *trainer.test_nets)]
    of_source = {"n.": "file", "t.": "test file"}
    assert names == [
        next((n for key, n in of_source.items() if f": {key}" in line), "inline") for line in wanted
    ]


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        ("", "one training net"),
        ('net: "n.prototxt" train_net: "n.prototxt"', "net, train_net"),
        ('net: "n.prototxt" test_iter: 1', "test_interval"),
        ('train_net: "n.prototxt" test_iter: 1 test_interval: 1', "1 times for 0"),
        (
            """net: "n.prototxt" test_net: "t.prototxt" test_net: "t.prototxt" test_iter: 1
            test_interval: 1""",
            "1 times for 2",
        ),
        (
            'net: "n.prototxt" test_iter: [1, 1] test_interval: 1 test_state { level: 1 }',
            "each of the 2 test nets",
        ),
        ('net: "n.prototxt" average_loss: 0', "average_loss must be 1 or more"),
        ('net: "n.prototxt" iter_size: 0', "iter_size must be 1 or more"),
        ('net: "n.prototxt" type: "SGD" solver_type: SGD', "solver_type"),
    ],
)
def test_contradictions(solver: str, message: str) -> None:
    with pytest.raises(SolverError, match=message):
        built(solver)


def test_missing_net_file_lists_the_places(tmp_path: Path) -> None:
    with pytest.raises(CaffeIOError, match=r"s\.prototxt:1:\d+: net file 'no\.prototxt'.*tried no"):
        built('net: "no.prototxt"')


def test_states_are_merged_and_stages_added() -> None:
    trainer, lines = built(
        'net: "n.prototxt" test_iter: [1, 1, 1] test_interval: 2 '
        'train_state { stage: "more" level: 7 } '
        'test_state { } test_state { stage: "quick" } test_state { stage: "more" level: 3 }'
    )
    assert "extra" in trainer.net.layer_names
    assert (trainer.net.graph.level, trainer.net.graph.stages) == (0, ("more", ""))
    outputs = [net.outputs for net in trainer.test_nets]
    assert outputs == [["accuracy", "loss"], ["loss"], ["accuracy", "extra", "loss"]]
    assert [net.graph.level for net in trainer.test_nets] == [0, 0, 3]
    assert "Solver scaffolding done." in lines


def test_stage_and_level_of_the_command_are_the_training_nets() -> None:
    trainer, _ = built(
        'net: "n.prototxt" test_iter: 1 test_interval: 2', stages=["more", "x"], level=2
    )
    assert trainer.net.graph.stages == ("more", "x")
    assert trainer.net.graph.level == 2
    assert trainer.test_nets[0].graph.stages == ()


def test_the_nets_own_state_can_flip_the_phase() -> None:
    Path("n.prototxt").write_text("state { phase: TEST }" + LAYERS)
    trainer, _ = built('net: "n.prototxt"')
    assert trainer.net.phase == "TEST"
    assert "accuracy" in trainer.net.layer_names


NORM = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 } data_filler { type: "gaussian" } } }
layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn"
  param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "bn" bottom: "label" top: "loss" }
"""


def test_inline_nets_are_not_upgraded() -> None:
    """Caffe upgrades files: the decay_mult 0 of old BatchNorm specs is missing in inline nets."""
    Path("n.prototxt").write_text(NORM)
    of_file, lines = built('net: "n.prototxt"')
    assert any("batch norm layers" in line for line in lines)
    inline, lines = built(f"net_param {{ {NORM} }}")
    assert not any("batch norm layers" in line for line in lines)
    assert [item.decay_mult for item in of_file.net.learnable] == [0, 0, 0]
    assert [item.decay_mult for item in inline.net.learnable] == [1, 1, 1]


def test_weights_field_is_read_in_order_and_replaced_by_the_command() -> None:
    for i in range(3):
        with Trainer(_solver_file(f'net: "n.prototxt" random_seed: {i}')) as trainer:
            trainer.net.save(f"w{i}.caffemodel")
    given = 'weights: " w0.caffemodel , w1.caffemodel" weights: "w2.caffemodel"'
    trainer, lines = built(f'net: "n.prototxt" test_iter: 1 test_interval: 2 {given}')
    tuned = [line for line in lines if line.startswith("Finetuning")]
    assert tuned == [f"Finetuning from w{i}.caffemodel" for i in (0, 1, 2)] * 2
    last, _ = built('net: "n.prototxt"', weights=["w2.caffemodel"])
    assert trainer.net.params["ip"][0].equal(last.net.params["ip"][0])
    trainer, lines = built(f'net: "n.prototxt" {given}', weights=["w1.caffemodel"])
    assert 'weights: "w1.caffemodel"' in "\n".join(lines)
    assert [line for line in lines if "w2" in line] == []
    trainer, lines = built(f'net: "n.prototxt" {given}', profile="intel")
    assert [line for line in lines if line.startswith("Finetuning")] == tuned[:3]


def _solver_file(solver: str) -> str:
    Path("s.prototxt").write_text(RULES + solver)
    return "s.prototxt"


def test_solver_type_enum_is_upgraded() -> None:
    trainer, lines = built('net: "n.prototxt" solver_type: ADAM')
    assert trainer.param.type == "Adam"
    assert trainer.optimizer.type == "Adam"
    assert lines[0].startswith("Attempting to upgrade input file specified using deprecated")
    assert lines.index("Use CPU.") == 4  # and the line about the prefix


def run_lines(solver: str, **options: Any) -> list[str]:
    """What the loop logs: everything behind the policy's line."""
    Path("s.prototxt").write_text(RULES + solver)
    lines: list[str] = []
    with Trainer("s.prototxt", log=Log(lines.append), **options) as trainer:
        trainer.solve()
    texts = [line.partition("] ")[2] for line in lines]
    return texts[next(i for i, t in enumerate(texts) if "Learning Rate" in t) + 1 :]


def heads(lines: list[str]) -> list[str]:
    """The first words of each line: what it is about."""
    return [re.split(r" = | \(|, loss|: \d", line)[0].strip() for line in lines]


def test_order_of_lines_with_two_test_nets() -> None:
    lines = run_lines(
        'net: "n.prototxt" test_iter: [1, 2] test_interval: 2 max_iter: 2 display: 1 '
        "test_compute_loss: true test_initialization: false"
    )
    training = ["Iteration 0", "Train net output #0: loss", "Iteration 0, lr"]
    test = ["Test loss", "Test net output #0: accuracy", "Test net output #1: loss"]
    assert heads(lines) == [
        *training,
        *[line.replace("Iteration 0", "Iteration 1") for line in training],
        "Iteration 2",
        "Iteration 2, Testing net", *test, "Iteration 2, Testing net", *test,
        "Optimization Done.",
    ]  # fmt: skip


def test_display_0_shows_nothing_and_test_offset_moves_the_tests() -> None:
    lines = run_lines('net: "n.prototxt" test_iter: 1 test_interval: 2 display: 0 max_iter: 5')
    shown = [line for line in lines if line.startswith("Iteration")]
    assert shown == [f"Iteration {i}, Testing net (#0)" for i in (0, 2, 4)]
    lines = run_lines(
        'net: "n.prototxt" test_iter: 1 test_interval: 2 test_offset: 1 display: 0 max_iter: 5'
    )
    shown = [line for line in lines if line.startswith("Iteration")]
    assert shown == [f"Iteration {i}, Testing net (#0)" for i in (1, 3, 5)]


def test_debug_info_is_shown_for_test_nets_always_and_for_displayed_iterations() -> None:
    lines = run_lines(
        'net: "n.prototxt" test_iter: 2 test_interval: 2 display: 3 max_iter: 4 debug_info: true '
        "test_initialization: false"
    )
    forward = [i for i, line in enumerate(lines) if "[Forward] Layer ip, top blob" in line]
    backward = [i for i, line in enumerate(lines) if "[Backward] All net params" in line]
    tests = [i for i, line in enumerate(lines) if "Testing net" in line]
    assert len(backward) == 2  # iterations 0 and 3
    assert len(tests) == 2
    assert len(forward) == 2 + 2 * len(tests)


def test_nvidia_shows_the_first_iterations_and_the_last() -> None:
    lines = run_lines(
        'net: "n.prototxt" display: 4 max_iter: 11 test_iter: 3 test_interval: 5 momentum: 0.5',
        profile="nvidia",
    )
    shown = [line for line in lines if "[0.0] Iteration" in line and "loss = " in line]
    assert [line.split()[2] for line in shown] == ["0", "1", "2", "4", "8", "11"]
    assert "Initial Test started..." in lines
    tested = [line for line in lines if "Testing net" in line]
    assert tested == [f"Iteration {i}, Testing net (#0)" for i in (0, 5, 11)]
    rate = next(line for line in lines if "lr = " in line)
    assert rate == "[0.0] Iteration 0, lr = 0.1, m = 0.5, lrm = 0.2, wd = 0, gs = 1"
