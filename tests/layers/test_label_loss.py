from __future__ import annotations

import numpy as np
import pytest
import torch

from caffeio.errors import DataError, LayerError
from caffeio.profiles import INTEL
from caffeio.proto import caffe_pb2 as pb
from tests.harness import assert_close, check_case, layer_cases
from tests.layers.build import COMPILE_WARNING, build, check_compiled, gradients, meta_shapes

KINDS = ("HingeLoss", "MultinomialLogisticLoss", "InfogainLoss", "SigmoidCrossEntropyLoss")


@pytest.mark.parametrize("case", layer_cases(*KINDS))
def test_golden(case):
    check_case(case)


@pytest.mark.parametrize(("norm", "power"), [("L1", 1), ("L2", 2)])
def test_hinge_by_hand(norm, power):
    torch.manual_seed(0)
    x, y = torch.randn(4, 3, 2), torch.tensor([0.0, 5, 2, 3])
    x[0, 0, 0] = 1.0  # a margin of exactly 0: no gradient
    x[1, 1, 1] = float("nan")  # Caffe's max(0, nan) is 0
    layer = build(f'type: "HingeLoss" hinge_loss_param {{ norm: {norm} }}', (4, 3, 2), (4,))
    (loss,), (grad,) = gradients(layer, x, y)
    flat = x.flatten(1).double()
    sign = torch.ones_like(flat)
    for n in range(4):
        sign[n, int(y[n])] = -1
    margin = (1 + sign * flat).nan_to_num(0.0).clamp(min=0)
    assert_close(loss, (margin**power).sum() / 4, "loss")
    slope = (margin > 0).double() if power == 1 else 2 * margin
    assert_close(grad.flatten(1), sign * slope / 4, "gradient")


def test_multinomial_below_the_threshold():
    p = torch.tensor([[0.0, 1.0], [0.25, 0.75]])
    layer = build('type: "MultinomialLogisticLoss"', (2, 2), (2,))
    (loss,), (grad,) = gradients(layer, p, torch.zeros(2))
    assert loss.item() == pytest.approx((-np.log(1e-20) - np.log(0.25)) / 2, rel=1e-6)
    assert grad[0, 0].item() == pytest.approx(-0.5e20, rel=1e-5)  # not 0, as a clamp's would be
    assert grad[1, 0].item() == pytest.approx(-2.0)
    assert grad[:, 1].tolist() == [0, 0]


def write_matrix(path, matrix, *, double=False):
    blob = pb.BlobProto(shape=pb.BlobShape(dim=matrix.shape))
    (blob.double_data if double else blob.data).extend(matrix.ravel().tolist())
    path.write_bytes(blob.SerializeToString())


@pytest.mark.parametrize("double", [False, True])
def test_infogain_matrix_of_a_file(tmp_path, double):
    torch.manual_seed(1)
    matrix = np.random.default_rng(0).random((3, 3), np.float32)
    write_matrix(tmp_path / "h.binaryproto", matrix, double=double)
    x, y = torch.randn(2, 3, 4), torch.randint(0, 3, (2, 4)).float()
    text = 'type: "InfogainLoss" infogain_loss_param { source: "h.binaryproto" }'
    layer = build(text, (2, 3, 4), (2, 4), search_path=("", str(tmp_path)))
    (loss,), (grad,) = gradients(layer, x, y)
    other = build('type: "InfogainLoss"', (2, 3, 4), (2, 4), (3, 3))
    (expected,), (expected_grad,) = gradients(other, x, y, torch.from_numpy(matrix))
    assert torch.equal(loss, expected) and torch.equal(grad, expected_grad)
    logp = x.double().log_softmax(1)
    total = 0.0
    for n in range(2):
        for s in range(4):
            total -= (torch.from_numpy(matrix)[int(y[n, s])].double() * logp[n, :, s]).sum().item()
    assert loss.item() == pytest.approx(total / 8, rel=1e-5)


def test_infogain_ignores():
    torch.manual_seed(2)
    x, y = torch.randn(3, 2), torch.tensor([0.0, -1, 1])
    x[1] = float("nan")
    param = "loss_param { ignore_label: -1 }"
    layer = build(f'type: "InfogainLoss" {param}', (3, 2), (3,), (2, 2))
    (loss,), (grad,) = gradients(layer, x, y, torch.eye(2))
    p = x[[0, 2]].softmax(1)
    assert loss.item() == pytest.approx(-(p[0, 0].log() + p[1, 1].log()).item() / 2, rel=1e-5)
    assert not grad[[0, 2]].isnan().any()


def test_infogain_of_intel_takes_probabilities():
    torch.manual_seed(3)
    p, y = torch.rand(4, 3), torch.tensor([0.0, 2, 1, 1])
    p[0, 1] = 0
    h = torch.rand(3, 3)
    layer = build('type: "InfogainLoss"', (4, 3), (4,), (1, 1, 3, 3), profile=INTEL)
    (loss,), (grad,) = gradients(layer, p, y, h.view(1, 1, 3, 3))
    rows, safe = h[y.long()].double(), p.double().clamp(min=1e-20)
    assert_close(loss, -(rows * safe.log()).sum() / 4, "loss")
    assert_close(grad, -rows / safe / 4, "gradient")


def test_infogain_errors(tmp_path):
    kind = 'type: "InfogainLoss"'
    source = 'infogain_loss_param { source: "h.binaryproto" }'
    with pytest.raises(LayerError, match="a matrix is needed"):
        build(kind, (2, 3), (2,))
    with pytest.raises(LayerError, match=r"file not found: h\.binaryproto"):
        build(f"{kind} {source}", (2, 3), (2,), search_path=(str(tmp_path),))
    (tmp_path / "h.binaryproto").write_bytes(b"\xff\xff\xff\xff")
    with pytest.raises(LayerError, match="not a BlobProto"):
        build(f"{kind} {source}", (2, 3), (2,), search_path=(str(tmp_path),))
    write_matrix(tmp_path / "h.binaryproto", np.ones((2, 2), np.float32))
    with pytest.raises(LayerError, match="3 x 3"):
        build(f"{kind} {source}", (2, 3), (2,), search_path=(str(tmp_path),))
    with pytest.raises(LayerError, match="normalization"):
        build(f"{kind} loss_param {{ normalize: true }}", (2, 3), (2,), (3, 3))


@pytest.mark.parametrize("mode", ["FULL", "VALID", "BATCH_SIZE", "NONE", None])
def test_sigmoid_normalizations(mode):
    torch.manual_seed(4)
    x, t = torch.randn(3, 4), torch.randint(-1, 2, (3, 4)).float()
    param = "ignore_label: -1" + (f" normalization: {mode}" if mode else "")
    layer = build(f'type: "SigmoidCrossEntropyLoss" loss_param {{ {param} }}', (3, 4), (3, 4))
    (loss,), (grad,) = gradients(layer, x, t)
    keep = t != -1
    terms = torch.nn.functional.binary_cross_entropy_with_logits(
        x.double(), t.double(), reduction="none"
    )
    by = {"FULL": 12, "VALID": int(keep.sum()), "BATCH_SIZE": 3, "NONE": 1, None: 3}[mode]
    assert_close(loss, (terms * keep).sum() / by, "loss")
    assert_close(grad, (x.double().sigmoid() - t) * keep / by, "gradient")


def test_sigmoid_of_intel_reads_no_loss_param():
    x, t = torch.randn(2, 3), torch.zeros(2, 3)
    plain = build('type: "SigmoidCrossEntropyLoss"', (2, 3), (2, 3))(x, t)
    param = "loss_param { normalization: FULL ignore_label: 0 }"
    text = f'type: "SigmoidCrossEntropyLoss" {param}'
    assert torch.equal(build(text, (2, 3), (2, 3), profile=INTEL)(x, t), plain)
    assert build(text, (2, 3), (2, 3))(x, t).item() == 0


def test_sigmoid_at_zero_and_far_away():
    x = torch.tensor([[0.0, 100.0, -100.0]])
    layer = build('type: "SigmoidCrossEntropyLoss"', (1, 3), (1, 3))
    (loss,), (grad,) = gradients(layer, x, torch.tensor([[0.0, 0.0, 1.0]]))
    assert loss.item() == pytest.approx(200 + np.log(2), rel=1e-6)
    assert grad.tolist() == [[0.5, 1.0, -1.0]]


@pytest.mark.parametrize(
    ("kind", "shapes", "message"),
    [
        ("HingeLoss", ((3, 2), (4,)), "same first dimension"),
        ("HingeLoss", ((3, 2), (3, 2)), "one label for each of 3 items"),
        ("MultinomialLogisticLoss", ((3, 2), (3, 2)), "one label for each"),
        ("SigmoidCrossEntropyLoss", ((3, 2), (3, 4)), "same count"),
        ("InfogainLoss", ((3, 2, 2), (3,), (2, 2)), "6 predictions.*3 labels"),
    ],
)
def test_shape_errors(kind, shapes, message):
    with pytest.raises(LayerError, match=message):
        build(f'type: "{kind}"', *shapes)


@pytest.mark.parametrize("kind", ["HingeLoss", "MultinomialLogisticLoss"])
def test_label_that_is_no_class(kind):
    with pytest.raises(DataError, match=r"label 2 at item 1 is outside 0\.\.1"):
        build(f'type: "{kind}"', (2, 2), (2,))(torch.rand(2, 2), torch.tensor([0.0, 2.0]))


@pytest.mark.filterwarnings(COMPILE_WARNING)
@pytest.mark.parametrize("kind", KINDS)
def test_compiles(kind):
    shapes = [(3, 4), (3, 4) if kind == "SigmoidCrossEntropyLoss" else (3,)]
    bottoms = [torch.rand(3, 4), torch.randint(0, 4, shapes[1]).float()]
    if kind == "InfogainLoss":
        shapes.append((4, 4))
        bottoms.append(torch.rand(4, 4))
    check_compiled(*(build(f'type: "{kind}"', *shapes) for _ in range(2)), *bottoms)


@pytest.mark.filterwarnings(COMPILE_WARNING)
@pytest.mark.parametrize("kind", ["HingeLoss", "MultinomialLogisticLoss", "InfogainLoss"])
def test_bad_labels_make_nan_where_nobody_may_look(kind):
    torch._dynamo.reset()
    extra = [(2, 2)] if kind == "InfogainLoss" else []
    layer = build(f'type: "{kind}"', (2, 2), (2,), *extra)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    bottoms = [torch.rand(2, 2), torch.tensor([0.0, 2.0]), *(torch.rand(s) for s in extra)]
    assert compiled(*bottoms).isnan()


def test_meta_shapes():
    for kind in KINDS[:2]:
        assert meta_shapes(build(f'type: "{kind}"', (3, 4), (3,)), (3, 4), (3,)) == [()]
    shapes = ((3, 4, 2), (3, 2), (4, 4))
    layer = build('type: "InfogainLoss" loss_weight: [1, 0]', *shapes, tops=2)
    assert meta_shapes(layer, *shapes) == [(), (3, 4, 2)]
    layer = build('type: "SigmoidCrossEntropyLoss"', (3, 4), (3, 4))
    assert meta_shapes(layer, (3, 4), (3, 4)) == [()]
