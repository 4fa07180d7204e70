from __future__ import annotations

import importlib.util
import sys
import textwrap
import types

import numpy as np
import pytest
import torch

from caffeio.errors import LayerError
from caffeio.layers import Layer, exactly
from caffeio.layers.python.layer import NATIVE, python_layer
from caffeio.layers.python.pycaffe import PyBlob, import_environment, make_layer
from caffeio.net import load_net
from tests.harness import check_case, layer_cases
from tests.layers.build import build, meta_shapes, run
from tests.paths import GOLDEN

GOLDEN_LAYERS = GOLDEN / "layers" / "Python"
real_caffe = importlib.util.find_spec("caffe") is not None


@pytest.fixture(autouse=True)
def forget_modules():
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("golden_pylayers", "my_layers")):
            del sys.modules[name]


@pytest.mark.parametrize("case", layer_cases("Python"))
def test_golden(case):
    check_case(case, allow_python=True)
    assert "caffe" not in sys.modules or real_caffe


def python(module: str, cls: str, param_str: str = "") -> str:
    return (
        f'type: "Python" python_param {{ module: "{module}" layer: "{cls}" '
        f"param_str: '{param_str}' }}"
    )


def golden(cls: str, *shapes, tops: int = 1, **context) -> Layer:
    param_str = context.pop("param_str", "")
    return build(
        python("golden_pylayers", cls, param_str), *shapes, tops=tops, allow_python=True,
        search_path=(str(GOLDEN_LAYERS),), **context,
    )  # fmt: skip


def write(folder, code: str, name: str = "my_layers") -> dict[str, object]:
    (folder / f"{name}.py").write_text(textwrap.dedent(code))
    return {"allow_python": True, "search_path": (str(folder),)}


# -- permission and import


def test_refused_without_permission(tmp_path):
    write(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w')\nclass A: pass")
    with pytest.raises(LayerError, match=r"'my_layers', class 'A'.*--allow-python") as caught:
        build(python("my_layers", "A"), (2,), search_path=(str(tmp_path),), where="n.prototxt:3")
    assert "n.prototxt:3" in str(caught.value)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(LayerError, match="allow_python=True"):
        load_net(GOLDEN_LAYERS / "param_str.prototxt")


def test_module_that_is_missing_or_broken(tmp_path):
    with pytest.raises(LayerError, match=r"cannot import module 'my_layers_no'.*PYTHONPATH"):
        build(python("my_layers_no", "A"), (2,), allow_python=True, search_path=(str(tmp_path),))
    options = write(tmp_path, "import my_layers_missing")
    with pytest.raises(LayerError, match="No module named 'my_layers_missing'"):
        build(python("my_layers", "A"), (2,), **options)
    options = write(tmp_path, "class A: pass", "my_layers2")
    with pytest.raises(LayerError, match="has no class 'B'"):
        build(python("my_layers2", "B"), (2,), **options)
    with pytest.raises(LayerError, match="has no method setup, reshape, forward, backward"):
        build(python("my_layers2", "A"), (2,), **options)


def test_search_path_is_taken_back(tmp_path):
    before = list(sys.path)
    golden("WeightedSum", (2, 3), (2, 3), param_str='{"wa": 1, "wb": 2}')
    assert sys.path == before
    assert "caffe" not in sys.modules or real_caffe


@pytest.mark.skipif(real_caffe, reason="pycaffe is installed")
def test_stand_in_for_pycaffe():
    with import_environment(()):
        import caffe

        assert (caffe.TRAIN, caffe.TEST) == (0, 1)
        assert isinstance(caffe.Layer().blobs, list)
    with pytest.raises(ImportError):
        import caffe


@pytest.mark.skipif(real_caffe, reason="pycaffe is installed")
def test_folder_called_caffe_is_no_pycaffe(tmp_path):
    (tmp_path / "caffe").mkdir()
    (tmp_path / "my_layers_sibling.py").write_text("SCALE = 4")
    options = write(
        tmp_path,
        """
        import caffe

        class Late(caffe.Layer):
            def setup(self, bottom, top):
                from my_layers_sibling import SCALE
                self.scale = SCALE
            def reshape(self, bottom, top):
                top[0].reshape(*bottom[0].shape)
            def forward(self, bottom, top):
                top[0].data[...] = self.scale * bottom[0].data
            def backward(self, top, propagate_down, bottom):
                pass
        """,
    )
    layer = build(python("my_layers", "Late"), (2,), **options)
    x = torch.ones(2, requires_grad=True)
    (y,) = run(layer, x)
    assert y.tolist() == [4, 4]
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 0]  # nobody wrote the diff


def test_real_pycaffe_is_left_alone(monkeypatch):
    module = types.ModuleType("caffe")
    monkeypatch.setitem(sys.modules, "caffe", module)
    with import_environment(()):
        assert sys.modules["caffe"] is module
    assert sys.modules["caffe"] is module


def test_layer_class_of_real_pycaffe_is_not_constructed():
    class Boost:
        def __init__(self, param):
            raise TypeError("no_init")

        @property
        def blobs(self):
            raise TypeError("no C++ object")

    class User(Boost):
        def setup(self, bottom, top):
            self.blobs.add_blob(2)

    user = make_layer(User, None)
    user.setup([], [])
    assert isinstance(user, User) and user.blobs[0].shape == (2,)


# -- blobs


def test_blob_keeps_its_memory_as_caffe_does():
    blob = PyBlob((2, 3))
    blob.data[...] = 1
    blob.reshape(2, 2)
    assert blob.data.tolist() == [[1, 1], [1, 1]] and blob.count == 4
    blob.reshape(2, 3)
    assert blob.data.tolist() == [[1, 1, 1], [1, 1, 1]]
    blob.reshape(7)
    assert blob.data.tolist() == [0] * 7
    assert blob.data.dtype == blob.diff.dtype == np.float32
    view = blob.data
    view[3] = 5
    assert blob.data[3] == 5
    with pytest.raises(ValueError, match="negative"):
        blob.reshape(2, -1)


def test_legacy_dimensions():
    blob = PyBlob((2, 3))
    assert (blob.num, blob.channels, blob.height, blob.width) == (2, 3, 1, 1)
    assert PyBlob().shape == () and PyBlob().count == 1 and PyBlob().data.shape == ()
    empty = PyBlob(empty=True)
    assert empty.count == 0 and empty.data.size == 0
    with pytest.raises(ValueError, match="5 axes"):
        _ = PyBlob((1, 1, 1, 1, 1)).num


# -- running


@pytest.mark.parametrize(("phase", "divisor"), [("TRAIN", 4), ("TEST", 1)])
def test_loss_layer_knows_its_phase(phase, divisor):
    a, b = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    layer = golden("SmoothL1", (4, 3), (4, 3), phase=phase, param_str="0.5")
    (loss,) = run(layer, a, b)
    d = (a - b).detach()
    expected = torch.where(d.abs() < 0.5, d * d, d.abs() - 0.25).sum() / divisor
    assert loss.shape == (1,)
    torch.testing.assert_close(loss.detach()[0], expected)
    (3 * loss.sum()).backward()
    torch.testing.assert_close(a.grad, 3 * (d / 0.5).clamp(-1, 1) / 4)
    assert b.grad is not None and a.grad is not None and torch.equal(b.grad, -a.grad)


LOSS_NET = """
layer { name: "in" type: "Input" top: "x" top: "t"
        input_param { shape { dim: 4 dim: 2 } shape { dim: 4 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param {
        num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "Python" bottom: "y" bottom: "t" top: "loss" loss_weight: 2
        python_param { module: "golden_pylayers" layer: "SmoothL1" param_str: "1" } }
"""


def test_training_through_a_loss_in_python(monkeypatch):
    """The same steps as with the formula in torch."""
    monkeypatch.syspath_prepend(str(GOLDEN_LAYERS))
    torch.manual_seed(0)
    net = load_net(LOSS_NET, phase="TRAIN", allow_python=True)
    weight, bias = (p.detach().clone().requires_grad_() for p in net.params["ip"])
    mine = torch.optim.SGD([item.tensor for item in net.learnable], 0.1)
    theirs = torch.optim.SGD([weight, bias], 0.1)
    for _ in range(3):
        inputs = {"x": torch.randn(4, 2), "t": torch.randn(4, 3)}
        net(inputs)
        y = inputs["x"] @ weight.T + bias
        loss = 2 * torch.nn.functional.smooth_l1_loss(y, inputs["t"], reduction="sum") / 4
        torch.testing.assert_close(net.loss, loss)
        for optimizer, value in ((mine, net.loss), (theirs, loss)):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    torch.testing.assert_close(net.params["ip"][0], weight)


def test_learnable_blobs():
    """`Counter` fills its blob in setup and multiplies it by the number of forwards."""
    layer = golden("Counter")
    assert [spec.shape for spec in layer.blob_specs] == [(2, 3)]
    assert np.array_equal(layer.blob_specs[0].initial, np.full((2, 3), 0.5))
    with torch.no_grad():
        layer.blobs[0].fill_(0.25)
    assert layer().tolist() == [[0.25] * 3] * 2
    (y,) = run(layer)
    assert y.tolist() == [[0.5] * 3] * 2
    y.sum().backward()
    assert layer.blobs[0].grad.tolist() == [[2.0] * 3] * 2
    run(layer)[0].sum().backward()  # adds up, as Caffe's diffs do
    assert layer.blobs[0].grad.tolist() == [[5.0] * 3] * 2


def test_blobs_start_as_setup_filled_them(monkeypatch):
    monkeypatch.syspath_prepend(str(GOLDEN_LAYERS))
    net = load_net(
        'layer { name: "c" type: "Python" top: "y"\n'
        'python_param { module: "golden_pylayers" layer: "Counter" } }',
        allow_python=True,
    )
    assert net.params["c"][0].tolist() == [[0.5] * 3] * 2
    assert net()["y"].tolist() == [[0.5] * 3] * 2
    assert [item.layer for item in net.learnable] == ["c"]


CODE = """
    import caffe
    import numpy as np

    class Half(caffe.Layer):
        # as many rows as the first number of the bottom says; writes to its own blob
        def setup(self, bottom, top):
            self.blobs.add_blob(1)
        def reshape(self, bottom, top):
            top[0].reshape(max(1, bottom[0].num // 2), 2)
        def forward(self, bottom, top):
            rows = int(bottom[0].data[0, 0])
            top[0].reshape(rows, 2)
            top[0].data[...] = 7
            self.blobs[0].data[0] += 1
        def backward(self, top, propagate_down, bottom):
            self.seen = list(propagate_down)
            bottom[0].diff[...] = top[0].diff.sum()

    class Twice(caffe.Layer):
        def setup(self, bottom, top):
            self.in_place = top[0] is bottom[0]
        def reshape(self, bottom, top):
            top[0].reshape(*bottom[0].shape)
        def forward(self, bottom, top):
            top[0].data[...] = 2 * bottom[0].data
        def backward(self, top, propagate_down, bottom):
            bottom[0].diff[...] = 2 * top[0].diff

    class Broken(caffe.Layer):
        def setup(self, bottom, top):
            if self.param_str == "setup":
                raise ValueError("two bottoms wanted")
        def reshape(self, bottom, top):
            top[0].reshape(1)
        def forward(self, bottom, top):
            if self.param_str == "forward":
                raise KeyError("label")
        def backward(self, top, propagate_down, bottom):
            raise KeyError("diff")
"""


def test_shape_of_the_top_may_depend_on_the_data(tmp_path):
    layer = build(python("my_layers", "Half"), (4, 1), **write(tmp_path, CODE))
    x = torch.tensor([[3.0], [0], [0], [0]], requires_grad=True)
    (y,) = run(layer, x)
    assert y.tolist() == [[7, 7]] * 3
    y.sum().backward()
    assert x.grad is not None and x.grad.flatten().tolist() == [6] * 4
    assert layer.code.seen == [True]
    assert meta_shapes(layer, (8, 1)) == [(4, 2)]


def test_forward_may_write_to_its_blobs(tmp_path):
    layer = build(python("my_layers", "Half"), (4, 1), **write(tmp_path, CODE))
    with torch.no_grad():
        layer.blobs[0].zero_()
    for _ in range(3):
        layer(torch.ones(4, 1))
    assert layer.blobs[0].item() == 3


def test_in_place(tmp_path):
    options = write(tmp_path, CODE)
    layer = build(
        python("my_layers", "Twice"), (2, 2), bottom_names=("a",), top_names=("a",), **options
    )
    assert layer.code.in_place
    x = torch.randn(2, 2, requires_grad=True)
    (y,) = run(layer, x)
    torch.testing.assert_close(y, 2 * x)
    y.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.full((2, 2), 2.0))
    assert not build(python("my_layers", "Twice"), (2, 2), **options).code.in_place


def test_bottom_that_needs_no_gradient(tmp_path):
    layer = golden("WeightedSum", (2,), (2,), param_str='{"wa": 1, "wb": 2}')
    a, b = torch.randn(2), torch.randn(2, requires_grad=True)
    (y,) = run(layer, a, b)
    y.sum().backward()
    assert a.grad is None and b.grad is not None and b.grad.tolist() == [2, 2]
    assert not run(layer, a, a)[0].requires_grad


def test_only_the_last_forward_can_be_gone_back_through():
    layer = golden("WeightedSum", (2,), (2,), param_str='{"wa": 1, "wb": 2}')
    x = torch.randn(2, requires_grad=True)
    first, second = layer(x, x), layer(x, x)
    with pytest.raises(RuntimeError, match="only go back through its last forward"):
        first.sum().backward()
    second.sum().backward()


def test_tops_are_not_overwritten_by_the_next_forward():
    layer = golden("WeightedSum", (2,), (2,), param_str='{"wa": 1, "wb": 0}')
    first = layer(torch.ones(2), torch.ones(2))
    layer(torch.zeros(2), torch.zeros(2))
    assert first.tolist() == [1, 1]


def test_errors_of_the_users_code(tmp_path):
    options = write(tmp_path, CODE)
    with pytest.raises(LayerError, match=r"setup\(\) of my_layers.Broken raised ValueError: two"):
        build(python("my_layers", "Broken", "setup"), (2,), **options)
    layer = build(python("my_layers", "Broken", "forward"), (2,), where="n.prototxt:9", **options)
    with pytest.raises(KeyError, match="label") as caught:
        layer(torch.zeros(2))
    note = caught.value.__notes__[0]
    assert "'x'" in note and "n.prototxt:9" in note and "my_layers.Broken" in note
    layer = build(python("my_layers", "Broken"), (2,), **options)
    with pytest.raises(KeyError, match="diff") as caught:
        layer(torch.zeros(2, requires_grad=True)).sum().backward()
    assert "my_layers.Broken" in caught.value.__notes__[0]


def test_meta_shapes():
    layer = golden("WeightedSum", (2, 3), (2, 3), param_str='{"wa": 1, "wb": 2}')
    assert meta_shapes(layer, (2, 3), (2, 3)) == [(2, 3)]
    assert meta_shapes(layer, (5, 3), (5, 3)) == [(5, 3)]


def test_compiled_nets_run_the_code_outside_the_graph():
    layer = golden("WeightedSum", (2,), (2,), param_str='{"wa": 1, "wb": 2}')
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="eager")
    a, b = torch.randn(2, requires_grad=True), torch.randn(2)
    y = compiled(a, b)
    torch.testing.assert_close(y, a + 2 * b)
    y.sum().backward()
    assert a.grad is not None and a.grad.tolist() == [1, 1]


# -- classes of our own in place of well-known modules


@pytest.fixture
def native():
    @python_layer("my_layers.known", "Triple")
    class Triple(Layer):
        tops = exactly(1)

        def setup(self, *shapes):
            self.add_blob("factor", (1,), default=3.0)

        def forward(self, *bottoms):
            return bottoms[0] * self.blobs[0]

        def onnx(self, g, *bottoms):
            return "an ONNX value"

        def macs(self):
            return 5

    yield Triple
    del NATIVE["my_layers.known", "Triple"]


def test_native_class_needs_no_permission(native):
    text = python("my_layers.known", "Triple")
    layer = build(text, (2,))
    assert torch.equal(layer(torch.ones(2)), layer.blobs[0].expand(2))
    assert layer.macs() == 5 and layer.onnx(None, "x") == "an ONNX value"
    with pytest.raises(ValueError, match="already defined"):
        python_layer("my_layers.known", "Triple")(native)


def test_native_class_in_a_net(native):
    net = load_net(f"""
    layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ dim: 2 }} }} }}
    layer {{ name: "p" bottom: "x" top: "y" {python("my_layers.known", "Triple")} }}
    """)
    assert net({"x": torch.ones(2)})["y"].tolist() == [3, 3]
    net.learnable[0].tensor.data.fill_(4)
    assert net({"x": torch.ones(2)})["y"].tolist() == [4, 4]
