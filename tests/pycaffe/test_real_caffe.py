"""Random nets and small cases that real BVLC Caffe ran, through pycaffe's interface."""

from __future__ import annotations

import numpy as np
import pytest

import caffeio.pycaffe as caffe
from tests.fuzz.golden_nets import arrays_of, cases_of, noise_floor, off_by, under
from tests.harness import golden
from tests.paths import GOLDEN

PHASES = {"TRAIN": caffe.TRAIN, "TEST": caffe.TEST}
RANDOM = [
    pytest.param(name, case, id=f"{name}-{case['kind']}-{case['seed']}")
    for name in ("nets", "inplace")
    for case in cases_of(name)[:: 1 if name == "inplace" else 4]
]
SMALL = sorted((GOLDEN / "real_caffe").glob("*.npz"))
REFUSED = sorted((GOLDEN / "real_caffe").glob("refuse_*.prototxt"))


def build(net_file, case, seed):
    caffe.set_random_seed(seed)
    return caffe.Net(net_file(case["text"]), PHASES[case["phase"]])


@pytest.mark.parametrize(("name", "case"), RANDOM)
def test_random_net(name, case, net_file):
    if "refused" in case:
        with pytest.raises(RuntimeError):
            run_refused(build(net_file, case, 1), case)
        return
    arrays = arrays_of(name)[str(case["seed"])]
    net = build(net_file, case, case["net_seed"])
    assert list(net._layer_names) == case["layers"]
    initial, written = under(arrays, "init/"), under(arrays, "params/")
    for key, value in initial.items():
        assert off_by(blob(net, key).data, value) <= 1e-6
    for key, value in {**initial, **written}.items():
        blob(net, key).data[...] = value
    for number in range(case["passes"]):
        check(net, case, under(arrays, f"pass{number}/"), case["loss"][number])


def run_refused(net, case):
    values = np.random.RandomState(0)
    for name, shape, kind in case["inputs"]:
        if kind[0] in ("int", "intor"):
            net.blobs[name].data[...] = values.randint(kind[1], kind[2] + 1, shape)
        else:
            net.blobs[name].data[...] = np.abs(values.normal(0, 1, shape)) + 0.1
    net.forward()
    net.backward()


def blob(net, key):
    layer, _, index = key.rpartition("/")
    return net.params[layer][int(index)]


def check(net, case, arrays, wanted_loss):
    for name, value in under(arrays, "in/").items():
        net.blobs[name].data[...] = value
    loss = net._forward(0, len(net.layers) - 1)
    for name, value in under(arrays, "blob/").items():
        assert off_by(net.blobs[name].data, value) <= 2e-5, name
    assert off_by(loss, wanted_loss) <= 2e-5
    for key, value in under(arrays, "pafter/").items():
        assert off_by(blob(net, key).data, value) <= 2e-5, key
    net.clear_param_diffs()
    net.backward()
    diffs, pdiffs = under(arrays, "diff/"), under(arrays, "pdiff/")
    floor = noise_floor(case, diffs, pdiffs)
    for name, value in diffs.items():
        assert off_by(net.blobs[name].diff, value, floor) <= 5e-5, name
    for key, value in pdiffs.items():
        assert off_by(blob(net, key).diff, value, floor) <= 5e-5, key


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_small_case(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    arrays = golden(path.with_suffix(".prototxt"))
    caffe.set_random_seed(int(arrays["random_seed"]))
    net = caffe.Net(str(path.with_suffix(".prototxt")), PHASES[str(arrays["phase"])])
    for key, value in under(arrays, "param/").items():
        blob(net, key).data[...] = value
    case = {"kind": "small"}
    for number in range(int(arrays["passes"])):
        of_pass = under(arrays, f"pass{number}/") if number else dict(arrays)
        renamed = {k.replace("param_diff/", "pdiff/"): v for k, v in of_pass.items()}
        check(net, case, renamed, of_pass["loss"])


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path.stem)
def test_what_real_caffe_refuses(path):
    def run():
        net = caffe.Net(str(path), caffe.TRAIN)
        for name in net.inputs:
            net.blobs[name].data[...] = 1
        net.forward()
        net.backward()

    if path.stem.endswith("ACCEPTED"):
        run()
        return
    if path.stem == "refuse_pooling_kernel_size_twice":
        pytest.skip("without a profile this means a Caffe that takes height and width")
    with pytest.raises(RuntimeError):
        run()
