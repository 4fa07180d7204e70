"""The model of docs/scaling.md: its limits, and the published runs that it must repeat."""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import replace
from types import ModuleType

import pytest

from tests.paths import ROOT


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scaling", ROOT / "benchmarks" / "scaling.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scaling"] = module
    spec.loader.exec_module(module)
    return module


scaling = _load()


def test_one_worker_exchanges_nothing() -> None:
    found = scaling.step(32, 1, scaling.Cluster(rate=100, fixed=0.1))
    assert found.exchange == found.exposed == found.waiting == 0
    assert found.seconds == pytest.approx(0.32 + 0.1)


def test_a_ring_is_bound_by_bandwidth_and_a_tree_by_latency() -> None:
    # 100 MB at 1 GB/s: each byte goes there and back once, however many workers there are
    assert scaling.ring(1e8, 1000, 1e9, 0) == pytest.approx(0.2, rel=0.002)
    assert scaling.ring(0, 1000, 1e9, 1e-6) == pytest.approx(2 * 999e-6)
    assert scaling.tree(0, 1024, 1e9, 1e-6) == pytest.approx(20e-6)
    cluster = scaling.Cluster(rate=1, link=1e9, latency=1e-6)
    assert scaling.all_reduce(8, 1024, cluster) < scaling.ring(8, 1024, 1e9, 1e-6)


def test_workers_of_a_node_share_its_link() -> None:
    apart = scaling.Cluster(rate=1, link=1e9, local=1, latency=0)
    together = replace(apart, local=8, inner=1e12)
    assert scaling.all_reduce(1e8, 8, together) < scaling.all_reduce(1e8, 8, apart) / 100


def test_the_last_bucket_hides_behind_nothing() -> None:
    quick = scaling.Cluster(rate=1e9, link=1e9, latency=0)  # no backward pass to hide behind
    slow = scaling.Cluster(rate=10, link=1e9, latency=0)
    assert scaling.step(32, 2, quick).exposed == pytest.approx(scaling.step(32, 2, quick).exchange)
    bucket = scaling.all_reduce(scaling.LAST_BUCKET, 2, slow)
    assert scaling.step(32, 2, slow).exposed == bucket
    assert scaling.step(32, 2, replace(slow, overlap=False)).exposed > bucket


def test_the_slowest_of_many_is_waited_for() -> None:
    cluster = scaling.Cluster(rate=100, scatter=0.02)
    few, many = (scaling.step(32, n, cluster).waiting for n in (2, 1024))
    assert few < many == pytest.approx(0.02 * 0.32 * math.sqrt(2 * math.log(1024)))


def test_the_published_runs_are_repeated() -> None:
    fitted = scaling.fit_published()
    for run in scaling.PUBLISHED:
        rate = scaling.step(run.images, run.nodes, fitted).rate
        assert rate == pytest.approx(run.rate, rel=1e-3)
    assert fitted.rate > 98.5 and 0 < fitted.fixed < 0.65


def test_an_update_is_the_recipes_on_small_clusters() -> None:
    cluster = scaling.Cluster(rate=1000)
    one, two = (scaling.recipe_hours(n, 128, cluster) for n in (1, 2))
    images = sum(scaling.PHASES.values()) * scaling.RECIPE_BATCH
    assert one == pytest.approx(images / 1000 / 3600)
    assert 1.9 < one / two <= 2


def test_constants_come_from_two_workers() -> None:
    found = scaling.constants({"small": [2e-4, 2e-4, 9e-4], "large": [0.1002] * 3, "bytes": 1e8})
    assert found.link == pytest.approx(1e9)
    assert found.latency == pytest.approx(1e-4)


def test_what_is_expected_here_adds_up() -> None:
    link = scaling.Cluster(rate=1, link=1e9, latency=1e-4)
    assert scaling.expected(0.2, 0.05, 1, 1e8, link, cores=2) == pytest.approx(0.2)
    two, four = (scaling.expected(0.2, 0.0, n, 1e8, link, cores=2) for n in (2, 4))
    assert two == pytest.approx(0.2 + scaling.all_reduce(1e8, 2, link))
    assert four - 0.2 > 2 * (two - 0.2)  # four share the cores for the exchange, too
    slow = scaling.expected(0.2, 0.05, 2, 1e8, link, cores=2)
    assert slow == pytest.approx(two + 0.2 * 0.05 * math.sqrt(2 * math.log(2)))
    # who waits leaves its core to the slowest
    assert scaling.expected(0.2, 0.05, 4, 1e8, link, cores=2) == pytest.approx(four)


def test_the_scatter_leaves_stalls_out() -> None:
    steady = [1.0 + 0.01 * (i % 5) for i in range(50)]
    assert scaling.scatter_of([*steady, 9.0]) == pytest.approx(scaling.scatter_of(steady), rel=0.3)
    assert scaling.scatter_of([2 * t for t in steady]) == pytest.approx(scaling.scatter_of(steady))


@pytest.mark.parametrize("what", ["predict", "published"])
def test_the_tables_print(
    what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["scaling.py", what])
    scaling.main()
    assert "6,303" in capsys.readouterr().out or what == "predict"
