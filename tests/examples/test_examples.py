"""The examples do what their READMEs say: the commands there are run, in their order.

Those that train for a minute or more run nightly (CAFFEIO_NIGHTLY=1).
"""

from __future__ import annotations

import gzip
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from caffeio.training.events import Events, Scores
from caffeio.training.trainer import Trainer
from tests import warm
from tests.data.helpers import photo
from tests.paths import ROOT, SHARED, needs_shared, nightly

EXAMPLES = ROOT / "examples"
MNIST = Path(os.environ.get("CAFFEIO_MNIST", SHARED / "data" / "mnist"))  # IDX, gzipped or not
DIGITS = next(MNIST.glob("t10k-images-idx3-ubyte*"), None)
needs_mnist = pytest.mark.skipif(
    DIGITS is None, reason="MNIST is not here: name its folder in CAFFEIO_MNIST"
)
RES10 = SHARED / "corpus" / "caffemodels" / "res10_ssd"


SHELL = set("|&;<>$`*?[]{}~#")  # with one of these, or a program of its own, it is bash's


def commands(name: str) -> list[str]:
    """The indented lines of an example's README."""
    text = (EXAMPLES / name / "README.md").read_text()
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


def run_readme(
    name: str,
    folder: Path,
    replace: dict[str, str] | None = None,
    in_files: dict[str, str] | None = None,
) -> str:
    """Run the README's commands in a copy of the example; returns all that they print.

    `replace`: what is other in the commands; `in_files`: in the files, all of which must be there.
    """
    here = folder / name
    shutil.copytree(EXAMPLES / name, here)
    for old, new in (in_files or {}).items():
        paths = [path for path in here.iterdir() if old in path.read_text()]
        assert paths, old
        for path in paths:
            path.write_text(path.read_text().replace(old, new))
    said = []
    for command in commands(name):
        for old, new in (replace or {}).items():
            command = command.replace(old, new)
        said.append(run(command, here))
    return "".join(said)


def run(command: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {"PATH": path, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    program, *words = shlex.split(command)
    if SHELL & set(command) or program not in ("caffeio", "python"):
        options = {"args": ["bash", "-euo", "pipefail", "-c", command], "env": os.environ | env}
    else:
        options = (warm.caffeio if program == "caffeio" else warm.command)(*words, env=env)
    done = subprocess.run(
        **options, cwd=folder, capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr[-3000:]}"
    return f"$ {command}\n{done.stdout}{done.stderr}"


def ending() -> str:
    """How the names of MNIST's files end here: -ubyte or -ubyte.gz."""
    assert DIGITS is not None
    return DIGITS.name.removeprefix("t10k-images-idx3")


def last(pattern: str, text: str) -> float:
    return float(re.findall(pattern, text)[-1])


def check_pictures(folder: Path, *names: str) -> None:
    for name in names:
        picture = cv2.imread(str(folder / name))
        assert picture is not None and min(picture.shape[:2]) > 90 and picture.std() > 5, name


def test_every_example_has_a_short_readme() -> None:
    for folder in sorted(path for path in EXAMPLES.iterdir() if path.is_dir()):
        text = (folder / "README.md").read_text()
        assert text.startswith("# ") and commands(folder.name)
        assert text.count("\n") <= 32, f"{folder.name}: a README of some ten lines"


def fewer_digits(folder: Path) -> None:
    """Write MNIST's files with the first 6,400 digits to learn and 1,000 to test."""
    for part, count in (("train", 6_400), ("t10k", 1_000)):
        for kind, header, size in (("images-idx3", 16, 28 * 28), ("labels-idx1", 8, 1)):
            name = f"{part}-{kind}{ending()}"
            packed = name.endswith(".gz")
            with gzip.open(MNIST / name) if packed else open(MNIST / name, "rb") as file:
                data = file.read(header + count * size)
            data = data[:4] + count.to_bytes(4, "big") + data[8:]
            (folder / name).write_bytes(gzip.compress(data, 1) if packed else data)


# What the solver and the script say of all digits, and of those that `fewer_digits` leaves
FEWER = {"test_iter: 100": "test_iter: 10", "test_interval: 469": "test_interval: 50",
         "max_iter: 938": "max_iter: 100", "display: 67": "display: 25",
         "range(100)": "range(10)", "iter_938": "iter_100"}  # fmt: skip


@needs_mnist
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=nightly)])
def test_mnist(whole: bool, tmp_path: Path) -> None:
    """LeNet reads 98 % of the test digits after one epoch, or less after one of a tenth of them."""
    digits = MNIST
    if not whole:
        digits = tmp_path / "digits"
        digits.mkdir()
        fewer_digits(digits)
    said = run_readme("mnist", tmp_path, {"~/mnist": str(digits), "-ubyte.gz": ending()},
                      {} if whole else FEWER)  # fmt: skip
    accuracy = last(r"accuracy = (\S+)", said)
    assert accuracy > (0.98 if whole else 0.88)
    count = "10,000" if whole else "1,000"
    assert last(rf"\n(0\.\d+) of {count} test digits are right", said) == pytest.approx(
        accuracy, abs=2e-4
    )
    check_pictures(tmp_path / "mnist", "samples.png", "curves.png", "filters.png", "confusion.png",
                   "mistakes.png")  # fmt: skip


@needs_mnist
@nightly
@pytest.mark.timeout(3600)
def test_mnist_of_10000_iterations(tmp_path: Path) -> None:
    """The whole of Caffe's example: 99 %.

    Single tests scatter by some 5 of the 10,000 digits while the rate is still 0.006, with other
    rounding (another processor) as with other seeds: of six tests in the last 2,500 iterations
    0.9888 to 0.9903 were measured, the last one 0.9902; another seed gave 0.9895 to 0.9906. BVLC's
    readme has 0.9897, a run of real Caffe on these data 0.9900. So 0.99 is what the net must reach
    in these tests, and its last weights may be three deviations below.
    """
    here = tmp_path / "mnist"
    shutil.copytree(EXAMPLES / "mnist", here)
    for part in ("train", "t10k"):
        name = "train_lmdb" if part == "train" else "test_lmdb"
        run(f"caffeio db create {MNIST}/{part}-images-idx3{ending()} {name}", here)
    scores: dict[int, float] = {}

    def note(result: Scores) -> None:
        scores[result.iteration] = float(result.outputs["accuracy"])

    with Trainer(here / "solver.prototxt", events=Events(test=note)) as trainer:
        trainer.solve()
    late = [score for iteration, score in scores.items() if iteration >= 7500]
    assert len(late) == 6 and max(late) >= 0.99, scores
    said = run("caffeio test lenet.prototxt --weights lenet_iter_10000.caffemodel --iterations 100",
               here)  # fmt: skip
    assert last(r"accuracy = (\S+)", said) >= 0.9885


@nightly
@pytest.mark.timeout(900)
def test_ssd(tmp_path: Path) -> None:
    said = run_readme("ssd", tmp_path)
    assert last(r"detection_eval = (\S+)", said) > 0.95
    assert re.search(r"0\.\d+  (disc|square|triangle): ", said)
    check_pictures(tmp_path / "ssd", "samples.png", "curves.png", "found.png")


@nightly
@pytest.mark.timeout(900)
def test_finetune(tmp_path: Path) -> None:
    said = run_readme("finetune", tmp_path)
    tuned, _, scratch = said.partition("snapshot_prefix=scratch")
    assert last(r"accuracy = (\S+)", tuned) > 0.85 > 0.2 + last(r"accuracy = (\S+)", scratch)
    assert "fc_new" in tuned


@pytest.mark.slow
def test_npu(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    said = run_readme("npu", tmp_path)
    assert "nothing found" in said and (tmp_path / "npu" / "module.html").exists()
    assert last(r"prob: (\S+)", said) < 1e-5


@needs_shared
@pytest.mark.slow
def test_face_detector(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    [weights] = RES10.glob("*.caffemodel")
    picture = SHARED / "data" / "images" / "messi5.jpg"
    said = run_readme("face-detector", tmp_path, {
        "deploy.prototxt": str(RES10 / "deploy.prototxt.txt"), "res10.caffemodel": str(weights),
        "people.jpg": str(picture),
    })  # fmt: skip
    assert "label 1, score 0.932: 228, 93 to 256, 131" in said
    check_pictures(tmp_path / "face-detector", "found.jpg", "seen.png")


@nightly
@pytest.mark.timeout(900)
def test_imagenet_scripts(resnet: Path) -> None:
    """data.sh on drawn pictures, a phase of the recipe, score.sh on two cycles."""
    raw = resnet / "raw"
    for label in ("n01", "n02"):
        (raw / "train" / label).mkdir(parents=True)
        cv2.imwrite(str(raw / "train" / label / "a.JPEG"), photo(1, 300, 280))
    (raw / "val").mkdir()
    cv2.imwrite(str(raw / "val" / "v.JPEG"), photo(2, 300, 280))
    (raw / "val.txt").write_text("v.JPEG 1\n")
    (resnet / "out").mkdir()
    said = run("bash data.sh raw out", resnet)
    assert "2 records" in said and (resnet / "out" / "synsets.txt").read_text() == "n01\nn02\n"
    for phase in ("cyc1", "cyc2"):
        trainer = Trainer(resnet / f"solver_{phase}.prototxt")
        trainer.solve()
        trainer.close()
    text = (resnet / "score.sh").read_text()
    (resnet / "score.sh").write_text(text.replace("--iterations 1000", "--iterations 2"))
    said = run("bash score.sh cyc1_iter_2.caffemodel cyc2_iter_2.caffemodel", resnet)
    assert "cyc1_iter_2_collapsed_iter_2.caffemodel" in said and "nsemble" in said


def test_the_tables_of_the_recipe_are_what_show_says(resnet: Path) -> None:
    """Iterations and epochs of the README, by `caffeio show` of the published solvers."""
    seed = SHARED / "seed"
    if not seed.exists():
        pytest.skip("the published solvers are not here")
    names = ["init", "cyc1", "cyc2", "cyc3", "collapse"]
    solvers = " ".join(str(seed / f"solver_{name}.prototxt") for name in names)
    said = run(f"caffeio show {solvers} --workers 128 --dataset-size 1281167 --speed 6303", resnet)
    for line in (resnet / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in names:
            assert cells[1] in said and cells[2][:4] in said, cells
    assert "72.29" in said and "22,610" in said


@nightly
@pytest.mark.timeout(900)
def test_notebooks(tmp_path: Path) -> None:
    """Every notebook runs from its first cell to its last."""
    pytest.importorskip("nbmake")
    shutil.copytree(EXAMPLES / "notebooks", tmp_path / "notebooks")
    run("python -m pytest -q -p no:cacheprovider --nbmake *.ipynb", tmp_path / "notebooks")
