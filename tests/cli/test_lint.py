"""`caffeio lint` as a user calls it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess

import pytest
from click.testing import CliRunner

from caffeio.cli.main import main
from tests.cli.test_diff import git, loaded_modules
from tests.paths import ROOT

GOOD = (
    'net: "net_of_nobody.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 10 '
    'snapshot_prefix: "s"\n'
)
BAD = GOOD + 'type: "adam"  # of 2014\nmomentum: 0.9\nclip_gradients: 0\n'


def run(*arguments: str, **options):
    result = CliRunner().invoke(main, ["lint", *arguments], **options)
    if result.exit_code not in (0, 1, 2):
        raise AssertionError(result.output) from result.exception
    return result


@pytest.fixture
def bad(tmp_path):
    path = tmp_path / "solver.prototxt"
    path.write_text(BAD)
    return path


def test_text_and_exit_codes(bad, tmp_path):
    result = run(str(bad))
    assert result.exit_code == 1
    assert f"{bad}:2:1: CIO509 unknown solver type 'adam'; did you mean 'Adam'?" in result.stdout
    assert f"{bad}:4:1: CIO512" in result.stdout
    assert result.stdout.splitlines()[-1] == "1 error, 1 warning in 1 file"
    good = tmp_path / "good.prototxt"
    good.write_text(GOOD)
    assert run(str(good)).exit_code == 0
    assert "CIO521" in run(str(good), "--info").stdout
    assert run(str(good), "--info").exit_code == 0
    missing = run(str(tmp_path / "none"))
    assert missing.exit_code == 2 and "no such file" in missing.stderr


def test_lines_are_not_folded_in_a_pipe(bad):
    long = bad.parent / ("x" * 90)
    long.mkdir()
    (long / "solver.prototxt").write_text(BAD)
    lines = run(str(long), env={"COLUMNS": "40"}).stdout.splitlines()
    assert len(lines) == 3 and all(re.match(r".*:\d+:\d+: CIO\d{3} ", line) for line in lines[:2])


def test_formats(bad):
    data = json.loads(run(str(bad), "--format", "json").stdout)
    assert [item["code"] for item in data] == ["CIO509", "CIO512"]
    log = json.loads(run(str(bad), "--format", "sarif").stdout)
    assert log["runs"][0]["results"][0]["ruleId"] == "CIO509"
    lines = run(str(bad), "-f", "github").stdout.splitlines()
    assert lines[0].startswith(f"::error file={bad},line=2,col=1,title=CIO509::")


def test_selection(bad):
    assert run(str(bad), "--ignore", "CIO509,CIO512").exit_code == 0
    data = json.loads(run(str(bad), "--select", "cio512", "-f", "json").stdout)
    assert [item["code"] for item in data] == ["CIO512"]


def test_fix_writes_the_file(bad):
    result = run(str(bad), "--fix")
    assert result.exit_code == 1
    assert "CIO509" not in result.stdout and "CIO512" in result.stdout
    assert bad.read_text() == BAD.replace('"adam"', '"Adam"')


def test_fix_of_standard_input():
    result = run("-", "--fix", input=BAD)
    assert result.stdout == BAD.replace('"adam"', '"Adam"')
    assert "CIO512" in result.stderr


def test_folders_and_revisions(bad, tmp_path, monkeypatch):
    (tmp_path / "notes.prototxt").write_text("nothing of Caffe's")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    assert run(str(tmp_path)).stdout.splitlines()[-1].endswith("in 1 file")
    bad.write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    assert run("solver.prototxt").exit_code == 0
    result = run("HEAD:solver.prototxt")
    assert result.exit_code == 1 and "HEAD:solver.prototxt:2:1: CIO509" in result.stdout
    assert run("HEAD:solver.prototxt", "--fix").exit_code == 2


def test_explain():
    result = run("--explain", "CIO302")
    assert result.exit_code == 0 and "BVLC's Caffe then makes -FLT_MAX" in result.stdout
    assert run("--explain", "all").stdout.count("CIO") > 50
    wrong = run("--explain", "CIO3002")
    assert wrong.exit_code == 2 and "Did you mean CIO302" in wrong.stderr


def test_other_kinds_are_refused(tmp_path):
    path = tmp_path / "labels.prototxt"
    path.write_text('item { name: "a" label: 1 }')
    result = run(str(path))
    assert result.exit_code == 2 and "label map" in result.stderr


def test_the_pre_commit_hooks():
    text = (ROOT / ".pre-commit-hooks.yaml").read_text()
    entries = re.findall(r"^  entry: (.*)$", text, re.MULTILINE)
    assert entries == ["caffeio lint", "caffeio lint --fix"]
    assert len(re.findall(r"^- id: ", text, re.MULTILINE)) == 2
    for pattern in re.findall(r"^  files: (.*)$", text, re.MULTILINE):
        assert re.search(pattern, "models/train_val.prototxt")
        assert re.search(pattern, "deploy.prototxt.txt") and not re.search(pattern, "a.caffemodel")
    for entry in entries:
        assert run(*shlex.split(entry)[2:], "--help").exit_code == 0


def test_no_heavy_modules(bad):
    loaded = loaded_modules("lint", str(bad))
    assert not loaded & {"torch", "onnx", "cv2", "matplotlib"}


def test_a_broken_pipe_is_no_error(bad):
    code = "from caffeio.cli.main import main; main(prog_name='caffeio')"
    command = (
        f"{shlex.quote(__import__('sys').executable)} -c {shlex.quote(code)} lint {bad} | true"
    )
    result = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert "Traceback" not in result.stderr


def test_codes_of_no_rule_are_errors(bad):
    for option in ("--select", "--ignore"):
        for code in ("CIO999", "CIOabc", "CI0509"):
            result = run(str(bad), option, code)
            assert result.exit_code == 2
            assert (
                f"Invalid value for {option}: there is no rule {code.upper()!r}." in result.stderr
            )
    assert run(str(bad), "--select", "CIO5").exit_code == 1
