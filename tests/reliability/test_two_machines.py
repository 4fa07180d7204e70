"""Two machines and the cable between them, as network namespaces of this one (root alone may)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests import warm

ENDLESS = ["max_iter=1000000", "display=0", "test_interval=1000000", "test_initialization=false",
           "snapshot=100000"]  # fmt: skip
PORT = "29471"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def enter(namespace: str, then: Callable[[], None] | None) -> None:
    """What `ip netns exec` does, in the process itself."""
    place = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(place, 0x40000000):  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "setns")
    os.close(place)
    if then is not None:
        then()


class Machines:
    """Two namespaces, a and b, and a cable: 10.77.0.1 and 10.77.0.2."""

    def __init__(self) -> None:
        self.names = [f"caffeio-{secrets.token_hex(3)}" for _ in range(2)]
        self.ends = [f"cio{secrets.token_hex(3)}{i}" for i in range(2)]
        self.runs: list[subprocess.Popen[bytes]] = []
        for name in self.names:
            ip("netns", "add", name)
        ip("link", "add", self.ends[0], "type", "veth", "peer", "name", self.ends[1])
        for i, (name, end) in enumerate(zip(self.names, self.ends, strict=True)):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")

    def cable(self, state: str) -> None:
        ip("-n", self.names[0], "link", "set", self.ends[0], state)

    def start(self, *arguments: str) -> None:
        for rank, (name, end) in enumerate(zip(self.names, self.ends, strict=True)):
            env = {
                "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2",
                "MASTER_ADDR": "10.77.0.1", "MASTER_PORT": PORT, "GLOO_SOCKET_IFNAME": end,
            }  # fmt: skip
            words = [word for setting in ENDLESS for word in ("--set", setting)]
            options = warm.caffeio("train", "solver.prototxt", *words, *arguments, env=env)
            begin = partial(enter, name, options.get("preexec_fn"))
            with Path(f"err{rank}").open("wb") as err:
                self.runs.append(subprocess.Popen(**{**options, "preexec_fn": begin}, stderr=err))

    def until_iteration(self, more: int) -> None:
        """Wait until the metrics file has so many further lines."""
        wanted, deadline = self.iterations() + more, time.monotonic() + 120
        while self.iterations() < wanted:
            assert all(run.poll() is None for run in self.runs), self.said(0) + self.said(1)
            assert time.monotonic() < deadline, self.said(0) + self.said(1)
            time.sleep(0.05)

    def iterations(self) -> int:
        return Path("m.jsonl").read_bytes().count(b"\n") if Path("m.jsonl").exists() else 0

    def said(self, rank: int) -> str:
        return Path(f"err{rank}").read_text()

    def close(self) -> None:
        for run in self.runs:
            run.kill()
            run.wait()
        for name in self.names:
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "delete", name)


@pytest.fixture
def machines(training_case: Path) -> Iterator[Machines]:
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need iproute2 and root")
    try:
        made = Machines()
    except (subprocess.CalledProcessError, OSError) as error:
        pytest.skip(f"network namespaces are not allowed here: {error}")
    try:
        yield made
    finally:
        made.close()


@pytest.mark.slow
def test_a_cable_that_is_cut(machines: Machines) -> None:
    """Both machines say in one line that the other one is lost, and end."""
    machines.start("--metrics", "m.jsonl", "--worker-timeout", "5")
    machines.until_iteration(3)
    machines.cable("down")
    for rank, run in enumerate(machines.runs):
        assert run.wait(90) == 2, machines.said(rank)
        said = machines.said(rank)
        assert "Traceback" not in said
        [line] = [line for line in said.splitlines() if line.startswith("Error")]
        assert line.startswith(f"Error (worker {rank}): ") and len(line) > 40
    lost = machines.said(1).splitlines()[-1]
    assert "10.77.0.1" in lost or "worker 0" in lost


@pytest.mark.slow
def test_a_cable_that_comes_back(machines: Machines) -> None:
    """A cut that is shorter than the timeout only costs its time."""
    machines.start("--metrics", "m.jsonl", "--worker-timeout", "60")
    machines.until_iteration(3)
    machines.cable("down")
    time.sleep(4)
    stands = machines.iterations()
    machines.cable("up")
    machines.until_iteration(20)
    assert machines.iterations() > stands
    assert all("Error" not in machines.said(rank) for rank in range(2))
