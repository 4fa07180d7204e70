"""Workers look after each other: who gives no sign of life is named, and no worker waits for ever.

Each worker writes a heartbeat into the store that torchrun (or our launcher) keeps, and reads
others'. The heart beats in a thread of its own, so that a long test or a slow disk is no silence;
a process that is stopped, a machine that has gone and a cut cable are.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore

DEFAULT = 300.0  # seconds; a cable that is back sooner does no harm


def watched(rank: int, size: int) -> list[int]:
    """Whom a worker watches: the first one all others, every other the first and the next one.

    So nobody is unwatched, and the store answers some 3 N questions a period, not N x N.
    """
    others = range(1, size) if rank == 0 else sorted({0, (rank + 1) % size})
    return [r for r in others if r != rank]


class Watchdog:
    """The heartbeats of one worker; `rescue` is called before a lost run is ended.

    `end` gets the message, and does not return: the main thread may be inside a collective, which
    nothing can interrupt.
    """

    def __init__(
        self, rank: int, size: int, timeout: float, end: Callable[[str], None] | None = None
    ) -> None:
        self.rank, self.size, self.timeout = rank, size, timeout
        self.rescue: Callable[[], None] = lambda: None
        self._end = end or self._exit
        self._period = min(5.0, timeout / 4)
        self._run = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._touched = time.monotonic()  # when the store answered last
        self._seen = dict.fromkeys(watched(rank, size), ("", self._touched))
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=work, name="caffeio-watchdog", daemon=True)
            for work in (self._beat, self._watch)
        ]

    def start(self) -> None:
        """Begin to beat and to watch."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Beat and watch no more: the run ends, and so may the others'."""
        self._over.set()
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(1.0)  # a question to a store that goes away would be logged

    def _beat(self) -> None:
        """Write our beat and read the others', as long as there is a store."""
        store: TCPStore | None = None
        count = 0
        while not self._over.wait(self._period if count else 0):
            count += 1
            try:
                store = store or self._store()
                own = f"{count} {socket.gethostname()} {os.getpid()}"
                store.set(self._key(self.rank), own)
                self._listen(store)
                self._touched = time.monotonic()
            except (RuntimeError, ValueError, OSError):
                store = None  # the watching thread counts the time

    def _store(self) -> TCPStore:
        return TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False,
            timeout=timedelta(seconds=self.timeout), wait_for_workers=False,
        )  # fmt: skip

    def _key(self, rank: int) -> str:
        return f"caffeio/beat/{self._run}/{rank}"

    def _listen(self, store: TCPStore) -> None:
        """Read the beats of those that have begun, all in one question."""
        others = list(self._seen)
        keys = [self._key(r) for r in others]
        if not store.check(keys):  # somebody has not begun yet
            others = [r for r, key in zip(others, keys, strict=True) if store.check([key])]
        for other, beat in zip(others, self._beats(store, others), strict=True):
            text = beat.decode()
            if text != self._seen[other][0]:
                self._seen[other] = text, time.monotonic()

    def _beats(self, store: TCPStore, ranks: list[int]) -> list[bytes]:
        found: list[bytes] = store.multi_get([self._key(r) for r in ranks]) if ranks else []
        return found

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._over.wait(self._period / 2):
            now = time.monotonic()
            if now - last > 2 * self._period:  # this process itself was stopped
                self._touched = now
                self._seen = {r: (text, now) for r, (text, _) in self._seen.items()}
            last = now
            problem = self.problem(now)
            if problem is not None and not self._over.is_set():
                self.rescue()
                self._end(problem)
                return

    def problem(self, now: float) -> str | None:
        """Who has given no sign of life for `timeout` seconds; None if all is well."""
        if now - self._touched > self.timeout:
            return (
                f"the store at {os.environ.get('MASTER_ADDR')} has not answered for "
                f"{self.timeout:.0f} seconds: worker 0's machine or the way there is lost "
                "(--worker-timeout)"
            )
        for rank, (text, when) in self._seen.items():
            if now - when - (now - self._touched) > self.timeout:
                words = text.split()
                place = f" (host {words[1]}, process {words[2]})" if len(words) == 3 else ""
                return (
                    f"worker {rank}{place} has given no sign of life for {self.timeout:.0f} "
                    "seconds (--worker-timeout)"
                )
        return None

    def _exit(self, problem: str) -> None:
        sys.stderr.write(f"Error (worker {self.rank}): {problem}\n")
        sys.stderr.flush()
        os._exit(2)
