"""`caffeio device-query`."""

from __future__ import annotations

import click

from caffeio.cli._gflags import CaffeCommand
from caffeio.cli._terminal import say

EPILOG = """
\b
Examples:
  caffeio device-query
  caffeio device-query -gpu 0
  caffeio device-query -gpu all
"""


@click.command(epilog=EPILOG, cls=CaffeCommand)
@click.option("--gpu", "-gpu", metavar="all|0,1", default="", help="The GPUs to ask.")
def command(gpu: str) -> None:
    """Say what the GPUs are: Caffe's `caffe device_query`; lines go to stderr.

    Without -gpu no device is asked, as in Caffe.
    """
    from caffeio.errors import CaffeIOError
    from caffeio.gpus import may_be_there
    from caffeio.log.glog import Log

    log = Log(lambda line: say(line, err=True))
    log.info("caffe.cpp:138", f"Querying GPUs {gpu}")
    if not gpu:
        return
    numbers = [] if gpu == "all" else gpu.split(",")
    if not all(text.strip().isdigit() for text in numbers):
        raise click.BadParameter(f"{gpu!r}: all, or numbers like 0,1", param_hint="-gpu")
    nothing = CaffeIOError(f"-gpu {gpu}: this machine has no GPU that torch can use")
    if not may_be_there():
        raise nothing
    import torch

    if not torch.cuda.is_available():
        raise nothing
    count = torch.cuda.device_count()
    chosen = range(count) if gpu == "all" else [int(text) for text in numbers]
    for device in chosen:
        if not 0 <= device < count:
            raise CaffeIOError(f"-gpu {device}: there are {count} GPUs, from 0 to {count - 1}")
        for label, value in facts(device):
            log.info("common.cpp:180", f"{label + ':':<31}{value}")


def facts(device: int) -> list[tuple[str, object]]:
    """What Caffe's DeviceQuery shows, as far as torch tells it."""
    import torch

    found = torch.cuda.get_device_properties(device)
    rows: list[tuple[str, object]] = [
        ("Device id", device),
        ("Major revision number", found.major),
        ("Minor revision number", found.minor),
        ("Name", found.name),
        ("Total global memory", found.total_memory),
        ("Number of multiprocessors", found.multi_processor_count),
    ]
    for label, name in (
        ("Total shared memory per block", "shared_memory_per_block"),
        ("Total registers per block", "regs_per_multiprocessor"),
        ("Warp size", "warp_size"),
    ):
        if hasattr(found, name):
            rows.append((label, getattr(found, name)))
    return rows
