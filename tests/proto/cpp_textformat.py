"""protobuf's C++ TextFormat as an oracle, run in a process of its own.

Reads JSON lines `["encode" | "decode", message type, data in base64]` from a file, answers with
JSON lines `[exit code, output in base64, error text]`. What answers is the protoc of grpcio-tools.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from caffeio.proto import caffe_pb2


def descriptor_set(types: list[str]) -> bytes:
    """The canonical schema, cut down to some message types so that protoc starts quickly."""
    file = descriptor_pb2.FileDescriptorProto.FromString(caffe_pb2.DESCRIPTOR.serialized_pb)
    kept = [m for m in file.message_type if m.name in types]
    names = {f".caffeio.{m.name}" for m in kept}
    for message in kept:
        fields = [
            f
            for f in message.field
            if f.type != f.TYPE_MESSAGE or ".".join(f.type_name.split(".")[:3]) in names
        ]
        del message.field[:]
        message.field.extend(fields)
    del file.message_type[:]
    file.message_type.extend(kept)
    out = descriptor_pb2.FileDescriptorSet()
    out.file.append(file)
    return out.SerializeToString()


def run(set_path: str, name: str, mode: str, kind: str, data: bytes) -> tuple[int, bytes, str]:
    """One run of protoc in this process, its standard streams turned to files."""
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        files[0].write(data)
        files[0].seek(0)
        saved = [os.dup(k) for k in range(3)]
        for k, file in enumerate(files):
            os.dup2(file.fileno(), k)
        try:
            code = protoc.main(
                ["protoc", f"--descriptor_set_in={set_path}", f"--{mode}=caffeio.{kind}", name]
            )
        finally:
            for k, descriptor in enumerate(saved):
                os.dup2(descriptor, k)
                os.close(descriptor)
        for file in files:
            file.seek(0)
        return code, files[1].read(), files[2].read().decode(errors="replace")


def main(cases: str, answers: str, types: list[str]) -> None:
    with tempfile.NamedTemporaryFile(suffix=".bin") as schema:
        schema.write(descriptor_set(types))
        schema.flush()
        name = caffe_pb2.DESCRIPTOR.name
        with open(answers, "w", encoding="utf-8") as out:
            for line in Path(cases).read_text(encoding="utf-8").splitlines():
                mode, kind, data = json.loads(line)
                answer = run(schema.name, name, mode, kind, base64.b64decode(data))
                code, output, error = answer
                out.write(json.dumps([code, base64.b64encode(output).decode(), error]) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
