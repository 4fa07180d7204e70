"""Print the lowest versions that pyproject.toml promises, as constraints for pip."""

import re
import tomllib
from pathlib import Path


def floors(pyproject: Path) -> list[str]:
    """Return `name>=lowest,<lowest.1` for every dependency and extra with a lowest version."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        wanted += extra
    found = {}
    for requirement in wanted:
        match = re.match(r"([A-Za-z0-9_.-]+)>=([0-9][^,; ]*)", requirement)
        if match:
            found[match[1].lower()] = match[2]
    return [f"{name}>={version},<{version}.1" for name, version in sorted(found.items())]


if __name__ == "__main__":
    print("\n".join(floors(Path(__file__).resolve().parent.parent / "pyproject.toml")))
