"""Make proto/caffe.proto and compile it before hatchling collects the files."""

import os
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LINKED = ("proto", "converters", "cli")  # top-level folders that are part of the package


class ProtoHook(BuildHookInterface[Any]):
    """Write `caffe.proto`, `caffe_pb2.py` and `caffe_pb2.pyi`; a broken schema fails the build."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Repair links that a zip or Windows has lost, run the schema generator and protoc."""
        root = Path(self.root)
        for name in LINKED:
            link_folder(root / "caffeio" / name, root / name)
        folder = root / "caffeio" / "proto"
        runpy.run_path(str(folder / "dialect" / "schema.py"), run_name="__main__")
        args = [f"-I{root}", f"--python_out={root}", f"--pyi_out={root}"]
        if protoc.main(["protoc", *args, str(folder / "caffe.proto")]):
            raise SystemExit("protoc failed")
        if self.target_name == "sdist":
            build_data["force_include"].update(own_files(root))
        else:
            build_data["artifacts"] += ["caffe.proto", "*_pb2.py", "*_pb2.pyi"]


def own_files(root: Path) -> dict[str, str]:
    """Map the files of the linked folders to their places in an sdist, where no link goes.

    Hatchling walks every folder once, by whichever name it meets first: the links' names.
    """
    files: dict[str, str] = {}
    for name in LINKED:
        for path in sorted((root / name).rglob("*")):
            made = path.parent.name == "__pycache__" or path.stem.endswith("_pb2")
            if path.is_file() and not made:
                files[str(path)] = path.relative_to(root).as_posix()
    return files


def link_folder(link: Path, target: Path) -> None:
    """Let the folder `link` be `target`: a link, a junction on Windows, else a copy.

    A tree without symbolic links (a zip, a clone on Windows, an sdist) has a small text file or
    nothing in the place of each link.
    """
    if link.is_dir():
        return
    if not target.is_dir():
        raise SystemExit(f"{target} is missing: this is no complete tree of caffeio")
    link.unlink(missing_ok=True)
    try:
        os.symlink(os.path.join("..", target.name), link, target_is_directory=True)
    except (OSError, NotImplementedError):
        if sys.platform == "win32":
            import _winapi  # a junction needs no privilege

            _winapi.CreateJunction(str(target), str(link))
        else:
            shutil.copytree(target, link)
