"""What CI's own scripts say: how much an installation fetches, and which links lead nowhere."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from tests.paths import ROOT


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_fetched_is_said() -> None:
    fetch = script("fetch")
    files = [
        {"name": "torch", "url": "https://x/torch-2.13.0-cp311.whl"},
        {"name": "nvidia-cudnn-cu13", "url": "https://x/nvidia_cudnn.whl"},
        {"name": "six", "url": "https://x/six.whl"},
    ]
    text = fetch.words(files, [900_000_000, 700_000_000, None])
    assert "3 packages, 1,600 MB and 1 of unknown size" in text
    assert "torch 900, nvidia-cudnn-cu13 700" in text
    assert "700 MB of it are CUDA" in text and "download.pytorch.org/whl/cpu" in text
    cpu = [{"name": "torch", "url": "https://x/torch-2.13.0%2Bcpu.whl"}]
    assert "CUDA" not in fetch.words(cpu, [200_000_000])
    assert fetch.is_cuda({"name": "torch", "url": "https://x/torch-2.13.0%2Bcu130.whl"})
    assert "Nothing" in fetch.words([], [])


def test_all_that_make_installs_is_asked_for() -> None:
    wanted = script("fetch").wanted(ROOT)
    for name in ("torch>=", "matplotlib>=", "pytest", "h5py>="):
        assert any(requirement.startswith(name) for requirement in wanted)
    assert not any("caffeio" in requirement for requirement in wanted)


def test_broken_links_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    links = script("links")
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(
        '<a href="sub/a.html#here">1</a><img src="p.png"><a href="https://x.org">2</a>'
        '<a href="#top">'
        '<h1 id="top">'
    )
    (tmp_path / "sub" / "a.html").write_text('<p id="here"><a href="../index.html">')
    (tmp_path / "p.png").touch()
    assert links.main(str(tmp_path)) == 0
    (tmp_path / "sub" / "b.html").write_text('<script src="https://cdn.org/x.js"></script>')
    assert links.main(str(tmp_path)) == 1
    assert "b.html: loads https://cdn.org/x.js from elsewhere" in capsys.readouterr().out
    (tmp_path / "sub" / "b.html").unlink()
    (tmp_path / "p.png").unlink()
    (tmp_path / "sub" / "a.html").write_text('<a href="../gone.html">')
    assert links.main(str(tmp_path)) == 1
    said = capsys.readouterr().out
    assert "index.html: p.png: no such file" in said and "gone.html: no such file" in said
    assert "sub/a.html#here: no such place" in said


def test_only_pages_that_are_gone_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    links = script("links")

    def answer(code: int | None) -> None:
        def urlopen(request: object, timeout: int) -> object:
            if code is None:
                raise OSError("no route")
            raise links.HTTPError("u", code, "", None, None)  # type: ignore[arg-type]

        monkeypatch.setattr(links.urllib.request, "urlopen", urlopen)

    answer(404)
    assert links.gone("https://x.org") == "404"
    for code in (403, 503, None):
        answer(code)
        assert links.gone("https://x.org") is None


def test_the_terminal_session_is_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output keeps its colours and its order; long output is cut; the text is escaped."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_build"))
    cast = importlib.import_module("cast")
    long = "import sys; [print(f'\\x1b[32mline {i} <b>\\x1b[0m') for i in range(40)]"
    cast.main(str(tmp_path / "x.svg"), f'{sys.executable} -c "{long}"', "echo done")
    root = ElementTree.parse(tmp_path / "x.svg").getroot()
    texts = ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0].startswith("$ ") and texts[1] == "line 0 <b>" and texts[-1] == "done"
    assert texts.index("...") == cast.MOST + 1
    assert 'fill="#7ee787"' in (tmp_path / "x.svg").read_text()
