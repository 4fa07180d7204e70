"""Trees without symbolic links build, and the wheel and the sdist hold what they should."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.paths import ROOT

LINKED = ("proto", "converters", "cli")
SOURCES = (
    *LINKED, "caffeio", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "Makefile",
    "constraints.txt",
)  # fmt: skip


@pytest.fixture(scope="module")
def zipped_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources as an unpacked zip leaves them: a small text file in the place of each link."""
    tree = tmp_path_factory.mktemp("zip") / "caffeio"
    tree.mkdir()
    unwanted = shutil.ignore_patterns("__pycache__", "*_pb2.py", "*_pb2.pyi", *LINKED)
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignore = unwanted if name == "caffeio" else shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, tree / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, tree / name)
    for name in LINKED:
        (tree / "caffeio" / name).write_text(f"../{name}")
    return tree


def built(tree: Path, kind: str) -> Path:
    """Build a wheel or an sdist of `tree` with the tools of this environment."""
    out = tree / "dist"
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    subprocess.run(command, cwd=tree, check=True, timeout=120, capture_output=True)
    [path] = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return path


def test_a_tree_without_links_builds_a_whole_wheel(zipped_tree: Path) -> None:
    names = zipfile.ZipFile(built(zipped_tree, "wheel")).namelist()
    assert {
        "caffeio/py.typed", "caffeio/proto/caffe.proto", "caffeio/proto/caffe_pb2.py",
        "caffeio/proto/dialect/tables/bvlc.tsv", "caffeio/converters/kinds.py",
        "caffeio/cli/main.py",
    } <= set(names)  # fmt: skip
    assert not any(name.startswith(("proto/", "tests/", "converters/", "cli/")) for name in names)
    assert len(names) == len(set(names))


def test_an_sdist_holds_real_top_level_folders(zipped_tree: Path) -> None:
    with tarfile.open(built(zipped_tree, "sdist")) as sdist:
        names = sdist.getnames()
    inside = {name.partition("/")[2] for name in names}
    assert {"proto/dialect/schema.py", "converters/kinds.py", "cli/main.py", "Makefile"} <= inside
    assert not any(name.startswith(("caffeio/proto", "caffeio/cli")) for name in inside)


def test_an_incomplete_tree_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from hatch_build import link_folder

    with pytest.raises(SystemExit, match="proto is missing: this is no complete tree"):
        link_folder(tmp_path / "caffeio" / "proto", tmp_path / "proto")


def test_a_folder_is_copied_where_no_link_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    import hatch_build

    def refuse(*args: object, **options: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(hatch_build.os, "symlink", refuse)
    (tmp_path / "proto").mkdir()
    (tmp_path / "proto" / "files.py").write_text("x = 1\n")
    (tmp_path / "caffeio").mkdir()
    hatch_build.link_folder(tmp_path / "caffeio" / "proto", tmp_path / "proto")
    assert (tmp_path / "caffeio" / "proto" / "files.py").read_text() == "x = 1\n"


def test_python_m_caffeio() -> None:
    command = [sys.executable, "-m", "caffeio", "--version"]
    done = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    assert "caffeio" in done.stdout


def test_the_floors_are_those_of_pyproject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / ".ci"))
    from lowest import floors

    lines = floors(ROOT / "pyproject.toml")
    assert "protobuf>=6.31.1,<6.31.1.1" in lines and "torch>=2.6,<2.6.1" in lines
    text = '[project]\ndependencies = ["a>=1.2,<3", "b"]\n'
    text += '[project.optional-dependencies]\nx = ["C-d>=4"]\nall = ["me[x]"]\n'
    (tmp_path / "pyproject.toml").write_text(text)
    assert floors(tmp_path / "pyproject.toml") == ["a>=1.2,<1.2.1", "c-d>=4,<4.1"]
