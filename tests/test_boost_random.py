"""Caffe's random numbers: streams of real Caffe, and rules that hold for every seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffeio.boost_random import CaffeRng
from tests.paths import GOLDEN

FILLERS = GOLDEN / "random" / "fillers"


def test_uniform_stream_of_real_caffe() -> None:
    with np.load(FILLERS / "stream_uniform01.npz") as file:
        seed, want = int(file["random_seed"]), file["param/x/0"].ravel()
    assert np.array_equal(CaffeRng(seed).uniform(0, 1, want.size), want)


def test_gaussian_stream_of_real_caffe() -> None:
    with np.load(FILLERS / "stream_gaussian.npz") as file:
        seed, want = int(file["random_seed"]), file["param/x/0"].ravel()
    assert np.array_equal(CaffeRng(seed).gaussian(0, 1, want.size), want)


def test_words_are_those_of_the_mersenne_twister() -> None:
    # the 10000th word of mt19937 with the default seed 5489 is fixed by the C++ standard
    assert int(CaffeRng(5489).raw(10000)[-1]) == 4123659995


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 900), min_size=1, max_size=8))
def test_gaussian_does_not_depend_on_how_it_is_cut(seed: int, sizes: list[int]) -> None:
    cut = CaffeRng(seed)
    parts = np.concatenate([cut.gaussian(1, 2, n) for n in sizes])
    whole = CaffeRng(seed)
    assert np.array_equal(parts, whole.gaussian(1, 2, sum(sizes)))
    assert cut.raw() == whole.raw()  # as many words used


def test_rare_branches_of_the_ziggurat_agree_one_by_one() -> None:
    one = CaffeRng(3)
    slow = np.array([one._one_normal() for _ in range(40000)])
    fast = CaffeRng(3)
    assert np.array_equal(slow, fast.gaussian(0, 1, 40000))
    assert np.abs(slow).max() > 3.4426198  # the tail was visited
    assert one.raw() == fast.raw()


def test_gaussian_moments() -> None:
    values = CaffeRng(11).gaussian(0, 1, 400_000).astype(np.float64)
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.005
    assert abs((values**4).mean() - 3) < 0.05
    assert abs((np.abs(values) > 3.5).mean() - 4.65e-4) < 1.5e-4


@pytest.mark.parametrize("n", [0, 1, 2, 3, 17, 1000])
def test_shuffle_is_boosts(n: int) -> None:
    items = list(range(n))
    mine = CaffeRng(n)
    mine.shuffle(items)
    words, want = CaffeRng(n), list(range(n))
    for i in range(n - 1, 0, -1):
        bucket = 4294967295 // (i + 1) + (4294967295 % (i + 1) == i)
        while (j := words.raw() // bucket) > i:
            pass
        want[i], want[j] = want[j], want[i]
    assert items == want
    assert mine.raw() == words.raw()


def test_bernoulli_compares_in_the_type_of_p() -> None:
    words = CaffeRng(1).raw(2000)
    assert np.array_equal(CaffeRng(1).bernoulli(0.3, 2000), words <= 0.3 * 4294967295)
    p = np.float32(0.3)
    want = words.astype(np.float32) <= p * np.float32(4294967295)
    assert np.array_equal(CaffeRng(1).bernoulli(p, 2000), want)
    none = CaffeRng(1)
    assert not none.bernoulli(0, 5).any()
    assert none.raw() == words[0]  # nothing was drawn


def test_uniform_reaches_its_upper_limit() -> None:
    values = CaffeRng(2).uniform(1, np.nextafter(np.float32(1), np.float32(2)), 1000)
    assert set(values.tolist()) == {1.0, float(np.nextafter(np.float32(1), np.float32(2)))}


def test_seeds_are_cut_to_32_bits() -> None:
    assert CaffeRng(2**32 + 7).raw() == CaffeRng(7).raw()
    assert CaffeRng(-1).raw() == CaffeRng(2**32 - 1).raw()
