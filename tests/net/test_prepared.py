"""Nets prepared for inference: the numbers of the layers as written, and when they run so."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from caffeio import load_net
from caffeio.errors import LayerError, NetError
from caffeio.net import Net, image_slices, prepared, watch
from caffeio.net.prepared import can_run_on
from caffeio.net.watch import ArraySamples, TensorSamples
from caffeio.ops import folded_conv, lrn, pooling, quick_dense
from caffeio.ops.folded_conv import FoldedConvolution
from tests.fuzz.golden_nets import arrays_of, cases_of, off_by, under
from tests.harness import assert_close, golden
from tests.net.test_net import CASES, TOLERANCE, ids

INPUT = 'layer { name: "data" type: "Input" top: "x" input_param { shape { %s } } }'
FOUR = INPUT % "dim: 2 dim: 4 dim: 9 dim: 8"


def layer(name: str, kind: str, bottom: str, top: str, rest: str = "") -> str:
    bottoms = " ".join(f'bottom: "{b}"' for b in bottom.split())
    return f'layer {{ name: "{name}" type: "{kind}" {bottoms} top: "{top}" {rest} }}'


def conv(name: str, bottom: str, top: str, rest: str = "kernel_size: 3 pad: 1", n: int = 4) -> str:
    p = f'num_output: {n} weight_filler {{ type: "xavier" }} bias_filler {{ value: 0.25 }} {rest}'
    return layer(name, "Convolution", bottom, top, f"convolution_param {{ {p} }}")


def norm(top: str, name: str = "", into: str = "") -> str:
    into = into or top
    return layer(f"{name}bn", "BatchNorm", top, into) + layer(
        f"{name}sc", "Scale", into, into, "scale_param { bias_term: true }"
    )


def built(text: str, **options: Any) -> Net:
    """A net whose BatchNorms and Scales hold numbers as after a training."""
    net = load_net(text, seed=1, **options)
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for step in net.steps:
            if step.node.type in ("BatchNorm", "Scale"):
                for blob in step.layer.blobs:
                    blob.copy_(torch.rand(blob.shape, generator=random) + 0.5)
    return net


def given(net: Net, seed: int = 5) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {n: torch.randn(net.blob_shapes[n], generator=random) for n in net.inputs}


def folded(net: Net) -> int:
    """How many convolutions the prepared form has."""
    assert net._inference is not None and net._inference._prepared is not None
    program = net._inference._prepared.program
    return sum(isinstance(op.run, FoldedConvolution) for op in program.operations)


def operations(net: Net) -> int:
    assert net._inference is not None and net._inference._prepared is not None
    return len(net._inference._prepared.program.operations)


CHAINS = {  # net behind a 2x4x9x8 input: how many operations are left
    "bn scale relu": (conv("c", "x", "c") + norm("c") + layer("r", "ReLU", "c", "c"), 1),
    "not in place": (
        conv("c", "x", "c") + norm("c", into="d") + layer("r", "ReLU", "d", "e"), 1,
    ),
    "bn alone": (conv("c", "x", "c") + layer("bn", "BatchNorm", "c", "b"), 1),
    "scale alone": (conv("c", "x", "c") + layer("s", "Scale", "c", "c"), 1),
    "leaky": (
        conv("c", "x", "c", "kernel_size: 3 bias_term: false")
        + norm("c") + layer("r", "ReLU", "c", "c", "relu_param { negative_slope: 0.25 }"), 1,
    ),
    "groups": (conv("c", "x", "c", "kernel_size: 2 group: 2 stride: 2") + norm("c"), 1),
    "depthwise": (conv("c", "x", "c", "kernel_size: 3 group: 4 dilation: 2") + norm("c"), 1),
    "two norms": (conv("c", "x", "c") + norm("c") + norm("c", "again"), 2),
    "relu first": (conv("c", "x", "c") + layer("r", "ReLU", "c", "c") + norm("c"), 2),
    "seen before": (  # somebody reads the convolution's own top
        conv("c", "x", "c") + layer("bn", "BatchNorm", "c", "b") + layer("p", "Power", "c", "p"), 3,
    ),
    "sum": (
        conv("c", "x", "c") + norm("c") + conv("d", "c", "d") + norm("d", "d")
        + layer("e", "Eltwise", "c d", "e") + layer("r", "ReLU", "e", "e"), 2,
    ),
    "sum of the input": (
        conv("c", "x", "c") + layer("e", "Eltwise", "x c", "e") + layer("r", "ReLU", "e", "e"), 1,
    ),
    "sum read again": (  # the other bottom is asked for afterwards: it must stay
        conv("c", "x", "c") + conv("d", "c", "d") + layer("e", "Eltwise", "d c", "e")
        + layer("f", "Eltwise", "c e", "f"), 3,
    ),
    "sum with itself": (conv("c", "x", "c") + layer("e", "Eltwise", "c c", "e"), 2),
    "weighted sum": (
        conv("c", "x", "c")
        + layer("e", "Eltwise", "x c", "e", "eltwise_param { coeff: 1 coeff: -1 }"), 2,
    ),
    "sum of a relu": (
        conv("c", "x", "c") + layer("r", "ReLU", "c", "c") + layer("e", "Eltwise", "x c", "e"), 2,
    ),
    "both are outputs": (
        conv("c", "x", "c") + conv("d", "c", "d") + layer("e", "Eltwise", "d c", "e")
        + layer("r", "ReLU", "c", "r"), 3,
    ),
    "pool, dropout, split": (
        conv("c", "x", "c")
        + layer("p", "Pooling", "c", "p", "pooling_param { kernel_size: 3 stride: 2 }")
        + layer("d", "Dropout", "p", "p") + layer("r", "ReLU", "p", "r")
        + layer("t", "TanH", "p", "t"), 4,
    ),
    "norms before": (norm("x", into="n") + layer("r", "ReLU", "n", "n") + conv("c", "n", "c"), 2),
    "merged relu": (
        conv("c", "x", "c")
        + layer("bn", "BatchNorm", "c", "b", "batch_norm_param { fused_relu: true }"), 1,
    ),
    "dense": (
        layer("i", "InnerProduct", "x", "i", "inner_product_param { num_output: 3 }")
        + layer("r", "ReLU", "i", "i"), 2,
    ),
    "sticks out": (  # the kernel is larger than the padded bottom by less than a stride
        conv("c", "x", "c", "kernel_h: 10 kernel_w: 3 stride: 2") + norm("c"), 1,
    ),
}  # fmt: skip


def compare(net: Net, inputs: dict[str, torch.Tensor]) -> None:
    """Run prepared twice, and as written, which leaves the net as written."""
    kept = {key: value.clone() for key, value in inputs.items()}
    outputs = {key: value.clone() for key, value in net(inputs).items()}
    blobs = net.blobs
    assert all(torch.equal(inputs[key], kept[key]) for key in inputs)
    again = net(inputs)
    assert all(torch.equal(again[key], outputs[key]) for key in outputs)
    net.prepare(False)
    written = net(inputs)
    for key, value in written.items():
        assert_close(outputs[key], value, key, 1e-5)
        assert outputs[key].shape == value.shape
    rest = set(net.blobs) - set(outputs)
    assert set(blobs) == set(net.blobs) and len(blobs) == len(net.blobs)
    assert all(torch.equal(blobs[key], net.blobs[key]) for key in rest)


@pytest.mark.parametrize("name", CHAINS)
@torch.no_grad()
def test_prepared_nets_give_the_numbers_of_the_layers(name: str) -> None:
    text, left = CHAINS[name]
    net = built(FOUR + text)
    inputs = given(net)
    net(inputs)
    assert operations(net) == left
    compare(net, inputs)


@pytest.fixture(params=["the batch", "image by image"])
def at_a_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many images layers run on: blobs of these nets are too small for slices."""
    if request.param != "the batch":
        monkeypatch.setattr(image_slices, "BUDGET", 1)
        monkeypatch.setattr(image_slices, "A_THREAD", 0)


@pytest.mark.usefixtures("at_a_time")
@pytest.mark.parametrize("meta_path", CASES, ids=ids)
@torch.no_grad()
def test_golden_nets_prepared(meta_path: Path) -> None:
    folder, meta = meta_path.parent, json.loads(meta_path.read_text(encoding="utf-8"))
    arrays = golden(folder / f"golden{meta_path.stem[4:]}.prototxt")
    net = load_net(
        folder / "net.prototxt", folder / "weights.caffemodel",
        phase=meta["phase"], level=meta["level"], stages=meta["stages"],
    )  # fmt: skip
    outputs = net({name: torch.tensor(arrays["in/" + name]) for name in net.inputs})
    assert_close(net.loss, arrays["loss"], "loss", TOLERANCE)
    for key in arrays:
        if key.startswith("blob/"):
            assert_close(net.blobs[key[5:]], arrays[key], key, TOLERANCE)
    assert all(net.blobs[name] is value for name, value in outputs.items())


@pytest.mark.usefixtures("at_a_time")
@pytest.mark.parametrize("name", ["nets", "inplace"])
@torch.no_grad()
def test_random_nets_prepared(name: str) -> None:
    """Every first pass in TEST that real Caffe made: outputs, and the blobs asked for later."""
    ran = 0
    for case in cases_of(name):
        if case["phase"] != "TEST" or "refused" in case:
            continue
        arrays = arrays_of(name)[str(case["seed"])]
        net = load_net(case["text"], phase="TEST", seed=case["net_seed"])
        for key, value in {**under(arrays, "init/"), **under(arrays, "params/")}.items():
            owner, _, index = key.rpartition("/")
            net.params[owner][int(index)].copy_(torch.from_numpy(value))
        inputs = {k: torch.from_numpy(v.copy()) for k, v in under(arrays, "pass0/in/").items()}
        outputs = net(inputs)
        ran += net._inference is not None and net._inference._prepared is not None
        for key, value in under(arrays, "pass0/blob/").items():
            ours = outputs[key] if key in outputs else net.blobs[key]
            assert off_by(ours, value) <= 2e-5, f"{case['seed']} {key}"
    assert ran >= 10


SMALL = FOUR + conv("c", "x", "c") + norm("c") + layer("r", "ReLU", "c", "c")
DENSE = 'inner_product_param { num_output: 3 weight_filler { type: "xavier" } }'
SMALL += layer("i", "InnerProduct", "c", "i", DENSE)


def poke_numpy(blob: Tensor) -> None:
    blob.detach().numpy()[...] *= 2


POKES = {
    "in place": lambda blob: blob.mul_(2),
    ".data": lambda blob: blob.data.mul_(2),
    "numpy": poke_numpy,
    "set data": lambda blob: setattr(blob, "data", blob.detach() * 2),
}


@pytest.mark.parametrize("how", POKES)
@pytest.mark.parametrize(("name", "index"), [("c", 0), ("c", 1), ("bn", 1), ("sc", 0), ("i", 0)])
@torch.no_grad()
def test_changed_blobs_are_noticed(how: str, name: str, index: int) -> None:
    net = built(SMALL)
    inputs = given(net)
    before = net(inputs)["i"].clone()
    POKES[how](net.params[name][index])
    after = net(inputs)["i"]
    assert not torch.equal(before, after)
    assert_close(after, net.prepare(False)(inputs)["i"], "i", 1e-5)


@torch.no_grad()
def test_copied_weights_are_noticed(tmp_path: Path) -> None:
    net, other = built(SMALL), load_net(SMALL, seed=9)
    inputs = given(net)
    net(inputs)
    other.save(tmp_path / "other.caffemodel")
    from caffeio import load_weights

    net.copy_trained_layers_from(load_weights(tmp_path / "other.caffemodel"))
    assert_close(net(inputs)["i"], other(inputs)["i"], "copied", 1e-6)
    again = built(SMALL)
    again(inputs)
    again.load_state_dict(other.state_dict())
    assert_close(again(inputs)["i"], other(inputs)["i"], "state_dict", 1e-6)
    again = built(SMALL)
    again(inputs)
    again.share_trained_layers_with(other)
    assert_close(again(inputs)["i"], other(inputs)["i"], "shared", 1e-6)


@torch.no_grad()
def test_blobs_of_changed_weights_are_refused() -> None:
    net = built(SMALL)
    net(given(net))
    net.params["i"][0].mul_(2)
    with pytest.raises(NetError, match="its blobs have changed since the forward"):
        net.blobs["c"]


@torch.no_grad()
def test_inputs_may_change_after_the_forward() -> None:
    net = built(SMALL)
    inputs = given(net)
    net(inputs)
    blobs, copied = net.blobs, {key: value.clone() for key, value in inputs.items()}
    inputs["x"].zero_()
    net.prepare(False)(copied)
    assert torch.equal(blobs["c"], net.blobs["c"]) and torch.equal(blobs["x"], copied["x"])


def test_what_runs_as_written() -> None:
    net, written = built(SMALL), built(SMALL, prepare=False)
    inputs = given(net)
    out = net(inputs)["i"]  # with gradients
    assert out.requires_grad and torch.equal(out, written(inputs)["i"])
    with torch.no_grad():
        net.keep_trace = True
        assert torch.equal(net(inputs)["i"], out) and len(net.trace) == len(net.steps)
        net.keep_trace = False
        seen = []
        handle = net.layers[1].register_forward_hook(lambda *args: seen.append(args))
        assert torch.equal(net(inputs)["i"], out) and len(seen) == 1
        handle.remove()
        with torch.autocast("cpu", torch.bfloat16):
            assert net(inputs)["i"].dtype == torch.bfloat16
        assert net._inference is not None and net._inference._prepared is None
        net(inputs)
        assert net._inference._prepared is not None and folded(net) == 1
        net(inputs)
        net.train()
        train = load_net(SMALL, phase="TRAIN")
        train(inputs)
        assert train._inference is None or train._inference._prepared is None
        assert not built(SMALL, prepare=False).prepared


@torch.no_grad()
def test_random_and_stateful_layers_run_as_written() -> None:
    drop = layer("d", "Dropout", "c", "d", "dropout_param { sample_weights_test: true }")
    batch = layer("bn", "BatchNorm", "c", "b", "batch_norm_param { use_global_stats: false }")
    for text in (drop, batch):
        net = load_net(FOUR + conv("c", "x", "c") + text)
        net(given(net))
        assert net._inference is not None and net._inference._prepared is None


@torch.no_grad()
def test_a_variance_of_zero_without_eps_is_not_folded() -> None:
    text = conv("c", "x", "c") + layer("bn", "BatchNorm", "c", "b", "batch_norm_param { eps: 0 }")
    net = load_net(FOUR + text, seed=1)
    inputs = given(net)
    out = net(inputs)["b"]
    assert torch.equal(out, net.prepare(False)(inputs)["b"]) and not out.isfinite().any()


@torch.no_grad()
def test_other_sizes_copies_and_devices() -> None:
    net = built(FOUR + conv("c", "x", "c") + norm("c"))
    net(given(net))
    wide = {"x": torch.randn(3, 4, 20, 21)}
    out = net(wide)["c"].clone()
    assert_close(out, net.prepare(False)(wide)["c"], "wide", 1e-5)
    net.prepare()
    net(wide)
    twin = copy.deepcopy(net)
    assert twin.prepared and torch.equal(twin(wide)["c"], out)
    twin.to(memory_format=torch.channels_last)
    assert_close(twin(wide)["c"], out, "channels-last", 1e-5)
    twin.double()
    assert twin({"x": wide["x"].double()})["c"].dtype == torch.float64
    with torch.inference_mode():
        assert torch.equal(net(wide)["c"], out)
        assert net.blobs["x"].shape == (3, 4, 20, 21)
    net.keep_blobs = False
    net(wide)
    assert set(net.blobs) == {"c"}


@torch.no_grad()
def test_bottoms_of_wrong_sizes_are_refused_as_ever() -> None:
    net, written = built(SMALL), built(SMALL, prepare=False)
    for shape, message in (((2, 3, 9, 8), "channels"), ((2, 4, 9, 9), "do not fit weights for")):
        for each in (net, written):
            with pytest.raises(LayerError, match=message):
                each({"x": torch.randn(shape)})


@torch.no_grad()
def test_global_hooks_see_the_layers() -> None:
    net, seen = built(SMALL), []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *args: seen.append(args))
    try:
        net(given(net))
    finally:
        handle.remove()
    assert len(seen) > 3


def test_a_net_is_prepared_where_all_its_blobs_are() -> None:
    with FakeTensorMode():
        first, second = (torch.empty(2, device=f"cuda:{i}") for i in range(2))
    assert can_run_on([torch.empty(2)])
    assert can_run_on([first])
    assert not can_run_on([torch.empty(2), first])
    assert not can_run_on([first, second])
    assert not can_run_on([torch.empty(2, device="meta")])
    assert not can_run_on([torch.empty(2, dtype=torch.float64)])


@pytest.mark.parametrize("kind", [ArraySamples, TensorSamples])
def test_values_written_past_pytorch_are_seen(kind: Any) -> None:
    blobs = [torch.full((3,), torch.nan), torch.randn(4, 5), torch.zeros(watch.SMALL + 1)]
    samples = kind(blobs)
    assert not samples.have_changed()  # a nan is what it was
    for blob in blobs:
        before = blob.clone()
        blob.numpy()[...] += 1
        blob.numpy()[0] = 7
        assert samples.have_changed()
        blob.numpy()[...] = before.numpy()
        assert not samples.have_changed()
    blobs[0].numpy()[:] = -0.0
    blobs[1].numpy()[0, 0] = blobs[1].numpy()[0, 0]
    assert samples.have_changed()


@torch.no_grad()
def test_on_another_device_the_plain_form_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU would run, on the CPU: no packed weights, samples compared by the device."""
    monkeypatch.setattr(folded_conv, "has_packed_form", lambda: False)
    monkeypatch.setattr(watch, "ArraySamples", TensorSamples)
    text = FOUR + CHAINS["sum"][0]
    net, written = built(text), built(text, prepare=False)
    x = given(net)
    wanted = written(x)
    for name, value in net(x).items():
        torch.testing.assert_close(value, wanted[name], rtol=2e-5, atol=2e-5)
    assert net._inference is not None and net._inference._prepared is not None
    net.params["c"][0].data.mul_(2)
    written.params["c"][0].mul_(2)
    wanted = written(x)
    for name, value in net(x).items():
        torch.testing.assert_close(value, wanted[name], rtol=2e-5, atol=2e-5)


@torch.no_grad()
def test_nobody_waits_while_a_graph_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    net = built(FOUR + CHAINS["sum"][0])
    net(given(net))
    assert net._inference is not None
    net._inference._on_gpu = True
    assert net._inference.ready() is not None
    monkeypatch.setattr(prepared, "is_recording", lambda: True)
    assert net._inference.ready() is None


@torch.no_grad()
def test_poolings_follow_the_shape_of_their_bottom() -> None:
    pool = layer("p", "Pooling", "c", "p", "pooling_param { kernel_size: 3 stride: 2 }")
    text = FOUR + conv("c", "x", "c") + pool
    net, written = built(text), built(text, prepare=False)
    for side in (9, 8, 11, 9):
        x = {"x": torch.randn(2, 4, side, side)}
        torch.testing.assert_close(net(x)["p"], written(x)["p"], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("sizes", [(8, 6), (7, 6), (8, 5), (2, 2)])
@pytest.mark.parametrize("rest", ["", "round_mode: FLOOR", "pad: 1", "stride: 1"])
@pytest.mark.parametrize("form", [torch.channels_last, torch.contiguous_format])
def test_a_maximum_of_pairs_is_that_of_the_windows(
    sizes: tuple[int, int], rest: str, form: torch.memory_format
) -> None:
    """Also of nan and of infinities, and with fewer windows than values."""
    stride = "" if "stride" in rest else "stride: 2"
    pool = layer("p", "Pooling", "x", "p", f"pooling_param {{ kernel_size: 2 {stride} {rest} }}")
    net = built(INPUT % f"dim: 2 dim: 3 dim: {sizes[0]} dim: {sizes[1]}" + pool)
    x = given(net)["x"].to(memory_format=form)
    x[0, 0, 0, 1], x[0, 1, 1, 0], x[1, 2, -1, -1] = torch.nan, torch.inf, -torch.inf
    with torch.no_grad():
        fast = net({"x": x})["p"]
        assert net._inference is not None and net._inference._prepared is not None
        net.prepare(False)
        torch.testing.assert_close(fast, net({"x": x})["p"], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("sizes", [(8, 6), (7, 5), (2, 3), (1, 4), (1, 1)])
@pytest.mark.parametrize("rest", ["pad: 1", "pad: 1 round_mode: FLOOR", "", "pad: 1 stride: 2"])
@pytest.mark.parametrize("form", [torch.channels_last, torch.contiguous_format])
def test_a_maximum_of_threes_is_that_of_the_windows(
    sizes: tuple[int, int], rest: str, form: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of nan and of infinities; other strides and pads are PyTorch's."""
    monkeypatch.setattr(pooling, "FEW", 0)
    if not rest and min(sizes) < 3:
        return
    pool = layer("p", "Pooling", "x", "p", f"pooling_param {{ kernel_size: 3 {rest} }}")
    net = built(INPUT % f"dim: 2 dim: 3 dim: {sizes[0]} dim: {sizes[1]}" + pool)
    x = given(net)["x"].to(memory_format=form)
    x[0, 0, 0, 0], x[0, 1, -1, -1], x[1, 2, -1, -1] = torch.nan, torch.inf, -torch.inf
    with torch.no_grad():
        fast = net({"x": x})["p"]
        net.prepare(False)
        torch.testing.assert_close(fast, net({"x": x})["p"], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("rest", ["kernel_size: 2 stride: 2", "kernel_size: 3 pad: 1"])
@torch.no_grad()
def test_only_a_zero_has_another_sign(rest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of +0 and -0 in one window either may be the maximum; all else has the same bits."""
    monkeypatch.setattr(pooling, "FEW", 0)
    net = built(INPUT % "dim: 2 dim: 20 dim: 8 dim: 6" + layer(
        "p", "Pooling", "x", "p", f"pooling_param {{ {rest} }}"))  # fmt: skip
    random = torch.Generator().manual_seed(1)
    x = torch.tensor([0.0, -0.0, -1.0, 1.0])[torch.randint(4, (2, 20, 8, 6), generator=random)]
    fast = net({"x": x.contiguous(memory_format=torch.channels_last)})["p"].contiguous()
    wanted = net.prepare(False)({"x": x})["p"]
    assert torch.equal(fast, wanted)
    assert (wanted == 0).any() and (wanted != 0).any()


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("bias", ["", "bias_term: false"])
@pytest.mark.parametrize("onednn", [True, False])
@torch.no_grad()
def test_large_dense_layers_by_onednn(
    batch: int, bias: str, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a convolution, whose top is channels-last, and behind one another."""
    if not onednn:
        monkeypatch.setattr(quick_dense, "has_dense_form", lambda: False)
    text = INPUT % f"dim: {batch} dim: 4 dim: 9 dim: 8" + conv("c", "x", "c")
    for name, bottom, count in (("i", "c", 300), ("j", "i", 256)):
        p = f'num_output: {count} {bias} weight_filler {{ type: "xavier" }}'
        text += layer(name, "InnerProduct", bottom, name, f"inner_product_param {{ {p} }}")
    net, written = built(text), built(text, prepare=False)
    x = given(net)
    torch.testing.assert_close(net(x)["j"], written(x)["j"], rtol=2e-5, atol=2e-5)
    assert net._inference is not None and net._inference._prepared is not None
    runs = [o.run for o in net._inference._prepared.program.operations]
    dense: list[Any] = [run for run in runs if isinstance(run, quick_dense.QuickDense)]
    assert [run._by_onednn for run in dense] == [onednn and quick_dense.has_dense_form()] * 2
    net.params["j"][0].mul_(2)  # the weights are the net's own
    written.params["j"][0].mul_(2)
    torch.testing.assert_close(net(x)["j"], written(x)["j"], rtol=2e-5, atol=2e-5)


@torch.no_grad()
def test_dense_layers_take_any_rows() -> None:
    """Views with holes, repeated rows, none, nan; another dtype is refused as it is as written."""
    p = 'num_output: 256 weight_filler { type: "xavier" }'
    text = INPUT % "dim: 4 dim: 512" + layer(
        "i", "InnerProduct", "x", "i", f"inner_product_param {{ {p} }}"
    )
    net, written = built(text), built(text, prepare=False)
    base = torch.randn(8, 1024, generator=torch.Generator().manual_seed(1))
    holes = base[:4, ::2].clone()
    holes[1, 3], holes[2, 5] = torch.nan, torch.inf
    views = (base[:, ::2], base[::2, 100:612], base.view(1024, 8)[:512].t(), base[:0, :512], holes,
             base[:1, :512].expand(4, -1))  # fmt: skip
    for x in views:
        found, wanted = net({"x": x})["i"], written({"x": x})["i"]
        torch.testing.assert_close(found, wanted, rtol=2e-5, atol=2e-5, equal_nan=True)
    for one in (net, written):
        with pytest.raises(RuntimeError, match="must have the same dtype"):
            one({"x": base[:4, :512].double()})


@pytest.mark.parametrize("sizes", [(2, 40, 9, 7), (1, 33, 1, 1), (3, 64, 5, 4)])
@pytest.mark.parametrize(
    "rest", ["local_size: 5", "local_size: 7 beta: 0.5 k: 2 alpha: 0.1", "beta: 0.6"]
)
@torch.no_grad()
def test_lrn_in_pieces_has_the_same_bits(
    sizes: tuple[int, ...], rest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of one row, of some rows with a rest, and of all of them."""
    shape = " ".join(f"dim: {n}" for n in sizes)
    net = built(INPUT % shape + layer("n", "LRN", "x", "n", f"lrn_param {{ {rest} }}"))
    x = (given(net)["x"] * 20).to(memory_format=torch.channels_last)
    normal = net.steps[-1].layer
    wanted = lrn.lrn(normal, x)
    monkeypatch.setattr(lrn, "LARGE", 1)
    for piece in (1, 5 * sizes[1], 1 << 16):
        monkeypatch.setattr(lrn, "PIECE", piece)
        found = lrn.lrn_in_pieces(normal, x)
        if "0.6" in rest:  # PyTorch's pow has other last digits at the ends of a piece
            torch.testing.assert_close(found, wanted, rtol=5e-7, atol=0)
        else:
            assert torch.equal(found, wanted)
        assert torch.equal(
            lrn.lrn_in_pieces(normal, x.contiguous()), lrn.lrn(normal, x.contiguous())
        )
    torch.testing.assert_close(net({"x": x})["n"], wanted, rtol=2e-6, atol=1e-6)
