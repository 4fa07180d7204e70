"""Pages that mkdocs makes when it builds the site: nothing of them is in git.

README, CONTRIBUTING and CHANGELOG become pages, links rewritten; the reference is made from
click, docstrings, the layer registry, the lint rules and the profiles; the fidelity table from
the golden cases.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

import fidelity  # noqa: E402
import pages  # noqa: E402

AT_THE_TOP = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
AT_THE_TOP["CHANGELOG.md"] = "changelog.md"
AT_THE_TOP["examples/README.md"] = "examples.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages."""
    made = {
        "reference/cli.md": pages.cli(),
        "reference/api.md": pages.api(),
        "reference/layers.md": pages.layers(),
        "reference/lint.md": pages.lint(),
        "semantics/profiles.md": pages.profiles(),
        "semantics/fidelity.md": pages.fidelity(fidelity.measure()),
    }
    for name, page in AT_THE_TOP.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        made[page] = examples(text) if name.startswith("examples") else site_links(text)
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def examples(text: str) -> str:
    """The examples' own READMEs, one below the other: their links go to the sections."""
    parts = [re.sub(r"\]\(([\w-]+)/README\.md\)", r"](#\1)", text)]
    for path in sorted((ROOT / "examples").glob("*/README.md")):
        body = path.read_text(encoding="utf-8").replace("../../docs/", "")
        head, _, rest = body.partition("\n")
        parts.append(f"#{head} {{ #{path.parent.name} }}\n{rest}")
    return "\n".join(parts)


def site_links(text: str) -> str:
    """Links of a file at the top of the repository, as they are in the site."""

    def moved(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        return f"]({AT_THE_TOP.get(target, target.removeprefix('docs/'))}{anchor})"

    return re.sub(r"\]\(([\w./-]+\.(?:md|png|svg))(#[\w-]+)?\)", moved, text)
