"""Make proto/caffe.proto and compile it before hatchling collects the files."""

import runpy
from pathlib import Path
from typing import Any

from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ProtoHook(BuildHookInterface[Any]):
    """Write `caffe.proto`, `caffe_pb2.py` and `caffe_pb2.pyi`; a broken schema fails the build."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Run the schema generator and protoc."""
        root = Path(self.root)
        folder = root / "caffeio" / "proto"
        if not (folder / "dialect" / "schema.py").exists():
            raise SystemExit(
                "caffeio/proto is not a link to proto/: this clone was made without symbolic "
                "links; clone again with `git clone -c core.symlinks=true`"
            )
        runpy.run_path(str(folder / "dialect" / "schema.py"), run_name="__main__")
        args = [f"-I{root}", f"--python_out={root}", f"--pyi_out={root}"]
        if protoc.main(["protoc", *args, str(folder / "caffe.proto")]):
            raise SystemExit("protoc failed")
        build_data["artifacts"] += ["caffe.proto", "*_pb2.py", "*_pb2.pyi"]
