"""What Caffe keeps for the whole process: mode, device, random numbers, log, ranks of solvers.

Source: src/caffe/common.cpp, python/caffe/_caffe.cpp (InitLog, Log).
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from caffeio.log.glog import Log

if TYPE_CHECKING:
    import torch

    from caffeio.boost_random import CaffeRng

_LEVELS = "IWEF"


@dataclass
class State:
    """One process's settings."""

    gpu_mode: bool = False
    device: int = 0
    rng: CaffeRng | None = None  # Caffe's own generator, once a seed was set
    solver_count: int = 1
    solver_rank: int = 0
    multiprocess: bool = False
    min_level: int = field(default_factory=lambda: _env_level("GLOG_minloglevel", 0))
    warned: bool = False


def _env_level(name: str, default: int) -> int:
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        return default


state = State()


def write_line(line: str) -> None:
    """Write one line of the log to stderr, if its level is wanted."""
    level = _LEVELS.find(line[:1])
    if level < 0 or level >= state.min_level:
        print(line, file=sys.stderr, flush=True)  # noqa: T201


glog = Log(write_line)


def init_log(level: int = 0, to_stderr: bool = True) -> None:
    """Start the log: lines of `level` (0 info, 1 warning, 2 error, 3 fatal) and above are shown.

    Without `to_stderr` Caffe writes files below /tmp; here errors alone are shown then.
    """
    state.min_level = int(level) if to_stderr else max(int(level), 2)


def log(text: str) -> None:
    """Write an information line."""
    glog.info("_caffe.cpp:62", text)


def set_mode_cpu() -> None:
    """Run all nets on the CPU from now on."""
    state.gpu_mode = False


def set_mode_gpu() -> None:
    """Run all nets on the GPU from now on; where there is none, on the CPU with a warning."""
    state.gpu_mode = True


def set_device(device_id: int) -> None:
    """Choose the GPU that set_mode_gpu() uses."""
    state.device = int(device_id)


def compute_device() -> torch.device:
    """The device on which nets run now."""
    import torch

    if not state.gpu_mode:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return gpu()
    if not state.warned:
        state.warned = True
        glog.note("set_mode_gpu(): PyTorch sees no GPU, nets run on the CPU", level="W")
    return torch.device("cpu")


def gpu() -> torch.device:
    """The GPU that was chosen."""
    import torch

    return torch.device("cuda", state.device)


def set_random_seed(seed: int) -> None:
    """Seed fillers, Dropout and data layers: they draw the numbers of a real Caffe."""
    import torch

    from caffeio.boost_random import CaffeRng

    state.rng = CaffeRng(int(seed))
    torch.manual_seed(int(seed))


def solver_count() -> int:
    """How many solvers train together."""
    return state.solver_count


def set_solver_count(count: int) -> None:
    """Say how many solvers train together. Raises RuntimeError for less than one."""
    if int(count) < 1:
        raise RuntimeError(f"set_solver_count: at least 1 solver was expected, not {count}")
    state.solver_count = int(count)


def solver_rank() -> int:
    """Which of the solvers this process is."""
    return state.solver_rank


def set_solver_rank(rank: int) -> None:
    """Say which of the solvers this process is; only rank 0 logs its nets and writes snapshots."""
    state.solver_rank = int(rank)


def set_multiprocess(value: bool) -> None:
    """Say whether the solvers are processes of their own."""
    state.multiprocess = bool(value)
