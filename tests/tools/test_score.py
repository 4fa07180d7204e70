"""Scoring of models: `caffe test` of one, and the ensemble of several."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from caffeio import load_net
from caffeio.cli.main import main
from caffeio.errors import NetError
from caffeio.tools.score import _ends, _ensemble, score
from tests.paths import GOLDEN

CHAIN = GOLDEN / "fork" / "chain" / "given"
WEIGHTS = [CHAIN / "snap" / f"{name}.caffemodel" for name in ("cyc1_iter_38", "cyc2_iter_48")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(CHAIN / "net.prototxt", tmp_path / "net.prototxt")
    shutil.copytree(CHAIN / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)


def by_hand(batches: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The members' class probabilities and the labels of the first batches."""
    nets = [load_net("net.prototxt", weights=path) for path in WEIGHTS]
    probabilities: list[list[np.ndarray]] = [[] for _ in nets]
    labels = []
    for _ in range(batches):
        data = nets[0].read_inputs()
        labels.append(data["label"].numpy().astype(int).reshape(-1))
        for net, rows in zip(nets, probabilities, strict=True):
            with torch.no_grad():
                net(data)
            rows.append(torch.softmax(net.blobs["fc"], 1).double().numpy())
    for source in [source for net in nets for source in net.sources.values()]:
        source.close()
    return [np.concatenate(rows) for rows in probabilities], np.concatenate(labels)


def test_ensemble_is_the_mean_of_the_probabilities() -> None:
    singles = score("net.prototxt", WEIGHTS, iterations=4)
    assert [s.title for s in singles] == [*map(str, WEIGHTS), "ensemble of the 2 models"]
    members, labels = by_hand(4)
    for found, probability in zip(singles, [*members, sum(members) / 2], strict=True):
        right = probability[np.arange(len(labels)), labels]
        assert found.outputs["loss"] == pytest.approx(-np.log(right).mean(), rel=1e-5)
        assert found.loss == pytest.approx(float(found.outputs["loss"]), rel=1e-6)
        rank = (probability >= right[:, None]).sum(1)
        assert found.outputs["top1"] == pytest.approx((rank <= 1).mean(), abs=1e-6)
        assert found.outputs["top5"] == pytest.approx((rank <= 5).mean(), abs=1e-6)
        assert len(found.batches) == 4


def test_an_ensemble_takes_given_probabilities_as_they_are() -> None:
    """A net that ends in Softmax and Accuracy: the mean of its probabilities, not of their exp."""
    text = Path("net.prototxt").read_text()
    start = text.index("layer", text.index('name: "fc"'))
    Path("net.prototxt").write_text(
        text[:start]
        + 'layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }\n'
        + 'layer { name: "top1" type: "Accuracy" bottom: "prob" bottom: "label" top: "top1" }\n'
    )
    rows = score("net.prototxt", WEIGHTS, iterations=2)
    members, labels = by_hand(2)
    mean = sum(members) / 2
    right = mean[np.arange(len(labels)), labels]
    ranks = (mean >= right[:, None]).sum(1)
    assert rows[2].outputs["top1"] == pytest.approx((ranks <= 1).mean(), abs=1e-6)

    Path("net.prototxt").write_text(
        text[:start] + 'layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }\n'
        'layer { name: "sink" type: "Silence" bottom: "label" }\n'
    )
    rows = score("net.prototxt", WEIGHTS, iterations=2)
    batch = len(mean) // 2
    for found, wanted in zip(rows, [*members, mean], strict=True):
        halves = (wanted[:batch] + wanted[batch:]) / 2
        np.testing.assert_allclose(found.outputs["prob"], halves, rtol=1e-4, atol=1e-6)

    accuracy = (
        'layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }\n'
        'layer { name: "loss" type: "MultinomialLogisticLoss" bottom: "prob" bottom: "label" '
        'top: "loss" }\nlayer { name: "top5" type: "Accuracy" bottom: "prob" bottom: "label" '
        'top: "top5" accuracy_param { top_k: 5 } }\n'
    )
    Path("net.prototxt").write_text(text[:start] + accuracy)
    rows = score("net.prototxt", WEIGHTS, iterations=2)
    assert rows[2].outputs["top5"] == pytest.approx((ranks <= 5).mean(), abs=1e-6)


def test_probabilities_are_not_made_probabilities_again() -> None:
    """Three members say 1, 0.26 and 0.25 for class 0: more than a half on the whole.

    The softmax of what are probabilities already would bend them to less than a half.
    """
    text = """
    layer { name: "in" type: "Input" top: "fc" top: "label" input_param {
      shape { dim: 1 dim: 2 } shape { dim: 1 } } }
    layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
    layer { name: "top1" type: "Accuracy" bottom: "prob" bottom: "label" top: "top1" }
    """
    nets = [load_net(text) for _ in range(3)]
    for net, chance in zip(nets, (1 - 1e-9, 0.26, 0.25), strict=True):
        logits = np.log([[chance, 1 - chance]]).astype(np.float32)
        net({"fc": torch.from_numpy(logits), "label": torch.zeros(1)})
    outputs, _ = _ensemble(nets, _ends(nets[0]))
    assert outputs["top1"].item() == 1


def test_one_model_is_scored_as_alone() -> None:
    [alone] = score("net.prototxt", WEIGHTS[:1], iterations=3)
    first = score("net.prototxt", WEIGHTS, iterations=3)[0]
    for name, value in alone.outputs.items():
        np.testing.assert_array_equal(first.outputs[name], value)


def test_ensemble_needs_class_probabilities() -> None:
    text = Path("net.prototxt").read_text()
    head = text[: text.index("layer", text.index('name: "fc"'))]
    Path("net.prototxt").write_text(head)
    with pytest.raises(NetError, match="class probabilities"):
        score("net.prototxt", WEIGHTS, iterations=1)


def test_command_prints_the_scores_as_json() -> None:
    arguments = ["test", "net.prototxt", "--weights", ",".join(map(str, WEIGHTS)), "-n", "2"]
    arguments += ["--json", "--set", "layer[data].data_param.batch_size=10"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row["model"] for row in rows][-1] == "ensemble of the 2 models"
    assert set(rows[0]) == {"model", "loss", "top1", "top5"}
    assert "Scoring ensemble of the 2 models" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Need a model definition"),
        (["net.prototxt"], "Need model weights"),
        (["net.prototxt", "--weights", "none.caffemodel"], "none.caffemodel"),
        (["none.prototxt", "--weights", str(WEIGHTS[0])], "none.prototxt"),
        (["net.prototxt", "--weights", str(WEIGHTS[0]), "--caffe", "x"], "unknown profile"),
    ],
)
def test_what_is_refused(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["test", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


def test_no_iterations(tmp_path: Path) -> None:
    """Real Caffe says -nan, and nothing else."""
    net = tmp_path / "n.prototxt"
    net.write_text(
        'layer { name: "d" type: "DummyData" top: "d" dummy_data_param { shape { dim: 2 } } }'
        'layer { name: "b" type: "Bias" bottom: "d" top: "b" bias_param { axis: 0 } }'
    )
    load_net(net).save(tmp_path / "w.caffemodel")
    arguments = ["test", "-model", str(net), "-weights", str(tmp_path / "w.caffemodel")]
    result = CliRunner().invoke(main, [*arguments, "-iterations", "0"], catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stderr.rstrip().endswith("Loss: -nan")
