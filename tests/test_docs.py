"""Every command and every Python block of README, CONTRIBUTING and docs/ runs, in its order.

Blocks and what becomes of them:

    console             lines that begin with `$ ` are run; what stands below one must be what it
                        prints on standard output (`...` matches anything)
    python              run, one namespace a page
    any, title="FILE"   written to FILE in the page's folder
    sh                  not run here; every such line must be listed in NOT_RUN
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from caffeio.cli.main import COMMANDS, main
from caffeio.demo import glyphs, recipe
from caffeio.layers import registry
from caffeio.training.trainer import Trainer
from tests import warm
from tests.paths import EXPORTS_PROGRAMS, NO_PROGRAMS, ROOT

PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")],
    key=lambda path: path.relative_to(ROOT).as_posix(),
)
# blocks that only show something
SHOWN = {"", "mermaid", "text", "yaml", "toml", "json", "prototxt"}
NOT_RUN = {
    # the two commands, which take minutes or are this very test
    "make demo",
    "make test",
    "make wheel",
    "pip install dist/caffeio-*.whl",
    # scripts of the reader's own
    "caffeio run script.py",
    "caffeio run --py2 old_script.py",
    # the reader's shell, and what needs a network
    ". .venv/bin/activate",
    "pip install ./my_layers",
    "git clone ssh://... caffeio",
    # a model of more than 2 GB
    "caffeio convert large.onnx large.caffemodel.h5",
    # a package that must fit torch, and is none of ours
    "make nightly-models NETS='resnet18 mobilenet_v2'",
    # several machines
    "torchrun --nnodes 64 --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint node0:29500 \\",
    "    -m caffeio.cli train solver_init.prototxt solver_cyc1.prototxt solver_cyc2.prototxt \\",
    "    solver_cyc3.prototxt solver_collapse.prototxt --metrics train.jsonl",
}
NEEDS_A_SHELL = re.compile(r"[|<>;&$`]|^(?!caffeio )")


@dataclass
class Block:
    """One fenced block of a page."""

    line: int
    language: str
    title: str
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in self.lines)


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page; indentation of the fence is taken from the lines."""
    found: list[Block] = []
    fence = indent = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        opening = re.match(r'( *)(```+)(\w*)(?: title="([^"]+)")?$', line)
        if fence:
            if line.strip() == fence:
                fence = ""
            else:
                found[-1].lines.append(line.removeprefix(indent))
        elif opening:
            indent, fence, language, title = opening.groups(default="")
            found.append(Block(number, language, title))
        else:
            assert "```" not in line, f"{page}:{number}: not understood: {line}"
    return found


def commands(block: Block) -> list[tuple[str, list[str]]]:
    """The commands of a console block, each with the output that the page shows."""
    found: list[tuple[str, list[str]]] = []
    for line in block.lines:
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found and found[-1][0].endswith("\\"):
            found[-1] = (found[-1][0][:-1] + line.strip(), [])
        else:
            assert found, "a console block begins with `$ `"
            found[-1][1].append(line)
    return found


def runs(page: Path) -> bool:
    return any(b.language in ("console", "python") or b.title for b in blocks(page))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's files under their own names; its weights are hardly trained."""
    folder = tmp_path_factory.mktemp("reader")
    here = folder / "demo"
    here.mkdir()
    for name, count in (("train_lmdb", 40), ("test_lmdb", 64)):
        glyphs.make_lmdb(here / name, count, seed=1)
    solvers = recipe.write(here)
    for path in solvers.values():
        trainer = Trainer(path, overrides=["layer[data].data_param.batch_size=4"])
        trainer.step(1)
        trainer.iter = trainer.param.max_iter
        trainer.snapshot()
        trainer.close()
    return folder


@pytest.fixture
def reader(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a reader of one page works."""
    (tmp_path / "demo").symlink_to(demo / "demo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    registry.load_own()  # else what a page makes caffeio import would go with the copy
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def make_repository(folder: Path) -> None:
    """A git repository with a solver in models/ that its last commit changed."""
    models = folder / "models"
    models.mkdir()
    for name in ("train_val.prototxt", "solver_cyc1.prototxt"):
        (models / name).write_bytes((folder / "demo" / name).read_bytes())
    solver = (models / "solver_cyc1.prototxt").rename(models / "solver.prototxt")
    git = [
        "git",
        "-c",
        "user.name=x",
        "-c",
        "user.email=x@example.org",
        "-c",
        "init.defaultBranch=main",
    ]
    for change, arguments in (
        ("", ["init", "-q"]), ("", ["add", "models"]), ("", ["commit", "-qm", "one"]),
        ("base_lr: 0.016", ["commit", "-qam", "two"]),
    ):  # fmt: skip
        if change:
            solver.write_text(re.sub(r"base_lr: \S+", change, solver.read_text()))
        subprocess.run([*git, *arguments], cwd=folder, check=True, timeout=60)


PREPARED = {"docs/howto/ci.md": make_repository}


def run(command: str) -> tuple[str, int]:
    """Standard output and exit code; `caffeio` alone runs in this process, which saves seconds."""
    shell = NEEDS_A_SHELL.search(re.sub(r"'[^']*'", "", command))
    if shell or "--nproc" in command:
        options: dict[str, Any] = {"args": ["bash", "-euo", "pipefail", "-c", command]}
        if not shell:
            options = warm.caffeio(*shlex.split(command)[1:])
        done = subprocess.run(**options, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            print(done.stderr)
        return done.stdout, done.returncode
    result = CliRunner().invoke(main, shlex.split(command)[1:], prog_name="caffeio")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code:
        print(result.stderr)
    return result.stdout, result.exit_code


def matches(shown: list[str], printed: str) -> bool:
    """Whether the page's output is the real one; `...` stands for anything, blanks do not count."""
    wanted = " ".join(" ".join(shown).split())
    pattern = ".*".join(re.escape(piece.strip()) for piece in wanted.split("..."))
    return re.fullmatch(pattern.strip(), " ".join(printed.split())) is not None


def test_output_is_compared() -> None:
    assert matches(["a  b", "..."], "a b\nc\n") and matches(["x: ... y"], "x: 1 2 y\n")
    assert (
        not matches(["a"], "a b") and not matches(["a ... c"], "a b") and not matches(["b"], "a b")
    )


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=p.relative_to(ROOT).as_posix()) for p in PAGES if runs(p)]
)
def test_page(page: Path, reader: Path) -> None:
    if "torch.export.save" in page.read_text() and not EXPORTS_PROGRAMS:
        pytest.skip(NO_PROGRAMS)
    names: dict[str, object] = {"__name__": "__main__"}
    if prepare := PREPARED.get(page.relative_to(ROOT).as_posix()):
        prepare(reader)
    for block in blocks(page):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        if block.title:
            (reader / block.title).parent.mkdir(parents=True, exist_ok=True)
            (reader / block.title).write_text(block.text)
        elif block.language == "python":
            exec(compile(block.text, where, "exec"), names)  # noqa: S102
        elif block.language == "console":
            for command, shown in commands(block):
                printed, code = run(command)
                assert code == 0, f"{where}: {command!r} ends with {code}: {printed}"
                if shown:
                    assert matches(shown, printed), f"{where}: {command!r} prints\n{printed}"


def test_every_block_is_known() -> None:
    for page in PAGES:
        for block in blocks(page):
            known = {"console", "python", "sh"} | SHOWN
            assert block.language in known, f"{page}:{block.line}: {block.language}"
            if block.language == "sh":
                assert set(block.lines) <= NOT_RUN, f"{page}:{block.line}"


def test_what_is_not_run_is_still_there() -> None:
    lines = {line for page in PAGES for b in blocks(page) if b.language == "sh" for line in b.lines}
    assert lines == NOT_RUN


def test_made_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the site's reference is made of is there, and shows no addresses or missing texts."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_build"))
    pages = importlib.import_module("pages")
    for name in ("cli", "api", "layers", "lint", "profiles"):
        text = getattr(pages, name)()
        assert len(text) > 2000
        assert " at 0x" not in text and "| |\n" not in text
    assert all(f"## caffeio {name}\n" in pages.cli() for name in COMMANDS)


def test_links_lead_somewhere() -> None:
    made = {"fidelity.md", "profiles.md", "cli.md", "api.md", "layers.md", "lint.md"}
    made |= {"contributing.md", "changelog.md", "index.md", "examples.md"}
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w.-]+)?\)", page.read_text(encoding="utf-8")):
            there = (page.parent / target).exists() or Path(target).name in made
            assert there, f"{page.relative_to(ROOT)}: {target} is not there"


def test_pictures_are_small_and_all_shown() -> None:
    pictures = {path.name: path for path in (ROOT / "docs" / "pictures").iterdir()}
    shown = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name, path in pictures.items():
        assert f"pictures/{name})" in shown, f"no page shows {name}"
        assert path.stat().st_size < 300_000
    assert "/tmp" not in pictures["terminal.svg"].read_text()


def test_links_of_the_front_page_as_the_site_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_build"))
    pytest.importorskip("mkdocs")
    hooks = importlib.import_module("hooks")
    text = "![a](docs/pictures/a.png) [b](docs/which.md#x) [c](CONTRIBUTING.md)"
    text += " [d](examples/README.md)"
    assert hooks.site_links(text) == (
        "![a](pictures/a.png) [b](which.md#x) [c](contributing.md) [d](examples.md)"
    )


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.relative_to(ROOT / "docs").as_posix() in text


def test_changelog_has_this_version() -> None:
    from caffeio import __version__

    assert f"\n## {__version__} - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
