"""What `caffeio show` says: the view of a net, its tree, its drawing, its page."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import mmap
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caffeio import load_net
from caffeio.converters.diff.net_diff import NetSide
from caffeio.converters.kinds import kind_of, kind_of_text
from caffeio.converters.show import graphics, nets, page, tree
from caffeio.converters.show.layer_summary import layer_summary, short_type
from caffeio.converters.show.layout import layout
from caffeio.converters.show.stats import stats_of
from caffeio.converters.show.view import make_view
from caffeio.converters.source import Source
from caffeio.errors import CaffeIOError
from caffeio.net.graph import build_graph
from caffeio.net.shapes import infer_net
from caffeio.profiles import PROFILES
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import read_net
from caffeio.proto.io.streamed import streamed
from caffeio.proto.text.text_format import parse
from tests.paths import GOLDEN

RECIPE = Path(__file__).parent / "recipe"
RESIDUAL = """
name: "residual"
layer { name: "data" type: "Input" top: "data" top: "label"
        input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } shape { dim: 2 } } }
layer { name: "a" type: "Convolution" bottom: "data" top: "a"
        convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
layer { name: "a_bn" type: "BatchNorm" bottom: "a" top: "a" }
layer { name: "a_relu" type: "ReLU" bottom: "a" top: "a" }
layer { name: "b1" type: "Convolution" bottom: "a" top: "b1"
        convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "b2" type: "Convolution" bottom: "a" top: "b2"
        convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "b1" bottom: "b2" top: "sum" }
layer { name: "fc" type: "InnerProduct" bottom: "sum" top: "fc"
        inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""


def view_of(text: str, **options):
    return make_view(infer_net(build_graph(read_net(text).message)), **options)


def shown_net(path: Path, **options) -> nets.ShownNet:
    return nets.load(Source(path.name, path, kind_of(path)), nets.ShowOptions(**options))


def test_in_place_layers_are_folded():
    view = view_of(RESIDUAL)
    assert [row.name for row in view.rows] == ["data", "a", "b1", "b2", "sum", "fc", "loss"]
    assert view.rows[1].type_name == "Convolution+BatchNorm+ReLU"
    assert view.rows[1].parameters == 4 * 27 + 4 + 4 + 4 + 1
    assert [row.sources for row in view.rows] == [[], [0], [1], [1], [2, 3], [4], [5, 0]]
    assert [row.readers for row in view.rows][1] == [2, 3]
    assert view.types()["Convolution"] == 3
    assert len(view_of(RESIDUAL, fold=False).rows) == 9


def test_the_tree_comes_back_at_joins():
    assert tree.depths(view_of(RESIDUAL)) == [0, 0, 1, 1, 0, 0, 0]


CONV = 'type: "Convolution" convolution_param { %s }'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (CONV % "kernel_size: 7 stride: 2 pad: 3 num_output: 64", "7x7 /2 pad 3 -> 64"),
        (
            CONV % "kernel_h: 1 kernel_w: 3 num_output: 8 group: 4 bias_term: false dilation: 2",
            "1x3 dilation 2 4 groups -> 8 no bias",
        ),
        ('type: "Pooling" pooling_param { pool: AVE kernel_size: 3 stride: 2 }', "ave 3x3 /2"),
        ('type: "Pooling" pooling_param { kernel_size: 3 dilation: 2 }', "max 3x3 dilation 2"),
        ('type: "Pooling" pooling_param { global_pooling: true }', "global max"),
        ('type: "Eltwise" eltwise_param { operation: PROD }', "prod"),
        ('type: "Dropout" dropout_param { dropout_ratio: 0.4 }', "dropout_ratio 0.4"),
        ('type: "SoftmaxWithLoss" loss_weight: 0.3', "weight 0.3"),
        ('type: "SoftmaxWithLossOHEM" loss_weight: 0', "weight 0"),
        ('type: "Quux"', ""),
        ('type: "DepthwiseConvolution" convolution_param { num_output: 8 }', "depthwise -> 8"),
        (  # its num_output and group do not count
            'type: "ConvolutionDepthwise" convolution_param { num_output: 8 kernel_size: 3 }',
            "3x3 depthwise",
        ),
        ('type: "AnnotatedData" data_param { source: "lmdb" batch_size: 4 }', "lmdb, 4 a batch"),
        ('type: "MemoryData" memory_data_param { batch_size: 4 }', "batch_size 4"),
        ('type: "Input" input_param { shape { dim: 1 } }', ""),
    ],
)  # fmt: skip
def test_words(text, words):
    assert layer_summary(parse(text, pb.LayerParameter).message) == words


def test_short_types_are_those_of_the_classes():
    assert short_type("Convolution+BatchNorm+Scale+ReLU") == "Conv+BN+Scale+ReLU"
    assert short_type("ConvolutionDepthwise+Quux+Pooling") == "DWConv+Quux+Pool"


graphs = st.integers(1, 30).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(
            st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda e: e[0] < e[1]),
            max_size=60,
        ),
    )
)


@settings(max_examples=60, deadline=None)
@given(graphs)
def test_layout_has_no_overlaps_and_flows_down(graph):
    n, edges = graph
    drawing = layout([(20.0 + i, 10.0) for i in range(n)], edges, gap_x=5, gap_y=6)
    boxes = drawing.boxes[:n]
    for start, end in edges:
        assert boxes[start].y < boxes[end].y
        route = drawing.routes[start, end]
        assert route[0][:2] == (boxes[start].x, boxes[start].y + boxes[start].height / 2)
        assert (route[-1][0], route[-1][2]) == (boxes[end].x, boxes[end].y - boxes[end].height / 2)
        for x, top, bottom in route:  # straight down, behind no box; bends are between ranks
            assert top <= bottom
            assert not [
                b
                for b in boxes
                if abs(b.x - x) < b.width / 2 and top < b.y + b.height / 2 and bottom > b.y - 5
            ]
        for (_, _, low), (_, high, _) in pairwise(route):
            assert low < high
    for i, a in enumerate(boxes):
        assert a.x - a.width / 2 >= -1e-6 and a.x + a.width / 2 <= drawing.width + 1e-6
        for b in boxes[i + 1 :]:
            if a.rank == b.rank:
                assert abs(a.x - b.x) >= (a.width + b.width) / 2 + 5 - 1e-6


def test_svg_is_well_formed():
    view = view_of(RESIDUAL.replace('name: "sum"', 'name: "<sum> & more"'))
    root = ElementTree.fromstring(graphics.svg(view))
    space = "{http://www.w3.org/2000/svg}"
    boxes = [g for g in root.iter(f"{space}g") if g.get("class") == "box"]
    assert [g.get("id") for g in boxes] == [f"node-{i}" for i in range(7)]
    assert boxes[4].find(f"{space}title").text == "<sum> & more"
    edges = [p for p in root.iter(f"{space}path") if p.get("class") == "edge"]
    assert len(edges) == 8


def test_dot_is_what_graphviz_reads():
    text = graphics.dot(view_of(RESIDUAL))
    assert text.count("->") >= 8 and text.startswith('digraph "residual" {')
    assert "n5 -> n6" in text and 'n0 -> n6 [label="label", fontsize=8]' in text
    if shutil.which("dot"):
        subprocess.run(["dot", "-Tplain"], input=text, text=True, check=True, capture_output=True)


def test_figures_of_an_array():
    array = np.array([[0, 1, 2], [3, np.nan, np.inf]], np.float32)
    stats = stats_of(array)
    assert (stats.shape, stats.values, stats.low, stats.high) == ((2, 3), 6, 0, 3)
    assert (stats.mean, stats.zeros, stats.not_finite) == (1.5, 1, 2)
    assert stats.std == pytest.approx(np.std([0, 1, 2, 3]))
    assert stats.norm == pytest.approx(np.sqrt(14))
    assert sum(stats.histogram) == 4
    json.dumps(stats.as_data(), allow_nan=False)
    nothing = stats_of(np.array([np.nan]))
    assert nothing.as_data()["mean"] is None
    assert stats_of(np.full(5, 2.0)).histogram == [5]
    assert stats_of(np.zeros((0, 3))).values == 0


HUGE = [1.7e308, -1.7e308, 3.0]  # their distance is no double
TINY = [5e-324, 0, 1e-323]


@pytest.mark.parametrize("values", [
    np.random.RandomState(0).randn(200_000).astype(np.float32),  # several pieces
    np.arange(41, dtype=np.float32), np.arange(-128, 128).astype(np.float16),
    np.float32([np.inf, 1, 2, np.nan, -3]), np.array(HUGE), np.array(TINY),
    np.nextafter([1, 1], [1, 2]),
])  # fmt: skip
def test_histograms_are_numpy_s(values):
    stats = stats_of(values)
    good = values[np.isfinite(values)].astype(np.float64)
    if 1e-300 < good.max() < 1e300 and good.max() - good.min() > 1e-5:  # else np.histogram raises
        assert stats.histogram == np.histogram(good, len(stats.histogram))[0].tolist()
    assert sum(stats.histogram) == good.size
    assert stats.low == good.min() and stats.high == good.max()


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="only Linux tells of pages")
def test_figures_of_a_mapped_file_leave_its_pages(tmp_path, monkeypatch):
    """The pages of a large file are given back while it is read."""
    monkeypatch.setattr("caffeio.proto.io.streamed.AHEAD", 4 << 20)
    path = tmp_path / "numbers"
    values = np.random.RandomState(0).randn(24 << 20 >> 2).astype(np.float32)
    path.write_bytes(b"odd" + values.tobytes())
    with path.open("rb") as file:
        held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    array = np.frombuffer(memoryview(held), np.float32, values.size, 3)

    def resident():
        with open("/proc/self/pagemap", "rb") as pages:
            pages.seek(8 * (array.ctypes.data // mmap.PAGESIZE))
            told = np.fromfile(pages, np.uint64, array.nbytes // mmap.PAGESIZE + 1)
        return int((told >> 63).sum()) * mmap.PAGESIZE

    seen = []
    for at, piece in enumerate(streamed(array, 1 << 16)):
        assert np.array_equal(piece, values[at << 16 : (at + 1) << 16])
        seen.append(resident())
    assert len(seen) == 96
    assert 3 << 20 < max(seen) < 13 << 20  # with some pages of two megabytes
    assert stats_of(array) == stats_of(values)


def test_phases():
    assert shown_net(RECIPE / "net.prototxt").view.graph.phase == "TEST"
    assert shown_net(RECIPE / "net.prototxt", phase="TRAIN").view.graph.phase == "TRAIN"
    only_train = shown_net(RECIPE / "net_noaug.prototxt")
    assert only_train.view.graph.phase == "TRAIN"
    assert not only_train.warnings


def test_missing_inputs_are_named_and_can_be_given(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(
        'layer { name: "c" type: "Convolution" bottom: "data" top: "c" '
        "convolution_param { num_output: 2 kernel_size: 3 } }"
    )
    shown = shown_net(path)
    assert "nothing makes data" in shown.warnings[0]
    assert shown.view.outputs == [("c", None)]
    given_ = shown_net(path, inputs={"data": (1, 3, 8, 8)})
    assert given_.view.outputs == [("c", (1, 2, 6, 6))]
    assert given_.view.rows[1].node.where.endswith(":1:1")


def test_unknown_fields_and_problems_are_warned_of(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(
        'layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } }\n'
        'layer { name: "a" type: "InnerProduct" bottom: "x" top: "a"\n'
        "  inner_product_param { num_outputs: 2 } }\n"
    )
    shown = shown_net(path)
    text = "\n".join(shown.warnings)
    assert "num_outputs" in text and "did you mean num_output?" in text
    assert "net.prototxt:2:1" in text and "must be above 0" in text


def test_fields_that_no_data_source_reads_are_warned_of(tmp_path):
    """A training refuses them when it opens the source."""
    path = tmp_path / "net.prototxt"
    path.write_text(
        'layer { name: "d" type: "Data" top: "x" transform_param { rotate: true mirror: true }\n'
        '  data_param { source: "db" batch_size: 2 backend: LMDB side: 7 } }\n'
    )
    found = [line for line in shown_net(path).warnings if "fork's field" in line]
    assert [line.partition(": is a")[0].rpartition(", ")[2] for line in found] == [
        "transform_param.rotate",
        "data_param.side",
    ]


def weights_file() -> Path:
    path = GOLDEN / "nets" / "residual_inplace" / "weights.caffemodel"
    if not path.exists():
        pytest.skip("no weights among the golden nets")
    return path


def test_a_caffemodel():
    shown = shown_net(weights_file())
    report = nets.report(shown, nets.ShowOptions())
    assert report.data["dialect"] == shown.file.dialect
    names = {entry["name"] for entry in report.data["net"]["layers"]}
    assert set(shown.stats) <= names
    titles = [section.title for section in report.sections]
    assert titles == ["", "Layers", "Weights"]
    json.dumps(report.data, allow_nan=False)


def test_blobs_of_the_file_tell_what_cannot_be_inferred(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(
        'layer { name: "q" type: "Quux" bottom: "x" top: "y" }\n'
        'layer { name: "fc" type: "InnerProduct" bottom: "y" top: "z" '
        "inner_product_param { num_output: 2 } }"
    )
    net = pb.NetParameter()
    for name, count in (("q", 5), ("fc", 6)):
        blob = net.layer.add(name=name, type="X").blobs.add()
        blob.shape.dim.append(count)
        blob.data.extend([1.0] * count)
    weights = tmp_path / "w.caffemodel"
    weights.write_bytes(net.SerializeToString())
    shown = shown_net(path, weights=weights)
    assert shown.view.shapes.parameters == 11
    assert [row.parameters for row in shown.view.rows] == [0, 5, 6]


class Page(HTMLParser):
    """Collects what a page loads, and its ids."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href"):
                self.loads.append(value)
            if name == "id":
                self.ids.append(value)


def residual_page(tmp_path: Path) -> Path:
    source = tmp_path / "residual.prototxt"
    source.write_text(RESIDUAL.replace('"b1"', '"b<1>"'))
    shown = shown_net(source)
    generator = np.random.default_rng(0)
    shown.stats = {"a": [stats_of(generator.normal(size=(4, 3, 3, 3))), stats_of(np.zeros(4))]}
    shown.blob_types = {"a": "Convolution"}
    out = tmp_path / "net.html"
    out.write_text(page.render(shown, nets.report(shown, nets.ShowOptions())), encoding="utf-8")
    return out


def test_the_page_is_self_contained(tmp_path):
    parser = Page()
    text = residual_page(tmp_path).read_text(encoding="utf-8")
    parser.feed(text)
    assert parser.loads == []
    assert {f"node-{i}" for i in range(7)} | {f"layer-{i}" for i in range(7)} <= set(parser.ids)
    assert len(parser.ids) == len(set(parser.ids))
    assert "b<1>" not in text and html.escape("b<1>") in text
    assert text.count('class="histogram"') == 2


ACTIONS = """
<script>
const say = {};
const visible = () => rows.filter(r => !r.hidden).map(r => r.querySelector("b").textContent);
const type = text => { search.value = text; search.dispatchEvent(new Event("input")); };
say.all = visible();
type("convolution relu"); say.search = visible(); say.found = found.textContent;
say.dimmed = document.querySelectorAll(".box.off").length;
type("label"); say.by_blob = visible();
type("");
document.getElementById("open").click(); say.open = rows.filter(r => r.open).length;
document.getElementById("close").click(); say.closed = rows.filter(r => r.open).length;
box(4).dispatchEvent(new MouseEvent("click", { bubbles: true }));
say.picked = [...document.querySelectorAll("details.hit")].map(r => r.id);
say.unfolded = document.getElementById("layer-4").open;
document.getElementById("layer-1").querySelector("summary").click();
say.marked = [...document.querySelectorAll(".box.hit")].map(b => b.id);
const before = drawing.getBoundingClientRect().width;
document.getElementById("larger").click();
say.zoom = drawing.getBoundingClientRect().width / before;
say.bars = document.querySelectorAll("#layer-1 .histogram i").length;
say.drawn = document.getElementById("node-0").getBoundingClientRect().width > 20;
document.title = "DONE" + JSON.stringify(say);
</script>
"""


def test_the_page_works_in_a_browser(tmp_path):
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium is installed (Debian: apt install chromium)")
    path = residual_page(tmp_path)
    [script] = re.findall(r"<script>(.*?)</script>", ACTIONS, re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = path.read_text(encoding="utf-8").replace("</body>", ACTIONS + "</body>")
    assert "script-src 'sha256-" in page  # the page's own script alone; here the test's as well
    path.write_text(page.replace("script-src ", f"script-src 'sha256-{allowed}' "))
    result = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    title = re.search(r"<title>DONE(.*?)</title>", result.stdout, re.DOTALL)
    assert title is not None, result.stderr[-2000:]
    say = json.loads(html.unescape(title[1]))
    assert say["all"] == ["data", "a", "b<1>", "b2", "sum", "fc", "loss"]
    assert say["search"] == ["a"] and say["found"] == "1 of 7" and say["dimmed"] == 6
    assert say["by_blob"] == ["data", "loss"]
    assert (say["open"], say["closed"]) == (7, 0)
    assert say["picked"] == ["layer-4"] and say["unfolded"]
    assert say["marked"] == ["node-1"]
    assert say["zoom"] == pytest.approx(1.25, rel=0.01)
    assert say["bars"] == 41 and say["drawn"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("layer { name: 'x' base_lr: 1 }", "net"),
        ("input: 'data' input_dim: 1", "net"),
        ("# layer {\nbase_lr: 0.1", "solver"),
        ("net: 'layer {'", "solver"),
        ("net_param { layer { } } base_lr: 1", "solver"),
        ("item { name: 'cat' label: 1 }", "labelmap"),
        ("hello", "text"),
    ],
)
def test_kinds_of_text(text, kind):
    assert kind_of_text(text) == kind


def test_kinds_of_files(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "junk").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "lfs.caffemodel").write_text("version https://git-lfs.github.com/spec/v1\n")
    for name, message in (("empty", "empty"), ("junk", "neither"), ("lfs.caffemodel", "LFS"),
                          ("none", "no such file")):  # fmt: skip
        with pytest.raises(CaffeIOError, match=message):
            kind_of(tmp_path / name)
    state = pb.SolverState(iter=3, current_step=0)
    state.history.add().data.extend([1.0] * 40000)
    state.minimum_loss = 1.0
    (tmp_path / "s").write_bytes(state.SerializeToString())
    assert kind_of(tmp_path / "s") == "solverstate"
    mean = pb.BlobProto(num=1, channels=3, height=2, width=2, data=[1.0] * 12)
    (tmp_path / "m").write_bytes(mean.SerializeToString())
    assert kind_of(tmp_path / "m") == "mean"
    net = pb.NetParameter(name="n")
    net.layer.add(name="x", type="ReLU")
    (tmp_path / "n").write_bytes(net.SerializeToString())
    assert kind_of(tmp_path / "n") == "caffemodel"


def test_the_kind_of_a_text_is_found_in_linear_time():
    """A megabyte of quotes or spaces took hours: the test would not end."""
    n = 1 << 19
    for text in ('name: "' + '\\"' * n, "layer" + " " * n, "'" * n, "item" + "\n" * n, '"a' * n):
        assert kind_of_text(text) in ("text", "net")
    assert kind_of_text("layer : {}") == kind_of_text("layers{ }") == "net"
    assert kind_of_text('name: "layer {"\nnet: "x"') == "solver"


@pytest.mark.parametrize("profile", list(PROFILES))
def test_a_scale_that_the_caffe_merges_is_not_counted_twice(tmp_path, profile):
    """Intel's MKL-DNN engine lets BatchNorm take in the Scale behind it."""
    text = (
        'input: "x" input_dim: [1, 3, 8, 8] layer { name: "bn" type: "BatchNorm" bottom: "x" '
        'top: "x2" } layer { name: "sc" type: "Scale" bottom: "x2" top: "y" '
        'scale_param { bias_term: true } } layer { name: "r" type: "ReLU" bottom: "y" top: "y" }'
    )
    path = tmp_path / "n.prototxt"
    path.write_text(text)
    net = load_net(path, profile=profile, device="meta")
    parameters = sum(blob.numel() for blobs in net.params.values() for blob in blobs)
    shown = nets.load(Source(path.name, path, "net"), nets.ShowOptions(caffe=profile))
    told = nets.data_of(shown)["net"]
    kept = [layer["name"] for layer in told["layers"]]
    assert told["parameters"] == parameters
    assert kept[1:] == [name for name in net.layer_names if name in ("bn", "sc", "r")]
    side = NetSide("n", read_net(path).message, PROFILES[profile])
    assert side.shapes["TEST"].parameters == parameters
