"""What a person sees of a training: the summary, the log's file, the trace, the page at the end."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from caffeio.cli._summary import Summary, duration
from caffeio.cli.main import main
from caffeio.converters.run_page import along, png, smooth
from caffeio.data import Options
from caffeio.demo import glyphs, recipe
from caffeio.log.runs import Series, read_run
from caffeio.net import Net, NetRecipe
from caffeio.proto.files import read_net
from caffeio.tools.predictions import as_picture, predict


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watch")
    (folder / "demo").mkdir()
    glyphs.make_lmdb(folder / "demo" / "train_lmdb", 40, seed=1)
    glyphs.make_lmdb(folder / "demo" / "test_lmdb", 16, seed=2)
    return folder


@pytest.fixture(autouse=True)
def here(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    for name in ("train_lmdb", "test_lmdb"):
        (tmp_path / "demo" / name).symlink_to(files / "demo" / name)
    recipe.write(Path("demo"))
    return tmp_path


SETS = (
    "max_iter=3", "snapshot=2", "display=1", "test_iter=2", "test_interval=3",
    "layer[data].data_param.batch_size=8",
)  # fmt: skip


def train(
    *arguments: str, env: dict[str, str] | None = None, sets: tuple[str, ...] = SETS
) -> Result:
    words = [word for text in sets for word in ("--set", text)]
    solvers = [a for a in arguments if a.endswith(".prototxt")] or ["demo/solver_init.prototxt"]
    rest = [a for a in arguments if not a.endswith(".prototxt")]
    result = CliRunner().invoke(main, ["train", *solvers, *words, *rest], env=env)
    assert result.exit_code == 0, result.output
    return result


def test_the_summary_is_calm_and_the_log_is_whole() -> None:
    err = train("--log", "short").stderr
    lines = err.splitlines()
    assert lines[0].startswith(
        "solver_init.prototxt: net glyph-resnet (79,373 parameters) on cpu, "
    )
    assert "8 images an iteration, 3 iterations" in lines[0]
    assert lines[1] == "Caffe's log: demo/init.log (--log caffe shows it here)"
    assert sum(line.startswith("test at iteration ") for line in lines) == 2
    assert sum(line.startswith("iteration ") for line in lines) == 3
    assert "snapshot: demo/init_iter_2.caffemodel" in lines
    assert re.search(r"done in .*, loss [\d.]+ to [\d.]+; weights: demo/init_iter_3", lines[-1])
    assert not re.search(r"^[IWEF]\d{4} ", err, re.MULTILINE)
    log = Path("demo/init.log").read_text()
    assert all(re.match(r"[IWE]\d{4} |\s|[a-z}]", line) for line in log.splitlines() if line)
    for text in ("Use CPU", "Starting Optimization", "Iteration 2", "Optimization Done."):
        assert text in log
    told = read_run("demo/init.log")
    assert told.loss.iterations == [0, 1, 2, 3] and told.test["top-1"].iterations == [0, 3]


def test_caffes_log_stays_the_default_where_there_is_no_terminal() -> None:
    err = train().stderr
    assert re.search(r"^I\d{4} .*Starting Optimization", err, re.MULTILINE)
    assert not Path("demo/init.log").exists()


def test_on_a_terminal_the_summary_is_the_default() -> None:
    err = train(env={"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "200"}).stderr
    assert "snapshot: demo/init_iter_2.caffemodel" in err and "Starting Optimization" not in err
    assert "Starting Optimization" in Path("demo/init.log").read_text()
    err = train("--log", "caffe", env={"FORCE_COLOR": "1", "TERM": "xterm"}).stderr
    assert "Starting Optimization" in err


def test_each_phase_of_a_chain_has_its_log_and_the_page_has_all() -> None:
    solvers = ("demo/solver_init.prototxt", "demo/solver_cyc1.prototxt")
    train(*solvers, "--log", "short", "--report", "run.html")
    for name in ("init", "cyc1"):
        assert Path(f"demo/{name}.log").read_text().count("Starting Optimization") == 1
    page = Path("run.html").read_text()
    assert "Phases: solver_init from 0, solver_cyc1 from 3." in page


def test_warnings_are_shown_and_a_log_that_cannot_be_written_stops_nothing() -> None:
    lines: list[str] = []
    summary = Summary(lines.append, steps=False)
    summary.line("I1127 12:00:00.000000 1 x.cpp:1] quiet")
    summary.line("W1127 12:00:00.000000 1 caffeio:1] loss is nan since iteration 4")
    assert lines == ["warning: loss is nan since iteration 4"]
    Path("demo/init.log").mkdir()
    err = train("--log", "short").stderr
    assert "demo/init.log: Caffe's log cannot be written (Is a directory)" in err
    assert "done in" in err
    assert [duration(s) for s in (5, 600, 9000)] == ["5 s", "10 min", "2.5 h"]


@pytest.mark.parametrize(("name", "opened"), [("t.json", open), ("t.json.gz", gzip.open)])
def test_the_trace(name: str, opened: object) -> None:
    err = train("--profile", name, "--log", "short", sets=("max_iter=8", *SETS[1:])).stderr
    assert f"Trace of 5 iterations: {name}" in err
    with opened(name) as file:  # type: ignore[operator]
        events = json.load(file)["traceEvents"]
    assert any("convolution" in event.get("name", "") for event in events)
    assert not list(Path().glob("*.part*"))


def test_a_short_training_is_traced_whole_and_a_missing_folder_is_said_at_once() -> None:
    err = train("--profile", "t.json", "--log", "short", sets=("max_iter=2", *SETS[1:])).stderr
    assert "Trace of 2 iterations" in err and json.loads(Path("t.json").read_text())
    for option in ("--profile", "--report"):
        result = CliRunner().invoke(
            main, ["train", "demo/solver_init.prototxt", option, "none/file"]
        )
        assert result.exit_code == 2 and "its folder is not there" in result.stderr


def test_caffes_own_command_keeps_caffes_log_and_quiet_is_quiet() -> None:
    words = ["caffe", "train", "-solver", "demo/solver_init.prototxt"]
    words += [word for text in SETS for word in ("--set", text)]
    env = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "200"}
    result = CliRunner().invoke(main, words, env=env)
    assert result.exit_code == 0 and "Starting Optimization" in result.stderr
    assert train("--quiet", "--report", "run.html", "--profile", "t.json").stderr == ""
    assert Path("run.html").exists() and Path("t.json").exists()


def test_the_page_holds_what_the_training_told() -> None:
    """Its accuracy on the test data is that of the last test, which saw the same pictures."""
    train("--report", "run.html", "--metrics", "m.jsonl", "--quiet")
    page = Path("run.html").read_text()
    assert "default-src 'none'" in page and "<script" not in page
    assert not re.search(r'(src|href)="(?!data:image/png)', page)
    rows = [json.loads(line) for line in Path("m.jsonl").read_text().splitlines()]
    top1 = [row["outputs"]["top-1"] for row in rows if "test_net" in row][-1]
    right, images = map(int, re.search(r"(\d+) of (\d+) pictures", page).groups())  # type: ignore[union-attr]
    assert images == 16 and right / images == pytest.approx(top1)
    assert page.count("<figure>") == min(images - right, 24)
    last = [row["loss"] for row in rows if "loss" in row][-1]
    assert f"{last:.5g}" in page and "demo/init_iter_3.caffemodel" in page
    assert page.count('class="curves"') == 3 and "torch" in page
    cells = re.findall(r"<title>label (\d+), predicted (\d+): (\d+)</title>", page)
    assert sum(int(n) for _, _, n in cells) == images
    assert sum(int(n) for label, predicted, n in cells if label == predicted) == right


def test_a_training_without_tests_has_a_page_too() -> None:
    train("--report", "run.html", sets=("max_iter=2", *SETS[1:3], SETS[5]))
    page = Path("run.html").read_text()
    assert "Confusions" not in page and "Loss" in page


def built(source: str | Path) -> Net:
    return NetRecipe.of_file(read_net(source)).build(data=Options())


def test_predictions_are_the_nets_own() -> None:
    with built(Path("demo/train_val.prototxt")) as net:
        net.keep_blobs = False
        found = predict(net, 1, worst=3)
        assert not net.keep_blobs
        assert found is not None and found.images == 32 and found.confusion.shape == (20, 20)
        assert len(found.mistakes) == 3
        shares = [mistake.probability for mistake in found.mistakes]
        assert shares == sorted(shares)
        for mistake in found.mistakes:
            assert mistake.label != mistake.predicted and mistake.sure >= mistake.probability
            assert mistake.image is not None and mistake.image.shape == (32, 32, 3)


def test_a_net_without_classes_has_no_predictions() -> None:
    text = """layer { name: "d" type: "DummyData" top: "d"
                      dummy_data_param { shape { dim: 2 dim: 3 } } }
    layer { name: "s" type: "Softmax" bottom: "d" top: "s" }"""
    with built(text) as net:
        assert predict(net, 1) is None


def test_pictures() -> None:
    blue = np.zeros((3, 2, 2), np.float32)
    blue[0] = 5  # Caffe's first channel is blue
    assert as_picture(blue).tolist() == [[[0, 0, 255]] * 2] * 2
    gray = np.array([[[-1, np.nan], [0, 1]]], np.float32)
    assert as_picture(gray)[:, :, 0].tolist() == [[0, 0], [128, 255]]
    assert png(as_picture(np.zeros((1, 500, 10), np.float32))).startswith("data:image/png;base64,")


def test_curves() -> None:
    series = Series([0, 2, 4], [1.0, 3.0, np.nan])
    assert along(series, 4)[:3] == [1.0, 2.0, 3.0]
    assert smooth(Series(list(range(3)), [1.0, np.nan, 3.0]))[::2] == [1.0, 3.0]
    assert along(Series(), 5) == []
