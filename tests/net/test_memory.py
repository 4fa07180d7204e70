"""Which nets run on blobs' memory, and what that changes (values: see test_real_caffe.py)."""

from __future__ import annotations

import pytest
import torch

from caffeio.errors import CaffeIOError
from caffeio.net import Net, load_net
from caffeio.profiles import get_profile

INPUT = 'layer { name: "in" type: "Input" top: "a" input_param { shape { dim: 3 dim: 4 } } }\n'
LEARNS = 'layer { name: "s" type: "Scale" bottom: "a" top: "x" }\n'
LOSS = """
layer { name: "obj" type: "Reduction" bottom: "x" top: "o" loss_weight: 1
        reduction_param { operation: SUMSQ } }
"""


def chain(*kinds: str) -> str:
    """Layers of these types (and parameters), all in place on x."""
    return "".join(
        f'layer {{ name: "l{i}" bottom: "x" top: "x" type: {kind} }}\n'
        for i, kind in enumerate(kinds)
    )


def readers(text: str, **options: object) -> list[str]:
    """Names of the layers whose Backward reads what others have overwritten."""
    net = load_net(text, phase="TRAIN", **options)  # type: ignore[arg-type]
    return [net.steps[i].node.name for i in net._memory.readers]


@pytest.mark.parametrize(
    "kinds",
    [
        ('"ReLU"',),
        ('"ReLU"', '"Dropout"'),
        ('"BatchNorm"', '"Scale"', '"ReLU"'),
        ('"BatchNorm"', '"Scale"', '"ReLU"', '"Dropout"'),
        ('"PReLU"', '"Bias"'),
        ('"Sigmoid"',),
        ('"TanH"',),
        ('"ELU"', '"Dropout" dropout_param { dropout_ratio: 0 }')[:1],
    ],
)
def test_ordinary_nets_have_no_plan(kinds: tuple[str, ...]) -> None:
    net = load_net(INPUT + LEARNS + chain(*kinds) + LOSS, phase="TRAIN")
    assert all(step.memory is None for step in net.steps)
    net.fuse()
    assert all(step.memory is None for step in net._plan)


@pytest.mark.parametrize(
    ("kinds", "found"),
    [
        (('"ReLU"', '"BatchNorm"'), ["l0"]),
        (('"ReLU" relu_param { negative_slope: -1 }',), ["l0"]),
        (('"ReLU"', '"ReLU" relu_param { negative_slope: -1 }'), ["l0", "l1"]),
        (('"TanH"', '"Dropout"', '"Scale"'), ["l0"]),
        (('"Sigmoid"', '"TanH"'), ["l0"]),
        (('"ELU" elu_param { alpha: -1 }',), ["l0"]),
        (('"Power"',), ["l0"]),
        (('"BNLL"', '"Clip" clip_param { min: 0 max: 1 }'), ["l0", "l1"]),
        (('"MVN" mvn_param { normalize_variance: false }', '"ReLU"'), []),
        (('"Scale"', '"Bias"', '"ReLU"', '"PReLU"'), ["l2"]),
    ],
)
def test_readers(kinds: tuple[str, ...], found: list[str]) -> None:
    text = INPUT + LEARNS + chain(*kinds) + LOSS
    assert readers(text) == found
    assert readers(text, profile="bvlc,math") == []


def test_mvn_before_relu_in_place() -> None:
    image = INPUT.replace("dim: 3 dim: 4", "dim: 3 dim: 4 dim: 2 dim: 2")
    mvn = '\nlayer { name: "m" type: "MVN" bottom: "s" top: "x" }\n'
    net = image + LEARNS.replace('top: "x"', 'top: "s"') + mvn + chain('"ReLU"') + LOSS
    assert readers(net) == ["m"]


def gradient(text: str, profile: str) -> torch.Tensor:
    net = load_net(text, phase="TRAIN", profile=profile, seed=1)
    net({"a": torch.linspace(-1, 1, 12).view(3, 4)})
    net.loss.backward()
    grad = net.params["s"][0].grad
    assert grad is not None
    return grad


def test_mathematical_gradient() -> None:
    """Profile `bvlc,math` gives the derivative of the loss; bvlc what real Caffe gives."""
    text = INPUT + LEARNS + chain('"Sigmoid"', '"Power" power_param { power: 2 shift: 1 }') + LOSS
    net = load_net(text, phase="TRAIN", profile="bvlc,math", seed=1).double()
    x = torch.linspace(-1, 1, 12, dtype=torch.double).view(3, 4)
    weight = net.params["s"][0]
    found = []
    for i in range(4):
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                weight[i] += step
                net({"a": x})
                found.append(float(net.loss))
                weight[i] -= step
    slopes = torch.tensor([(a - b) / 2e-6 for a, b in zip(found[::2], found[1::2], strict=True)])
    assert gradient(text, "bvlc,math") == pytest.approx(slopes, rel=1e-4)
    assert gradient(text, "bvlc") != pytest.approx(slopes, rel=0.1)


def test_unknown_choice() -> None:
    assert get_profile("intel, math").name == "intel,math"
    with pytest.raises(CaffeIOError, match=r"unknown choice 'maths' of profile 'bvlc'"):
        get_profile("bvlc,maths")


def test_gradient_lost_between_reshape_and_flatten() -> None:
    """Flatten moves its bottom's gradient to other memory, so Reshape's bottom gets none."""
    reshape = """
    layer { name: "r" type: "Reshape" bottom: "x" top: "r" reshape_param { shape { dim: -1 } } }
    layer { name: "f" type: "Flatten" bottom: "r" top: "f" flatten_param { axis: 0 } }
    """
    text = INPUT + LEARNS + reshape + LOSS.replace('"x"', '"f"')
    net = load_net(text, phase="TRAIN")
    net({"a": torch.ones(3, 4)})
    assert not net.loss.requires_grad or net.params["s"][0].grad is None
    assert gradient(text, "bvlc,math").abs().sum() > 0


def test_a_blob_without_numbers() -> None:
    """Caffe gives no memory to a shape with a 0, and dies in the first forward."""
    net = load_net(INPUT.replace("dim: 3", "dim: 0") + chain('"ReLU"').replace('"x"', '"a"'))
    with pytest.raises(CaffeIOError, match=r"blob 'a' of shape 0 4 holds no numbers"):
        net({"a": torch.zeros(0, 4)})


def test_blobs_are_freed_early_where_memory_is_shared() -> None:
    text = (
        INPUT + LEARNS + 'layer { name: "f" type: "Flatten" bottom: "x" top: "y" }\n'
        'layer { name: "r" type: "ReLU" bottom: "y" top: "y" }\n' + LOSS.replace('"x"', '"y"')
    )

    def run(keep: bool) -> tuple[Net, torch.Tensor]:
        net = load_net(text, phase="TRAIN")
        net.keep_blobs = keep
        net.fuse()
        net({"a": -torch.ones(3, 4)})
        return net, net.loss

    assert run(True)[1] == run(False)[1]
    assert run(True)[0].blobs["x"].abs().sum() == 0  # overwritten under its other name


def test_what_a_later_layer_finds_overwritten_is_kept_for_it() -> None:
    """`late` reads x, whose memory the ReLU on f has changed: f must live until then."""
    text = (
        INPUT
        + LEARNS
        + """
layer { name: "view" type: "Flatten" bottom: "x" top: "f" }
layer { name: "r" type: "ReLU" bottom: "f" top: "f" }
layer { name: "p" type: "Power" bottom: "f" top: "p" power_param { scale: 2 } }
layer { name: "late" type: "Power" bottom: "x" top: "q" power_param { scale: 3 } }
layer { name: "sum" type: "Reduction" bottom: "p" top: "o" }
layer { name: "sum2" type: "Reduction" bottom: "q" top: "o2" }
"""
    )
    net = load_net(text, phase="TRAIN").fuse()
    late = next(step for step in net._plan if step.node.name == "late")
    assert late.memory is not None and late.memory.stale == ((0, "f"),)
    for keep in (True, False):
        net.keep_blobs = keep
        out = net({"a": torch.arange(12.0).reshape(3, 4) - 6})
        assert (out["o"].item(), out["o2"].item()) == (2 * 15, 3 * 15)
