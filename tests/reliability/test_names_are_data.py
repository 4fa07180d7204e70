"""Names that would steer a terminal, a page or a parser come out harmless in every form."""

from __future__ import annotations

import html
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from caffeio.visible import escaped, json_text, visible
from tests.reliability.forked import HIDDEN, check, run

EVIL = {
    "escape": "a\\033]0;owned\\007\\033[2J",
    "bidi": "a\u202e\u2066b\u200f",
    "markup": "</script><script>alert(1)</script><img src=x onerror=alert(2)>\\\"'`",
    "lines": "a\\n::error file=x::forged\\r\\nb",
    "formula": "=cmd()|' /C calc'!A0",
    "rich": "[red]a[/red] $x^{ %s {0}",
}


@pytest.fixture(params=EVIL)
def net(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name = EVIL[request.param]
    text = f'name: "{name}"\nlayer {{ name: "{name}" type: "Input" top: "{name}" input_param '
    text += "{ shape { dim: 1 dim: 3 } } }\n"
    text += f'layer {{ name: "ip{name}" type: "InnerProduct" bottom: "{name}" top: "o" '
    text += "inner_product_param { num_output: 2 } }\n"
    (tmp_path / "net.prototxt").write_text(text)
    (tmp_path / "odd.prototxt").write_text(text + f'layer {{ name: "{name}" type: "{name}" }}\n')
    return tmp_path


def test_what_comes_out(net: Path) -> None:
    out = {}
    for form in ("", "--tree", "--json", "--html", "--svg", "--dot"):
        out[form] = check(run("show", "net.prototxt", *filter(None, [form]), cwd=net), form).out
    json.loads(out["--json"])
    ElementTree.fromstring(out["--svg"])
    assert "<script>alert" not in out["--html"] and "<img" not in out["--html"]
    assert "Content-Security-Policy" in out["--html"]
    found = check(run("lint", "--format", "github", "odd.prototxt", cwd=net)).out
    assert all(line.startswith("::") for line in found.splitlines())
    assert "\n::error file=x::forged" not in found
    for form in ("json", "sarif"):
        json.loads(check(run("lint", "--format", form, "odd.prototxt", cwd=net)).out)
    check(run("diff", "net.prototxt", "odd.prototxt", cwd=net))
    check(run("layers", "--coverage", ".", cwd=net))
    check(run("time", "odd.prototxt", "--iterations", "1", cwd=net))


def test_escapes() -> None:
    assert visible("a\x1b[2J\n\u202e\udce9") == "a\\x1b[2J\\n\\u202e\\xe9"
    assert escaped("<\x07>\n") == html.escape("<\\x07>\n")
    value = {"a\u202e": ["\x9b", "\x7f", "\U000e0041", "é"]}
    text = json_text(value)
    assert json.loads(text) == value and not HIDDEN.search(text)
