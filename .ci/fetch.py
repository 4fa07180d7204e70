"""Say how much an installation will fetch, before it begins: the wheels that pip would take.

Usage: fetch.py PYTHON PIP_ARGS... It resolves what pyproject.toml asks for in the environment of
PYTHON, without installing anything, and adds up the sizes of the files that are not there yet.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
CPU = "PIP_ARGS='--extra-index-url https://download.pytorch.org/whl/cpu'"


def wanted(root: Path) -> list[str]:
    """Everything that the environment of `make` needs: dependencies, all extras, the dev group."""
    text = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    project = text["project"]
    found = [*project["dependencies"], *text["dependency-groups"]["dev"]]
    for extra in project["optional-dependencies"].values():
        found += [name for name in extra if not name.startswith("caffeio[")]
    return found


def resolve(python: str, arguments: list[str]) -> list[dict[str, str]]:
    """The files that pip would fetch, name and url of each. Raises OSError, SubprocessError."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [python, "-m", "pip", "install", "--quiet", "--dry-run", "--report", str(report)]
        command += ["--timeout", "10", "--retries", "1"]
        command += ["--constraint", str(ROOT / "constraints.txt"), *arguments, *wanted(ROOT)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=90)
        installs = json.loads(report.read_text(encoding="utf-8"))["install"]
    return [
        {"name": item["metadata"]["name"], "url": item["download_info"]["url"]} for item in installs
    ]


def size_of(url: str) -> int | None:
    """The bytes of a file; None if it is not told."""
    parts = urlsplit(url)
    try:
        if parts.scheme == "file":
            return 0  # it is here already
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.headers["Content-Length"])
    except (OSError, TypeError, ValueError):
        return None


def words(files: list[dict[str, str]], sizes: list[int | None]) -> str:
    """What is fetched, in one or two sentences."""
    if not files:
        return "Nothing is to be fetched: all packages are here."
    known = [size for size in sizes if size is not None]
    text = f"This fetches {len(files)} packages, {sum(known) / 1e6:,.0f} MB"
    if len(known) < len(sizes):
        text += f" and {len(sizes) - len(known)} of unknown size"
    ranked = sorted(zip(sizes, files, strict=True), key=lambda pair: -(pair[0] or 0))[:3]
    large = [f"{file['name']} {size / 1e6:,.0f}" for size, file in ranked if size and size > 3e7]
    text += f" (the largest: {', '.join(large)})." if large else "."
    cuda = [size or 0 for size, file in zip(sizes, files, strict=True) if is_cuda(file)]
    if cuda:
        text += f"\n{sum(cuda) / 1e6:,.0f} MB of it are CUDA. Without a GPU: {CPU}"
    return text


def is_cuda(file: dict[str, str]) -> bool:
    """Whether only a GPU needs a package."""
    name, url = file["name"].lower(), unquote(file["url"])
    return name.startswith(("nvidia-", "cuda-", "triton")) or (name == "torch" and "+cu" in url)


def main() -> None:
    """Print it; an installation is never held up by this."""
    python, *arguments = sys.argv[1:]
    try:
        files = resolve(python, arguments)
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        print("How much will be fetched could not be found out beforehand.", flush=True)
        return
    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(lambda file: size_of(file["url"]), files))
    print(words(files, sizes), flush=True)


if __name__ == "__main__":
    main()
