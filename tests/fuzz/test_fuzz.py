from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import warm
from tests.fuzz.run import mutate
from tests.fuzz.targets import TARGETS, good_files, run_one, seeds
from tests.paths import NIGHT, ROOT

CORPUS = sorted(p for p in (Path(__file__).parent / "corpus").glob("*/*") if p.is_file())


@pytest.mark.parametrize("path", CORPUS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_found_cases(path: Path) -> None:
    """Inputs that once broke a reader."""
    run_one(TARGETS[path.parent.name][0], path.read_bytes())


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_good_files_and_mutations(name: str) -> None:
    target, good, rng = TARGETS[name][0], seeds(name), random.Random(1)
    assert good_files(name)
    for data in good_files(name):
        target(data)
    for _ in range(1500 if NIGHT else 800):
        run_one(target, mutate(rng.choice(good), good, rng))


@pytest.mark.parametrize("name", sorted(TARGETS))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.data())
def test_hypothesis(name: str, data: st.DataObject) -> None:
    """Any bytes, and a good file with any bytes put over a part of it."""
    good = data.draw(st.sampled_from(seeds(name)) | st.just(b""))
    at = data.draw(st.integers(0, len(good)))
    patch = data.draw(st.binary(max_size=64))
    run_one(TARGETS[name][0], good[:at] + patch + good[at + len(patch) :])


def test_the_runner() -> None:
    options = warm.command(str(ROOT / "tests" / "fuzz" / "run.py"), "blobproto", "--runs", "200")
    result = subprocess.run(**options, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith("blobproto: 200 runs, 0 cases")
