"""What SIGINT, SIGTERM and SIGHUP do to a training, also to one that cannot look at them.

Signals are looked at between iterations, as Caffe does. A training that does not come there (a
long iter_size, an exchange with a worker that is lost, a disk that does not answer) is ended by a
thread of this file: the main thread may be inside of C, where no handler of Python's runs.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from caffeio.training.events import Action

if TYPE_CHECKING:
    from caffeio.training.trainer import Trainer

EFFECTS = {"none": Action.NONE, "snapshot": Action.SNAPSHOT, "stop": Action.STOP}
PATIENCE = 10.0  # seconds from a signal to the end of a training that does not look at it
HURRY = 2.0  # seconds after which the batches of an iteration are given up; a second signal: now


class Signals:
    """Collects signals between the iterations, as Caffe's SignalHandler does."""

    def __init__(self, sigint: str, sighup: str) -> None:
        self.effects: dict[int, Action] = {}
        if hasattr(signal, "SIGHUP"):  # Windows has none
            self.effects[signal.SIGHUP] = EFFECTS[sighup]
        self.effects |= {signal.SIGINT: EFFECTS[sigint], signal.SIGTERM: EFFECTS[sigint]}
        self.pending: list[int] = []
        self.trainer: Trainer | None = None  # what is to be saved
        self._asked: list[tuple[float, int]] = []  # when to stop was asked, and by which signal
        self._over = threading.Event()

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Handle the signals while training; the old handlers come back afterwards."""
        old = {number: signal.signal(number, self._note) for number in self.effects}
        heard, told = socket.socketpair()
        told.setblocking(False)
        before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(target=self._listen, args=(heard,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before)
            self._over.set()
            told.close()
            thread.join()
            heard.close()

    def _note(self, number: int, frame: Any) -> None:
        if number not in self.pending:
            self.pending.append(number)

    def poll(self) -> Action:
        """What is asked for; SIGHUP comes first, one signal a poll."""
        for number in self.effects:
            if number in self.pending:
                self.pending.remove(number)
                return self.effects[number]
        return Action.NONE

    def hurry(self) -> bool:
        """Whether to stop was asked a while ago, or twice: an iteration need not be ended first."""
        return self._waited() > (HURRY if len(self._asked) < 2 else 0)

    def _waited(self) -> float:
        return time.monotonic() - self._asked[0][0] if self._asked else 0.0

    def _listen(self, heard: socket.socket) -> None:
        """Note the signals at once; end a training that does not end by itself."""
        while not self._over.is_set():
            if select.select([heard], [], [], 0.2 if self._asked else None)[0]:
                for number in heard.recv(64):
                    if self.effects.get(number) == Action.STOP:
                        self._asked.append((time.monotonic(), number))
            if self._waited() > (PATIENCE if len(self._asked) < 2 else PATIENCE / 2):
                self._end()

    def _end(self) -> None:
        """Save what can be saved and end; not while a snapshot or an update is being written."""
        trainer, saved = self.trainer, False
        if trainer is not None:
            if trainer.snapshots.writing or not trainer.state.whole:
                return
            trainer.snapshots.rescue_in_time("Told to stop")
            saved = not trainer.world.is_root or trainer.snapshots.last == trainer.iter
        if self._over.is_set():
            return
        number = self._asked[0][1]
        what = "nothing is lost" if saved else "work since the last snapshot is lost"
        where = "" if trainer is None else f" in iteration {trainer.iter}"
        rank = os.environ.get("RANK")
        sys.stderr.write(
            f"Error{f' (worker {rank})' if rank else ''}: ended by {signal.Signals(number).name}"
            f"{where}, which did not come to an end by itself; {what}\n"
        )
        sys.stderr.flush()
        os._exit(0 if saved else 128 + number)
