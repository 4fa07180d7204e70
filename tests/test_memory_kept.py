"""Commands that run nets keep the memory that they free; programs around caffeio do not."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from unittest import mock
with mock.patch("caffeio.memory.keep_freed_memory") as keep:
    from caffeio.cli.main import main
    for words in (["train", "none"], ["show", "none"], ["train", "--help"]):
        sys.argv = ["caffeio", *words]
        for arguments in (None, words):
            try:
                main(arguments)
            except SystemExit:
                pass
    print("\\ncalls", keep.call_count)
"""


def answer(code: str, **variables: str) -> str:
    rest = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**rest, **variables}, check=True, capture_output=True,
        text=True,
    )  # fmt: skip
    return done.stdout.split("\n")[-2]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept_unless_the_user_says_otherwise() -> None:
    code = "from caffeio.memory import keep_freed_memory as f; print(f())"
    assert answer(code) == "True"
    assert answer(code, MALLOC_ARENA_MAX="4") == "False"


def test_only_commands_that_run_nets_keep_it() -> None:
    assert answer(PROGRAM) == "calls 1"
