"""Prepared nets that run on a few images at a time: the numbers of the layers as written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caffeio import load_net
from caffeio.net import Net, image_slices
from caffeio.net.image_slices import ImageSlices
from caffeio.ops.folded_conv import FoldedConvolution
from tests.net.test_prepared import CHAINS, INPUT, built, compare, conv, layer, norm
from tests.net.test_prepared import given as inputs_of

POOL = "pooling_param { kernel_size: 3 stride: %d pad: 1 }"


@pytest.fixture(autouse=True)
def one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads there are."""
    monkeypatch.setattr(image_slices, "A_THREAD", 0)


def groups(net: Net) -> list[ImageSlices]:
    assert net._inference is not None and net._inference._prepared is not None
    return [part for part in net._inference._prepared._parts if isinstance(part, ImageSlices)]


def counts(net: Net) -> list[tuple[int, ...]]:
    """How many images each slice of each group has."""
    return [group._plan.counts for group in groups(net)]


def names(net: Net) -> list[str]:
    """The layers that run on slices."""
    found = []
    for group in groups(net):
        plan = group._plan
        if plan.counts:
            found += [each.step.node.name for each in group._group[plan.first : plan.last]]
    return found


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("name", CHAINS)
@torch.no_grad()
def test_slices_give_the_numbers_of_the_layers(
    name: str, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five images, one at a time or two; sums in place and ReLUs in place among them."""
    monkeypatch.setattr(image_slices, "BUDGET", 1)
    if images == 2:
        monkeypatch.setattr(image_slices, "ceil", lambda parts: 3)
    net = built(INPUT % "dim: 5 dim: 4 dim: 9 dim: 8" + CHAINS[name][0])
    compare(net, inputs_of(net))


MODULE = (  # a part of an Inception net, with what makes less of it behind it
    conv("a", "x", "a", "kernel_size: 1", 8) + layer("ra", "ReLU", "a", "a")
    + conv("b", "x", "b", "kernel_size: 1", 4) + layer("rb", "ReLU", "b", "b")
    + conv("c", "b", "c", "kernel_size: 3 pad: 1", 8) + layer("rc", "ReLU", "c", "c")
    + layer("p", "Pooling", "x", "p", POOL % 1) + conv("d", "p", "d", "kernel_size: 1", 4)
    + layer("cat", "Concat", "a c d", "cat") + layer("down", "Pooling", "cat", "down", POOL % 4)
    + conv("e", "down", "e", "kernel_size: 1", 40)
    + layer("i", "InnerProduct", "e", "i", "inner_product_param { num_output: 3 }")
)  # fmt: skip


@torch.no_grad()
def test_what_is_large_runs_on_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first large layer to the last, and on while less is left; slices are alike."""
    net = built(INPUT % "dim: 9 dim: 4 dim: 16 dim: 16" + MODULE)
    inputs = inputs_of(net)
    net(inputs)
    assert counts(net) == [()] and names(net) == []
    monkeypatch.setattr(image_slices, "BUDGET", 4 * 256 * (20 + 20) * 2)  # two of the largest
    net.prepare()
    net(inputs)
    assert counts(net) == [(2, 2, 2, 2, 1)]
    assert names(net) == ["a", "b", "c", "p", "d", "cat", "down"]
    convs: list[Any] = [
        each.run for each in groups(net)[0]._group if isinstance(each.run, FoldedConvolution)
    ]
    assert [len(each._packed) for each in convs] == [2, 2, 2, 2, 1]
    compare(net, inputs)
    net.prepare()
    half = {"x": inputs["x"][:8].contiguous()}
    net(half)
    assert counts(net) == [(2, 2, 2, 2)]
    compare(net, half)


@torch.no_grad()
def test_other_sizes_get_other_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shapes of the prototxt are not those of the inputs; threads count, one image is whole."""
    monkeypatch.setattr(image_slices, "BUDGET", 4 * 256 * (20 + 20) * 3)
    net = built(INPUT % "dim: 1 dim: 4 dim: 8 dim: 8" + MODULE.replace('"InnerProduct"', '"ReLU"'))
    for shape, wanted in (
        ((10, 4, 16, 16), (3, 3, 2, 2)), ((10, 4, 8, 8), ()), ((10, 4, 32, 16), (1,) * 10),
        ((1, 4, 64, 64), ()), ((12, 4, 16, 16), (3,) * 4),
    ):  # fmt: skip
        net({"x": torch.randn(shape)})
        assert counts(net) == [wanted]
        compare(net, {"x": torch.randn(shape)})
        net.prepare()
    monkeypatch.setattr(image_slices, "A_THREAD", 4 * 256 * 40 * 6)
    net({"x": torch.randn(10, 4, 16, 16)})
    assert counts(net) == [(5, 5)] if torch.get_num_threads() == 1 else [()]


@pytest.mark.parametrize(
    "text",
    [
        conv("c", "x", "c") + layer("k", "Concat", "x c", "k", "concat_param { axis: 0 }"),
        conv("c", "x", "c") + layer("b", "Reshape", "c", "b", "reshape_param { shape { dim: 2 "
                                    "dim: 12 dim: 9 dim: 8 } }"),
        conv("c", "x", "c") + layer("s", "Scale", "c", "s", "scale_param { axis: 0 }"),
        conv("c", "x", "c") + layer("s", "Softmax", "c", "s", "softmax_param { axis: 0 }"),
        conv("c", "x", "c") + layer("m", "MVN", "c", "m", "mvn_param { across_channels: true }"),
    ],
)  # fmt: skip
@torch.no_grad()
def test_layers_that_join_images_see_them_all(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_slices, "BUDGET", 1)
    net = built(INPUT % "dim: 6 dim: 4 dim: 9 dim: 8" + text)
    inputs = inputs_of(net)
    net(inputs)
    assert names(net) == ["c"]
    compare(net, inputs)


@torch.no_grad()
def test_inputs_of_other_batches_run_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broadcast that the layers as written take, they take prepared."""
    monkeypatch.setattr(image_slices, "BUDGET", 1)
    two = INPUT % "dim: 4 dim: 4 dim: 9 dim: 8" + (INPUT % "dim: 4 dim: 4 dim: 9 dim: 8").replace(
        '"x"', '"y"'
    )
    net = built(two + conv("c", "x", "c") + layer("e", "Eltwise", "c y", "e"))
    net(inputs_of(net))
    assert counts(net) == [(1, 1, 1, 1)]
    net({"x": torch.randn(4, 4, 9, 8), "y": torch.randn(1, 4, 9, 8)})
    assert counts(net) == [()]


@torch.no_grad()
def test_images_without_values_run_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_slices, "BUDGET", 1)
    net = built(INPUT % "dim: 4 dim: 4 dim: 9 dim: 8" + layer("r", "ReLU", "x", "r"))
    net(inputs_of(net))
    assert counts(net) == [(1, 1, 1, 1)]
    assert net({"x": torch.empty(4, 4, 0, 8)})["r"].shape == (4, 4, 0, 8)


@torch.no_grad()
def test_another_thread_may_run_another_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the plan and its use."""
    monkeypatch.setattr(image_slices, "BUDGET", 1)
    net = built(INPUT % "dim: 5 dim: 4 dim: 9 dim: 8" + conv("c", "x", "c"))
    inputs = inputs_of(net)
    wanted = net(inputs)["c"].clone()
    others: list[torch.Tensor] = []
    threads = torch.get_num_threads()

    class Interrupted(int):
        def __eq__(self, other: object) -> bool:
            if not others:
                others.append(net({"x": inputs["x"][:2]})["c"])
            return int(self) == other

        __hash__ = int.__hash__

    numbers = iter([Interrupted(threads)])
    monkeypatch.setattr(torch, "get_num_threads", lambda: next(numbers, threads))
    assert torch.equal(net(inputs)["c"], wanted)
    assert others[0].shape[0] == 2


KINDS = (
    'Convolution kernel_size: 1', 'Convolution kernel_size: 3 pad: 1',
    'Convolution kernel_size: 3 pad: 1 group: 4', 'ReLU', 'Norm', 'Concat', 'Eltwise', 'LRN',
    'Pooling', 'Sigmoid', 'PReLU', 'Softmax',
)  # fmt: skip
LINKS = st.tuples(st.sampled_from(KINDS), st.integers(0, 99), st.integers(0, 99), st.booleans())


def random_net(links: list[tuple[str, int, int, bool]], batch: int) -> str:
    """Layers on any earlier blobs, so that many have the same bottom; in place where it may be."""
    text, live, widths = INPUT % f"dim: {batch} dim: 4 dim: 6 dim: 5", ["x"], {"x": 4}
    read = {"x"}  # Caffe refuses to write over what another layer reads
    for number, (kind, first, second, in_place) in enumerate(links):
        name = f"b{number}"
        bottom, other = live[first % len(live)], live[second % len(live)]
        kind, _, rest = kind.partition(" ")
        width = widths[bottom]
        if kind == "Convolution":
            width = 4 * (1 + second % 3)
            text += conv(name, bottom, name, rest, width)
        elif kind in ("ReLU", "Norm", "Sigmoid") and in_place and bottom not in read:
            name = bottom
            text += norm(name, f"n{number}") if kind == "Norm" else layer(
                f"l{number}", kind, name, name)  # fmt: skip
        elif kind == "Norm":
            text += norm(bottom, f"n{number}", name)
        elif kind == "Pooling":
            text += layer(name, kind, bottom, name, POOL % 1)
        elif kind in ("Concat", "Eltwise"):
            if kind == "Eltwise" and widths[other] != width:
                other = bottom
            width += widths[other] if kind == "Concat" else 0
            text += layer(name, kind, f"{bottom} {other}", name)
        else:
            text += layer(name, kind, bottom, name)
        if name not in live:
            live.append(name)
        widths[name] = width
        read |= {bottom, other} - {name}
    return text


@settings(max_examples=60, deadline=None)
@given(
    st.lists(LINKS, min_size=2, max_size=9), st.integers(2, 5), st.sampled_from((1, 6_000, 20_000))
)
def test_random_nets_with_shared_bottoms(
    links: list[tuple[str, int, int, bool]], batch: int, budget: int
) -> None:
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(image_slices, "BUDGET", budget)
        net = built(random_net(links, batch))
        compare(net, inputs_of(net))


@torch.no_grad()
def test_a_change_of_weights_reaches_all_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_slices, "BUDGET", 1)
    net = built(INPUT % "dim: 3 dim: 4 dim: 9 dim: 8" + MODULE)
    inputs = inputs_of(net)
    net(inputs)
    assert counts(net) == [(1, 1, 1)]
    net.params["a"][0].mul_(2)
    compare(net, inputs)


@torch.no_grad()
def test_blobs_of_slices_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest blob is never there for all images: what is alive at a time is less."""
    text = INPUT % "dim: 16 dim: 3 dim: 32 dim: 32" + conv("c", "x", "c", n=64)
    text += layer("r", "ReLU", "c", "c") + layer("p", "Pooling", "c", "p", POOL % 2)
    net = load_net(text, seed=1)
    net.keep_blobs = False
    inputs = inputs_of(net)
    sizes = []
    for budget in (1 << 30, 1 << 20):
        monkeypatch.setattr(image_slices, "BUDGET", budget)
        net.prepare()(inputs)
        with torch.profiler.profile(profile_memory=True) as profiler:
            net(inputs)
        events = profiler.profiler.kineto_results.events()
        taken = [each.nbytes() for each in events if each.name() == "[memory]"]
        level = peak = 0
        for size in taken:
            level += size
            peak = max(peak, level)
        sizes.append(peak)
    whole = 16 * 64 * 32 * 32 * 4
    assert sizes[1] < whole < sizes[0] and 2 * sizes[1] < sizes[0]
