"""Fuzz a reader until it breaks: python tests/fuzz/run.py TARGET [--runs N] [--seconds S]

With `--atheris` (pip install atheris) the inputs follow the code's coverage, and further arguments
go to libFuzzer; without it they are mutations of good files. Inputs that make a target raise
anything but CaffeIOError, take more than 5 s, or need more than 1 GB are written to corpus/TARGET.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
if "--atheris" in sys.argv:  # what is imported here, and nothing else, is followed
    import atheris

    with atheris.instrument_imports(include=["caffeio", "zipfile"]):
        from tests.fuzz.targets import TARGETS, run_one, seeds
else:
    from tests.fuzz.targets import TARGETS, run_one, seeds

INTERESTING = (0, 1, 2, 4, 0x7F, 0x80, 0xFF, 0x0A, 0x2A, 0x2D, 0x3A, 0x42, 0x52, 0x62, 0xA2)
VARINTS = (b"\xff" * 9 + b"\1", b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x10", b"\xff\x7f")
# Bytes of an input, where long ones are slow and find no more: those of the campaigns
LENGTHS = {"nets": 250, "text": 250, "weights": 300}


class Hang(BaseException):
    """A run takes too long."""


def mutate(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One to eight small changes, half of the times such that every other byte keeps its place."""
    out = bytearray(data)
    kinds = 3 if rng.random() < 0.5 else 9
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(kinds):
            case 0 if out:
                out[at % len(out)] ^= 1 << rng.randrange(8)
            case 1 if out:
                out[at % len(out)] = rng.choice(INTERESTING)
            case 2:
                begin = rng.randrange(len(out) + 1)
                piece = out[begin : begin + rng.choice((1, 2, 4, 8, 40))]
                out[at : at + len(piece)] = piece[: len(out) - at]
            case 7:
                del out[at : at + rng.choice((1, 2, 4, 8, 100))]
            case 3:
                out[at:at] = bytes(rng.choice(INTERESTING) for _ in range(rng.randint(1, 9)))
            case 4:
                other = rng.choice(others)
                begin = rng.randrange(len(other) + 1)
                out[at:at] = other[begin : begin + rng.randint(1, 200)]
            case 5:
                out[at : at + rng.randint(0, 4)] = rng.choice(VARINTS)
            case 6:
                del out[at:]
            case _:
                piece = out[at : at + rng.randint(1, 64)]
                out[at:at] = piece * rng.randint(1, 20)
    return bytes(out[: 1 << 16])


def keep(name: str, data: bytes, why: str) -> None:
    """Write a found case to the corpus."""
    folder = Path(__file__).parent / "corpus" / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha1(data).hexdigest()[:12]
    path.write_bytes(data)
    print(f"{path}: {why}", flush=True)


def alarm(number: int, frame: FrameType | None) -> None:
    """Stop a run."""
    raise Hang


def plain(name: str, runs: int, seconds: float, seed: int) -> int:
    """Mutate good files; return how many cases were found."""
    target, rng, good = TARGETS[name][0], random.Random(seed), seeds(name)
    pool, found, begin, done = list(good), 0, time.monotonic(), 0
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), used + (1 << 30)))
    signal.signal(signal.SIGALRM, alarm)
    while done < runs and time.monotonic() - begin < seconds:
        data = mutate(rng.choice(pool), good, rng)
        done += 1
        signal.setitimer(signal.ITIMER_REAL, 5)
        try:
            run_one(target, data)
        except (Exception, Hang):  # noqa: BLE001 any other error is a find
            found += 1
            keep(name, data, traceback.format_exc())
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if rng.random() < 0.001:  # go further from the good files now and then
            pool.append(data)
            if len(pool) > len(good) + 200:
                pool.pop(len(good))
    spent = time.monotonic() - begin
    print(f"{name}: {done} runs, {found} cases, {done / spent:.0f} a second", flush=True)
    return found


def guided(name: str, arguments: list[str]) -> None:
    """Let atheris follow the coverage; it stops at the first case."""
    import atheris

    target = TARGETS[name][0]
    signal.signal(signal.SIGVTALRM, alarm)

    def timed(data: bytes) -> None:
        """Run the target for at most 5 s of CPU: a busy machine makes no find."""
        signal.setitimer(signal.ITIMER_VIRTUAL, 5)
        run_one(target, data)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    folder = Path(__file__).parent / "corpus" / name
    folder.mkdir(parents=True, exist_ok=True)
    start = Path("/tmp") / f"caffeio-fuzz-{name}"
    start.mkdir(exist_ok=True)
    for data in seeds(name):
        (start / hashlib.sha1(data).hexdigest()).write_bytes(data)
    options = ["-timeout=600", "-rss_limit_mb=2000", f"-artifact_prefix={folder}/"]
    if name in LENGTHS:
        options.append(f"-max_len={LENGTHS[name]}")
    atheris.Setup([sys.argv[0], *options, *arguments, str(start)], timed)
    atheris.Fuzz()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atheris", action="store_true")
    options, rest = parser.parse_known_args()
    if options.atheris:
        guided(options.target, rest)
    else:
        sys.exit(bool(plain(options.target, options.runs, options.seconds, options.seed)))


if __name__ == "__main__":
    main()
