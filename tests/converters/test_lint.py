"""Every lint rule: a case in which it speaks, and nets and solvers about which all are silent."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from caffeio.converters.kinds import kind_of
from caffeio.converters.lint import output
from caffeio.converters.lint.model import SEVERITIES
from caffeio.converters.lint.run import RULES, Selection, fixed_text, lint, rules
from caffeio.converters.source import Source
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import read_net
from tests.corpus import by_day
from tests.paths import SHARED, needs_shared

RECIPE = Path(__file__).parent / "recipe"

DATA = """
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
        transform_param { crop_size: 8 mean_value: 1 mean_value: 2 mean_value: 3 %s }
        data_param { source: "train_lmdb" batch_size: 4 backend: LMDB } }
layer { name: "test" type: "Data" top: "data" top: "label" include { phase: TEST }
        transform_param { crop_size: 8 mean_value: 1 mean_value: 2 mean_value: 3 }
        data_param { source: "test_lmdb" batch_size: 4 backend: LMDB } }
"""
CONV = """
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
"""
HEAD = """
layer { name: "fc" type: "InnerProduct" bottom: "c" top: "fc"
        inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""
NET = DATA % "" + CONV + HEAD
INPUT = 'layer { name: "i" type: "Input" top: "x" input_param { shape { %s } } }\n'
IMAGE = INPUT % "dim: 1 dim: 3 dim: 8 dim: 8"
BN = 'layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" %s }\n'
ZERO = "param { lr_mult: 0 } " * 3
SOLVER = 'net: "none.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 10 snapshot_prefix: "s"\n'


def solver(text: str = "", **changes: str) -> str:
    out = SOLVER
    for name, value in changes.items():
        out = re.sub(rf"\b{name}: (\"[^\"]*\"|\S+)", f"{name}: {value}" if value else "", out)
    return out + text


def net(middle: str = "", *, data: str = "", conv: str = CONV, head: str = HEAD) -> str:
    return DATA % data + conv + middle + head


# code -> (text of a net or solver, a piece of the message)
def lstms(kind: str = "LSTM", blobs: int = 3, names: str = "012345") -> str:
    """Two recurrent layers that share the blobs called `names`."""
    text = INPUT.replace("x", "seq") % "dim: 3 dim: 2 dim: 4" + INPUT.replace("x", "c") % (
        "dim: 3 dim: 2"
    )
    for name in ("one", "two"):
        own = [f"w{i}" if str(i) in names else "" for i in range(blobs)]
        specs = " ".join(f'param {{ name: "{w}" }}' if w else "param { lr_mult: 1 }" for w in own)
        text += (
            f'layer {{ name: "{name}" type: "{kind}" bottom: "seq" bottom: "c" top: "{name}" '
            f"recurrent_param {{ num_output: 5 }} {specs} }}\n"
        )
    loss = 'layer { name: "l" type: "EuclideanLoss" bottom: "one" bottom: "two" top: "l" }\n'
    return text + loss


CASES: dict[str, list[tuple[str, str]]] = {
    "CIO100": [("layer { name: ", ""), (solver("base_lr: x"), "number")],
    "CIO101": [
        (net().replace("num_output: 4", "num_outputs: 4"), "did you mean 'num_output'"),
        (solver("weight_dekay: 1"), "did you mean 'weight_decay'"),
    ],
    "CIO102": [(IMAGE + 'layer { type: "Pooling" bottom: "x" top: "y" '
                        "pooling_param { pool: MEDIAN kernel_size: 2 } }", "MEDIAN")],
    "CIO103": [(net(data="random_resize_param { min_size: 9 } use_gpu_transform: true"), "not in")],
    "CIO104": [("input: 'x' input_dim: 1 input_dim: 1 input_dim: 1 input_dim: 1", "Input")],
    "CIO105": [(IMAGE + 'layer { name: "q" type: "Convolutoin" bottom: "x" top: "y" }',
                "did you mean 'Convolution'")],
    "CIO106": [(IMAGE + 'layer { name: "r" type: "ReLU" bottom: "x" top: "y" '
                        "convolution_param { num_output: 3 } }", "does not read convolution")],
    "CIO309": [(net() + 'layer { name: "a" type: "Accuracy" bottom: "fc" bottom: "label" top: "a" '
                        "accuracy_param { top_k: 9 } }", "top_k 9 of")],
    "CIO311": [((INPUT % "dim: 1 dim: 3 dim: 9 dim: 9")
                + 'layer { name: "p" type: "Pooling" bottom: "x" top: "y" '
                "pooling_param { kernel_size: 1 stride: 3 pad: 0 } }", "the last window begins"),
               ((INPUT % "dim: 1 dim: 3 dim: 9 dim: 10")
                + 'layer { name: "p" type: "Pooling" bottom: "x" top: "y" '
                "pooling_param { kernel_h: 2 kernel_w: 1 stride: 2 } }", "begins at 10")],
    "CIO415": [("layer { name: 'h' type: 'HDF5Data' top: 'x' transform_param { scale: 2 } "
                + "hdf5_data_param { source: 'list.txt' batch_size: 2 } }", "transforms nothing")],
    "CIO416": [(net(data="force_color: true force_gray: true"), "not both")],
    "CIO418": [(net(data="rotate: true pad: 2"), "transform_param.rotate is a fork's field")],
    "CIO522": [(solver('regularization_type: "L3"'), "'L3'; known are L1, L2")],
    "CIO524": [(solver("test_iter: 0 test_interval: 5"), "tests no batch")],
    "CIO107": [(NET.replace("batch_size: 4", "batch_size: 4 mirror: true", 1), "transform_param")],
    "CIO200": [
        (NET.replace('bottom: "c"', 'bottom: "cc"'), "unknown bottom"),
        (NET + 'layer { name: "z" type: "ReLU" bottom: "fc" top: "c" }', "more than one layer"),
        (IMAGE + 'layer { name: "a" type: "Accuracy" bottom: "x" bottom: "label" top: "a" '
         "include { phase: TEST } }", "(TEST) unknown bottom blob 'label'"),
    ],
    "CIO201": [(net('layer { name: "r" type: "ReLU" bottom: "c" top: "lost" }'), "'lost'")],
    "CIO202": [(net(head=""), "no loss")],
    "CIO203": [(net('layer { name: "side" type: "InnerProduct" bottom: "c" top: "s" '
                    'inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }\n'
                    'layer { name: "end" type: "Silence" bottom: "s" }'), "'side'")],
    "CIO204": [(net().replace('bottom: "data" top: "c"', 'bottom: "data" top: "data"')
                .replace('bottom: "c"', 'bottom: "data"'), "Convolution cannot")],
    "CIO205": [(net('layer { name: "s" type: "Sigmoid" bottom: "c" top: "s" }\n'
                    'layer { name: "d" type: "Dropout" bottom: "s" top: "s" }')
                .replace('bottom: "c" top: "fc"', 'bottom: "s" top: "fc"'), "Sigmoid layer 's'"),
               (net('layer { name: "p" type: "Power" bottom: "c" top: "c" }'), "gradient of Power"),
               (net('layer { name: "r" type: "Reshape" bottom: "c" top: "r" '
                    "reshape_param { shape { dim: 0 dim: -1 } } }\n"
                    'layer { name: "f" type: "Flatten" bottom: "r" top: "f" }')
                .replace('bottom: "c" top: "fc"', 'bottom: "f" top: "fc"'), "gradient is lost")],
    "CIO206": [(net(CONV.replace('bottom: "data" top: "c"', 'bottom: "c" top: "c2"'))
                .replace('bottom: "c" top: "fc"', 'bottom: "c2" top: "fc"'), "is taken by")],
    "CIO207": [(IMAGE + "".join(
        f'layer {{ name: "{n}" type: "InnerProduct" bottom: "x" top: "{n}" '
        f'param {{ name: "w" lr_mult: {m} }} inner_product_param {{ num_output: 2 }} }}\n'
        for n, m in (("a", 1), ("b", 2))), "mismatched lr_mult")],
    "CIO208": [(NET.replace('top: "loss"', 'top: "loss" loss_weight: 1 loss_weight: 2'),
                "2 weights, 1 tops")],
    "CIO209": [(IMAGE + "".join(
        f'layer {{ name: "{n}" type: "InnerProduct" bottom: "x" top: "{n}" '
        f'param {{ name: "w" }} inner_product_param {{ num_output: {m} }} }}\n'
        for n, m in (("a", 1), ("b", 2))), "the owner's is 1 192")],
    "CIO210": [(lstms(), "of layer 'one' in TRAIN"), (lstms("RNN", 5), "of layer 'one' in TRAIN")],
    "CIO301": [(net().replace("kernel_size: 3", "kernel_size: 30"), "larger than the bottom")],
    "CIO302": [(IMAGE + 'layer { type: "Pooling" bottom: "x" top: "y" '
                        "pooling_param { kernel_size: 1 stride: 2 } }", "starts at 8")],
    "CIO303": [(IMAGE + 'layer { type: "Pooling" bottom: "x" top: "y" '
                        "pooling_param { kernel_size: 3 stride: 2 } }", "hangs 1 over")],
    "CIO304": [(net(data="random_resize_param { min_size: 6 max_size: 7 }"), "larger than 6")],
    "CIO305": [(net(data='mean_file: "m"'), "not both"),
               (NET.replace("mean_value: 3", "force_gray: true", 1), "2 mean_value for 1")],
    "CIO306": [('layer { type: "ImageData" top: "x" top: "y" image_data_param { new_height: 3 } }',
                "must both")],
    "CIO401": [
        (net(BN % "param { lr_mult: 1 } param { lr_mult: 0 }"), "lr_mult 1"),
        (net(BN % "batch_norm_param { filler {} }"), "weight decay will shrink"),
    ],
    "CIO402": [(net(BN % ZERO + 'layer { name: "s" type: "Scale" bottom: "c" top: "c" '
                                "scale_param { bias_term: true } }"), "scale and shift")],
    "CIO403": [(NET.replace("SoftmaxWithLoss", "EuclideanLoss")
                .replace('top: "loss"', 'top: "loss" loss_param { ignore_label: 1 }'), "batch")],
    "CIO404": [(NET.replace('top: "loss"', 'top: "loss" loss_param { normalize: false }'),
                "BATCH_SIZE")],
    "CIO405": [(net('layer { name: "map" type: "SigmoidCrossEntropyLoss" bottom: "c" bottom: "c" '
                    'top: "m" }'), "batch size only")],
    "CIO406": [(net().replace('weight_filler { type: "xavier" }', ""), "(and 1 more layers)")],
    "CIO407": [(net(BN % (ZERO + "batch_norm_param { use_global_stats: false }")), "TEST")],
    "CIO408": [
        ((DATA % "").replace("phase: TEST } \n", "").replace(
            "mean_value: 3 }\n        data_param { source: \"test", "mean_value: 3 mirror: true }\n"
            "        data_param { source: \"test") + CONV + HEAD, "mirrors test images"),
        ((DATA % "").replace("mean_value: 3 }\n        data_param { source: \"test",
         "mean_value: 3 random_resize_param { min_size: 9 max_size: 12 } }\n"
         "        data_param { source: \"test") + CONV + HEAD, "resizes test images"),
    ],
    "CIO409": [(net(data="scale: 0.5"), "scale is 1 in TEST, 0.5 in TRAIN")],
    "CIO410": [(NET.replace(" backend: LMDB", "", 1), "backend: LMDB")],
    "CIO411": [(net(data="random_resize_param { min_size: 9 }").replace("crop_size: 8", "", 1),
                "needs a crop_size")],
    "CIO412": [(net(data="resize_param { height: 9 width: 9 } random_resize_param { min_size: 9 }"),
                "before resize_param")],
    "CIO413": [
        (net('layer { name: "d" type: "Dropout" bottom: "c" top: "c" '
             "dropout_param { dropout_ratio: 1 } }"), "not in [0, 1)"),
        (net('layer { name: "n" type: "LRN" bottom: "c" top: "n" lrn_param { local_size: 4 } }'),
         "even"),
        (NET.replace('type: "xavier"', 'type: "gaussian" std: 0', 1), "std 0"),
    ],
    "CIO414": [(net(BN % ZERO), "taken away by 'bn'")],
    "CIO501": [(solver(lr_policy='"poli"'), "Unknown learning rate policy"),
               (solver(lr_policy='"step"'), "stepsize")],
    "CIO502": [(solver("lr_iter: 5 power: 1", lr_policy='"poly_cyc"'), "negative rates"),
               (solver("power: 1", lr_policy='"poly_cyc"'), "lr_iter is not set")],
    "CIO503": [(solver("stepsize: 3", lr_policy='"step"'), "gamma is 0"),
               (solver(lr_policy='"poly"'), "power is 0")],
    "CIO504": [(solver("gamma: 1 stepvalue: 4 stepvalue: 3", lr_policy='"multistep"'), "not above"),
               (solver("gamma: 0.1 stepvalue: 40", lr_policy='"multistep"'), "never reached"),
               (solver("gamma: 0.1", lr_policy='"multistep"'), "no stepvalue")],
    "CIO505": [(solver("gamma: 0.1 stepsize: 10", lr_policy='"step"'), "never reached")],
    "CIO506": [(solver("test_interval: 5"), "there is no test"),
               (solver("test_iter: 5"), "Caffe dies")],
    "CIO507": [(solver(snapshot_prefix='"/no/such/folder/s"'), "/no/such/folder")],
    "CIO508": [(solver("snapshot_after_train: false"), "no snapshot")],
    "CIO509": [(solver('type: "adam"'), "did you mean 'Adam'")],
    "CIO510": [(solver('type: "AdaGrad" momentum: 0.9'), "refuses")],
    "CIO511": [(solver('type: "Adam"'), "beta1")],
    "CIO512": [(solver(base_lr="0"), "base_lr is 0"), (solver("iter_size: 0"), "1 or more"),
               (solver("clip_gradients: 0"), "all gradients 0")],
    "CIO513": [(solver("warmup_iter: 10"), "not below max_iter")],
    "CIO514": [(solver("gamma: 0.1"), "no effect")],
    "CIO515": [(solver('test_net: "t" test_interval: 1'), "0 test_iter for 1 test nets"),
               (solver("test_iter: 1 test_interval: 1 test_state {} test_state {}"), "2 test_st")],
    "CIO516": [(solver('train_net: "t"'), "more than one"), (solver(net=""), "no net")],
    "CIO520": [(solver(max_iter=""), "max_iter is not set")],
    "CIO521": [(solver(), "none.prototxt was not found")],
}  # fmt: skip


def found_in(text: str, tmp_path: Path, **selection):
    path = tmp_path / "x.prototxt"
    path.write_text(text)
    return lint(Source(path.name, path, kind_of(path)), Selection(**selection))


@pytest.mark.parametrize(
    ("code", "text", "message"),
    [(code, *case) for code, cases in CASES.items() for case in cases],
)
def test_rule_speaks(code, text, message, tmp_path):
    found = [f for f in found_in(text, tmp_path) if f.code == code]
    assert found, [f.message for f in found_in(text, tmp_path)]
    assert message in found[0].message
    assert found[0].path == "x.prototxt"
    assert found[0].line >= 1 and found[0].column >= 1
    lines = text.split("\n")
    assert found[0].line <= len(lines) and found[0].column <= len(lines[found[0].line - 1]) + 1


def test_rule_is_quiet_about_a_good_net(tmp_path):
    assert found_in(NET, tmp_path) == []


WITH_FILES = {
    "CIO307", "CIO308", "CIO310", "CIO417", "CIO517", "CIO518", "CIO519", "CIO523",
}  # fmt: skip
WITH_TARGET = {
    "CIO701",
    "CIO702",
    "CIO703",
    "CIO704",
    "CIO705",
}  # tests/converters/from_onnx/test_lint_target.py


def test_every_rule_has_a_case_and_an_explanation():
    assert set(RULES) == set(CASES) | WITH_FILES | WITH_TARGET
    assert len({rule.name for rule in rules()}) == len(RULES)
    for rule in rules():
        assert re.fullmatch(r"CIO\d{3}", rule.code)
        assert rule.severity in SEVERITIES
        assert len(rule.explanation) > 30
        assert rule.summary.endswith((".", ":", "?")) or "\n" in rule.explanation


def lmdb_of(path: Path, shape: tuple[int, int, int] | None, count: int = 1) -> None:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path)) as env, env.begin(write=True) as txn:
        for i in range(count if shape else 0):
            c, h, w = shape
            datum = pb.Datum(channels=c, height=h, width=w, data=bytes(c * h * w))
            txn.put(b"%d" % i, datum.SerializeToString())


def test_rules_that_look_at_the_data(tmp_path):
    lmdb_of(tmp_path / "train_lmdb", (3, 6, 9))
    lmdb_of(tmp_path / "test_lmdb", None)
    mean = pb.BlobProto(num=1, channels=3, height=6, width=8, data=[0.0] * 144)
    (tmp_path / "m").write_bytes(mean.SerializeToString())
    text = NET.replace("mean_value: 1 mean_value: 2 mean_value: 3", 'mean_file: "m"', 1)
    messages = {f.code: f.message for f in found_in(text, tmp_path)}
    assert "crop_size 8 is larger than 6" in messages["CIO304"]
    assert "m is 3x6x8, first record" in messages["CIO307"]
    assert "test_lmdb is empty" in messages["CIO308"]


def test_rules_that_look_at_solver_and_net(tmp_path):
    lmdb_of(tmp_path / "test_lmdb", (3, 8, 8), count=10)
    staged = NET.replace('name: "loss" type', 'name: "loss" include { stage: "fit" } type')
    (tmp_path / "net.prototxt").write_text(staged)
    text = solver("test_iter: 2 test_interval: 5", net='"net.prototxt"')
    found = {f.code: f for f in found_in(text, tmp_path)}
    assert "'fit'" in found["CIO517"].message
    assert found["CIO517"].path.endswith("net.prototxt")
    assert "a test sees 8 images, test_lmdb has 10" in found["CIO519"].message
    assert not [
        f for f in found_in(text + 'train_state { stage: "fit" }', tmp_path) if f.code == "CIO517"
    ]
    train_only = NET.replace("phase: TEST", "phase: TRAIN stage: 'never'")
    (tmp_path / "net.prototxt").write_text(train_only)
    found = {f.code: f.message for f in found_in(text, tmp_path)}
    assert "unknown bottom blob 'data'" in found["CIO518"]


MIXED = "param { lr_mult: 1 } # keep\n param { lr_mult: 2 } param { lr_mult: 0 }"
FIXABLE = [
    ("CIO101", net().replace("num_output: 4", "num_outputs: 4  # keep\n")),
    ("CIO401", net(BN % (MIXED + "batch_norm_param { filler {} }"))),
    ("CIO401", net(BN % "param { lr_mult: 1 } # keep\n param { lr_mult: 0 }")),
    ("CIO402", CASES["CIO402"][0][0] + "# keep"),
    ("CIO404", CASES["CIO404"][0][0] + "# keep"),
    ("CIO407", CASES["CIO407"][0][0] + "# keep"),
    ("CIO408", CASES["CIO408"][0][0] + "# keep"),
    ("CIO410", CASES["CIO410"][0][0] + "# keep"),
    ("CIO501", solver(lr_policy='"poli"') + "power: 1 # keep"),
    ("CIO509", solver('type: "adam" # keep\n momentum: 0.9')),
    ("CIO510", solver('type: "AdaGrad" momentum: 0.9 # keep')),
]


@pytest.mark.parametrize(("code", "text"), FIXABLE)
def test_fixes_mend_and_keep_comments(code, text, tmp_path):
    found = [f for f in found_in(text, tmp_path) if f.code == code]
    assert found and all(f.fix is not None for f in found)
    new, count = fixed_text(text, found, "x")
    assert count == len(found) and new != text and "# keep" in new
    left = {f.code for f in found_in(new, tmp_path)}
    assert code not in left
    before = {f.code for f in found_in(text, tmp_path)}
    assert left <= before | {"CIO301"} - {code} or code == "CIO101"


def test_fixes_are_what_the_rule_says(tmp_path):
    text = CASES["CIO402"][0][0]
    found = [f for f in found_in(text, tmp_path) if f.code == "CIO402"]
    new, _ = fixed_text(text, found, "x")
    scale = next(layer for layer in read_net(new).message.layer if layer.type == "Scale")
    assert [spec.decay_mult for spec in scale.param] == [0, 0]
    text = CASES["CIO404"][0][0]
    new, _ = fixed_text(text, found_in(text, tmp_path, select=("CIO404",)), "x")
    loss = read_net(new).message.layer[-1].loss_param
    assert not loss.HasField("normalize") and loss.normalization == pb.LossParameter.BATCH_SIZE


def test_old_files_get_no_fix_by_index(tmp_path):
    text = (
        "input: 'c' input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 3\n"
        + BN % "param { lr_mult: 1 }"
    )
    found = [f for f in found_in(text, tmp_path) if f.code == "CIO401"]
    assert found[0].line == 2 and found[0].fix is None


def test_comments_keep_rules_quiet(tmp_path):
    wrong = solver("clip_gradients: 0")
    assert "CIO512" in {f.code for f in found_in(wrong, tmp_path)}
    for comment in ("# caffeio: ignore", "# caffeio: ignore CIO512", "# x caffeio: ignore")[:2]:
        quiet = wrong.rstrip("\n") + "  " + comment + "\n"
        assert "CIO512" not in {f.code for f in found_in(quiet, tmp_path)}
    other = wrong.rstrip("\n") + "  # caffeio: ignore CIO999\n"
    assert "CIO512" in {f.code for f in found_in(other, tmp_path)}


def test_selection(tmp_path):
    text = solver("clip_gradients: 0 gamma: 1")
    codes = {f.code for f in found_in(text, tmp_path)}
    assert {"CIO512", "CIO514"} <= codes
    assert {f.code for f in found_in(text, tmp_path, select=("CIO512",))} == {"CIO512"}
    assert {f.code for f in found_in(text, tmp_path, ignore=("CIO5",))} == codes - {
        c for c in codes if c.startswith("CIO5")
    }


def test_held_against_another_dialect(tmp_path):
    text = net(data="random_resize_param { min_size: 9 max_size: 9 }")
    assert not [f for f in found_in(text, tmp_path) if f.code == "CIO103"]
    found = [f for f in found_in(text, tmp_path, dialect="bvlc") if f.code == "CIO103"]
    assert any("random_resize_param is not in bvlc" in f.message for f in found)


def test_the_profile_counts(tmp_path):
    text = IMAGE + (
        'layer { type: "Pooling" bottom: "x" top: "y" pooling_param { kernel_size: 1 stride: 2 } }'
    )
    assert "CIO302" in {f.code for f in found_in(text, tmp_path)}
    assert "CIO302" not in {f.code for f in found_in(text, tmp_path, caffe="intel")}


def test_only_recurrent_weights_that_are_trained_are_no_good_to_share(tmp_path):
    def codes(text, **selection):
        return {f.code for f in found_in(text, tmp_path, select=("CIO210",), **selection)}

    assert codes(lstms()) == {"CIO210"}
    assert not codes(lstms(), caffe="bvlc,math")  # all steps share
    assert not codes(lstms(names="01"))  # the input's weights: every step uses them
    assert not codes(lstms().replace("dim: 3 dim: 2", "dim: 1 dim: 2"))  # one step
    assert not codes(lstms().rpartition("layer {")[0])  # a net for use, without a loss
    assert not codes(lstms("RNN", 5, names="01"))
    assert codes(lstms("RNN", 5, names="4")) == {"CIO210"}


def test_outputs(tmp_path):
    found = found_in(solver("clip_gradients: 0\ntype: 'adam'"), tmp_path)
    data = json.loads(json.dumps(output.as_data(found, rules())))
    by_code = {item["code"]: item for item in data}
    assert by_code["CIO512"]["rule"] == "learns-nothing" and by_code["CIO512"]["line"] == 2
    assert by_code["CIO509"]["fix"] == "write Adam"
    log = output.sarif(found, rules(), "1.2.3")
    run = log["runs"][0]
    assert log["version"] == "2.1.0" and run["tool"]["driver"]["semanticVersion"] == "1.2.3"
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        region = result["locations"][0]["physicalLocation"]["region"]
        assert region["startLine"] >= 1 and region["startColumn"] >= 1
        assert result["level"] in ("error", "warning", "note")
    line = output.github(next(f for f in found if f.code == "CIO512"))
    assert line.startswith("::warning file=x.prototxt,line=2,col=1,title=CIO512::")
    assert output.github(found[0]).count("\n") == 0


@pytest.mark.parametrize("path", sorted(RECIPE.glob("*.prototxt")), ids=lambda p: p.stem)
def test_the_recipe_is_clean(path, monkeypatch):
    monkeypatch.chdir(RECIPE)
    source = Source(path.name, Path(path.name), kind_of(path))
    found = [f for f in lint(source, Selection()) if f.severity != "info"]
    assert [f.code for f in found] == (["CIO507"] if "net" not in path.stem else [])


@needs_shared
def test_no_false_alarm_on_real_files():
    paths = sorted((SHARED / "seed").rglob("*.prototxt"))
    paths += sorted((SHARED / "corpus" / "prototxt" / "BVLC+caffe").rglob("*.prototxt"))
    assert len(paths) >= 28
    for path in paths:
        found = lint(Source(str(path), path, kind_of(path)), Selection())
        assert [f"{f.where} {f.code}" for f in found if f.severity != "info"] == []


# What lint sees of the inputs that real Caffe dies of (others need weights, images or a run).
DEADLY = {
    "adagrad_with_momentum": "CIO510", "bad_enum": "CIO102", "conv_group_not_divisible": "CIO301",
    "conv_kernel_twice": "CIO301", "crop_larger_than_image": "CIO304", "duplicate_top": "CIO200",
    "eltwise_shape_mismatch": "CIO301", "empty_lmdb": "CIO308", "include_and_exclude": "CIO200",
    "label_count_mismatch": "CIO301", "mean_file_and_value": "CIO305",
    "mean_file_wrong_size": "CIO307", "missing_bottom": "CIO200", "negative_dim": "CIO301",
    "pool_pad_ge_kernel": "CIO301", "shared_param_shape": "CIO209",
    "syntax_missing_brace": "CIO100", "test_interval_missing": "CIO506",
    "too_many_loss_weights": "CIO208", "unknown_field": "CIO101", "unknown_layer_type": "CIO105",
    "unknown_lr_policy": "CIO501", "unknown_solver_type": "CIO509", "wrong_value_type": "CIO100",
}  # fmt: skip


@needs_shared
@pytest.mark.parametrize("case", sorted(DEADLY))
def test_what_kills_caffe_is_seen(case):
    folder = SHARED / "golden" / "errors" / case
    found = [
        f.code
        for path in sorted(folder.glob("*.prototxt"))
        for f in lint(Source(path.name, path, kind_of(path)), Selection())
    ]
    assert DEADLY[case] in found


@needs_shared
def test_nothing_crashes_on_the_corpus():
    rows = csv.DictReader((SHARED / "corpus" / "index.csv").read_text().splitlines())
    kinds = {SHARED / "corpus" / row["path"]: row["kind"] for row in list(rows)[::3]}
    paths = by_day([path for path, kind in kinds.items() if kind in ("net", "solver")])
    assert len(paths) > 100
    for path in paths:
        lint(Source(path.name, path, kinds[path]), Selection())
