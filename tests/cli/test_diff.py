"""`caffeio diff` as a user calls it."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from caffeio import load_net
from caffeio.cli.main import main
from caffeio.converters import source
from caffeio.demo import recipe as demo
from tests.paths import ROOT

RECIPE = ROOT / "tests" / "converters" / "recipe"
CYC1, CYC2 = str(RECIPE / "cyc1.prototxt"), str(RECIPE / "cyc2.prototxt")


def run(*arguments: str, **options):
    return CliRunner().invoke(main, ["diff", *arguments], **options)


def test_text():
    result = run(CYC1, CYC2, env={"COLUMNS": "100"})
    assert result.exit_code == 0
    assert "They train differently" in result.output
    assert "\x1b" not in result.output
    assert max(map(len, result.output.splitlines())) <= 100


@pytest.mark.parametrize("width", [60, 80, 160])
def test_tables_fold_to_the_width(width):
    result = run(CYC1, str(RECIPE / "collapse.prototxt"), env={"COLUMNS": str(width)})
    assert max(map(len, result.output.splitlines())) <= width


def test_exit_codes(tmp_path):
    assert run(CYC1, CYC2, "--exit-code").exit_code == 1
    assert run(CYC1, CYC1, "--exit-code").exit_code == 0
    assert run(CYC1, str(tmp_path / "missing"), "--exit-code").exit_code == 2
    result = run(CYC1, str(RECIPE / "net.prototxt"))
    assert result.exit_code == 2
    assert "different kinds" in result.stderr and "solver prototxt" in result.stderr


def test_json():
    result = run(CYC1, CYC2, "--format", "json", "--workers", "128", "--dataset-size", "1281167")
    data = json.loads(result.output)
    assert data["kind"] == "solver" and data["same"] is False
    assert data["learning_rate"]["largest_ratio"] == pytest.approx(4)
    assert data["left"]["data"]["images_per_update"] == 4096


def test_html_is_one_page(tmp_path):
    result = run(CYC1, CYC2, "--format", "html")
    assert result.output.startswith("<!doctype html>") and result.output.endswith("</html>\n")
    assert "http" not in result.output.replace("http-equiv", "")
    assert "warmup_iter" in result.output


def test_standard_input():
    result = run(CYC1, "-", input=Path(CYC2).read_bytes())
    assert "<stdin>" in result.output and "1,000 more updates" in result.output
    assert run("-", "-", input=b"x").exit_code == 2


def test_folders(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "solver.prototxt").write_text('base_lr: 1 lr_policy: "fixed"')
    (tmp_path / "a" / "net.prototxt").write_text('layer { name: "x" type: "ReLU" }')
    (tmp_path / "b" / "deep" / "solver.prototxt").write_text('base_lr: 2 lr_policy: "fixed"')
    (tmp_path / "b" / "notes.txt").write_text("not a Caffe file")
    result = run(str(tmp_path / "a"), str(tmp_path / "b"), "--format", "json", "--exit-code")
    assert result.exit_code == 1
    files = {item["file"]: item for item in json.loads(result.output)["files"]}
    assert set(files) == {"net.prototxt", "deep/solver.prototxt"}
    assert files["net.prototxt"]["only"] == "left"
    assert files["deep/solver.prototxt"]["fields"][0]["name"] == "base_lr"
    assert (
        "deep/solver.prototxt: Fields"
        in run(str(tmp_path / "a"), str(tmp_path / "b"), "--all").output
    )


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_git_revisions_are_followed_into_their_nets(tmp_path, monkeypatch):
    git(tmp_path, "init", "-q")
    models = tmp_path / "models"
    models.mkdir()
    net = (
        'layer {{ name: "p" type: "DummyData" top: "x" '
        "dummy_data_param {{ shape {{ dim: {} }} }} }}"
    )
    (models / "net.prototxt").write_text(net.format(2))
    (models / "solver.prototxt").write_text(
        'net: "models/net.prototxt" base_lr: 1 lr_policy: "fixed" max_iter: 3'
    )
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    (models / "net.prototxt").write_text(net.format(3))
    monkeypatch.chdir(tmp_path)
    result = run("HEAD:models/solver.prototxt", "models/solver.prototxt", "--format", "json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.output)
    assert data["fields"] == []
    assert data["nets"]["changed"][0]["changes"][0]["what"] == "dummy_data_param.shape.dim"
    folders = run("HEAD:models", "models", "--format", "json")
    assert [f["same"] for f in json.loads(folders.output)["files"]] == [False, True]
    missing = run("HEAD:models/none.prototxt", "models/solver.prototxt")
    assert missing.exit_code == 2 and "git says" in missing.stderr


@pytest.mark.parametrize("filters", [True, False])
def test_a_revision_is_extracted_inside_its_folder(filters, tmp_path, monkeypatch):
    """Python before 3.11.4 has no filters for archives."""
    if not filters:
        monkeypatch.delattr("tarfile.data_filter", raising=False)
    elif not hasattr(tarfile, "data_filter"):
        pytest.skip("this Python has no filters")
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name in ("a/n.prototxt", "../out.prototxt")[: 1 if filters else 2]:
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
        if not filters:
            link = tarfile.TarInfo("a/link")
            link.type, link.linkname = tarfile.SYMTYPE, "../../out"
            tar.addfile(link)
    written.seek(0)
    folder = tmp_path / "in" / "folder"
    folder.mkdir(parents=True)
    with tarfile.open(fileobj=written) as tar:
        source.extract(tar, folder)
    found = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir()]
    assert found == ["in/folder/a/n.prototxt"]


def loaded_modules(*arguments: str) -> set[str]:
    """The modules that a command loads, in a process of its own."""
    code = (
        "import sys\nfrom caffeio.cli.main import main\n"
        "try:\n    main(sys.argv[1:], prog_name='caffeio')\nexcept SystemExit:\n    pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
    )
    return set(result.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("diff", "--help"),
        ("diff", CYC1, CYC2),
        ("diff", CYC1, str(RECIPE / "collapse.prototxt"), "--format", "html"),
    ],
)
def test_no_heavy_modules(arguments):
    loaded = loaded_modules(*arguments)
    heavy = {"torch", "onnx", "onnxruntime", "cv2", "h5py", "matplotlib", "lmdb", "scipy"}
    assert not loaded & heavy
    if "--help" in arguments:
        assert not loaded & {"numpy", "google.protobuf", "rich"}


def test_help_has_examples():
    text = run("--help").output
    assert "caffeio diff solver_cyc1.prototxt solver_cyc2.prototxt" in text
    assert "Exit code" in text


def test_plot(tmp_path):
    target = tmp_path / "lr.csv"
    assert run(CYC1, CYC2, "--plot", str(target)).exit_code == 0
    lines = target.read_text().splitlines()
    assert len(lines) == 1 + 3750 + 4750
    assert lines[1].endswith(",1.01999998") and lines[3751].endswith(",0.254999995")
    pytest.importorskip("matplotlib")
    svg = tmp_path / "lr.svg"
    assert run(CYC1, CYC2, "--plot", str(svg)).exit_code == 0
    assert "<svg" in svg.read_text()
    net = str(RECIPE / "net.prototxt")
    result = run(net, net, "--plot", str(svg))
    assert result.exit_code == 2 and "both sides must be solvers" in result.stderr


def test_colours_only_where_they_are_wanted():
    colour = "\x1b[31m"  # red: the left side
    assert colour in run(CYC1, CYC2, env={"FORCE_COLOR": "1", "TERM": "xterm"}).output
    for quiet in ({}, {"FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "xterm"}):
        assert colour not in run(CYC1, CYC2, env=quiet).output


def commit(folder: Path, message: str) -> None:
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for arguments in (["add", "-A"], ["commit", "-qm", message]):
        subprocess.run([*git, *arguments], cwd=folder, check=True, timeout=60)


def test_two_revisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All solvers and nets that changed; what did not change is not there."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q", "."], check=True, timeout=60)
    demo.write(tmp_path)
    (tmp_path / "notes.txt").write_text("one")
    commit(tmp_path, "one")
    solver = tmp_path / "solver_cyc1.prototxt"
    solver.write_text(solver.read_text().replace("base_lr: 0.032", "base_lr: 0.016"))
    (tmp_path / "notes.txt").write_text("two")
    (tmp_path / "solver_cyc2.prototxt").unlink()
    commit(tmp_path, "two")
    report = json.loads(run("HEAD~1", "HEAD", "--json").output)
    assert [(f["file"], f["same"]) for f in report["files"]] == [
        ("solver_cyc1.prototxt", False),
        ("solver_cyc2.prototxt", False),
    ]
    text = run("HEAD~1", "HEAD").output
    assert "2 of 2 files differ." in text and "0.016" in text and "only left" in text
    assert "No solver, net or weights changed." in run("HEAD", "HEAD", "--exit-code").output
    markdown = run("HEAD~1", "HEAD", "--format", "markdown").output
    assert markdown.startswith("### HEAD\\~1 -> HEAD (revisions)")
    assert "| solver\\_cyc1.prototxt | differs |" in markdown and "<details>" in markdown
    nothing = run("HEAD", "HEAD").output
    assert nothing.split("\n", 1)[1].strip() == "No solver, net or weights changed."
    for names in (("HEAD", "nosuch"), ("nosuch", "HEAD")):
        wrong = run(*names)
        assert wrong.exit_code == 2
        assert "nosuch: is neither a file nor a revision of git, as HEAD is" in wrong.stderr
    wrong = run("HEAD", "notes.txt")
    assert "notes.txt is none: did you mean HEAD:notes.txt?" in wrong.stderr
    monkeypatch.chdir(tmp_path.parent)
    assert "there is no such file" in run("HEAD~1", "HEAD").stderr


def test_markdown_is_well_formed_and_nothing_of_a_file_is_markup(tmp_path: Path) -> None:
    net = 'layer {{ name: "{0}" type: "Input" top: "a" input_param {{ shape {{ dim: 1 }} }} }}\n'
    left, right = tmp_path / "a.prototxt", tmp_path / "b.prototxt"
    left.write_text(net.format("x|y<script>*z*"))
    right.write_text(net.format("`w`"))
    text = run(str(left), str(right), "--format", "markdown").output
    assert not re.search(r"(?<!\\)<script>", text) and "x\\|y\\<script>" in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
    widths = [
        {len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}
        for block in text.split("\n\n")
        if block.startswith("|")
    ]
    assert widths and all(len(found) == 1 for found in widths)


def test_the_page_draws_the_rates(tmp_path: Path) -> None:
    demo.write(tmp_path)
    target = tmp_path / "page.html"
    run(
        str(tmp_path / "solver_cyc1.prototxt"), str(tmp_path / "solver_cyc2.prototxt"),
        "--format", "html", "-o", str(target),
    )  # fmt: skip
    page = target.read_text()
    assert page.count("<polyline") == 2 and "▁" not in page and "▄" not in page
    points = re.findall(r'<polyline class="(\w+)"[^>]* points="([^"]+)"', page)
    assert [kind for kind, _ in points] == ["left", "right"]
    first = [tuple(map(float, p.split(","))) for p in points[0][1].split()]
    assert first[0][1] < first[-1][1] and first == sorted(first)  # y grows downwards
    files = [str(tmp_path / f"solver_{name}.prototxt") for name in ("cyc1", "cyc2")]
    assert "▁" in run(*files).output


def test_weights_of_any_format_are_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("n.prototxt").write_text(
        'input: "x" input_dim: [1, 3, 4, 4] layer { name: "ip" type: "InnerProduct" bottom: "x" '
        'top: "y" inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }'
    )
    built = load_net("n.prototxt", seed=1)
    names = [f"w.{end}" for end in ("caffemodel", "caffemodel.h5", "safetensors", "pt", "npz")]
    for name in names:
        built.save(name)
    for name in names:
        result = run(name, "w.caffemodel", "--exit-code")
        assert "All blobs are equal" in result.output, result.output
        assert result.exit_code == 0
    built.params["ip"][1].data += 1
    built.save("other.pt")
    result = run("other.pt", "w.caffemodel", "--exit-code")
    assert result.exit_code == 1 and "ip" in result.output
    assert run("other.pt", "n.prototxt").exit_code == 2
