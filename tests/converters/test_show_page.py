"""The page of a net in a real browser: fitted, centred, nothing cut, dark where the reader is."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from caffeio.cli.main import main
from caffeio.demo import recipe
from caffeio.net import load_net
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import read_net
from tests.paths import NIGHT, ROOT, SHARED, needs_shared

nightly = pytest.mark.skipif(not NIGHT, reason="at night: a net like that of the test above")
NAMES = ("chromium", "chromium-browser", "google-chrome")

LENET = """
name: "LeNet"
layer { name: "mnist" type: "Data" top: "data" top: "label"
  data_param { source: "not_here" batch_size: 64 } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 20 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool1" top: "ip"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""

LOOK = """
const say = {};
const frameRect = frame.getBoundingClientRect();
const boxes = [...document.querySelectorAll(".box")].map(b => b.getBoundingClientRect());
const within = (a, b, by) => a.left >= b.left - by && a.right <= b.right + by &&
  a.top >= b.top - by && a.bottom <= b.bottom + by;
say.boxes = boxes.length;
say.cut = boxes.filter(b => !within(b, frameRect, 0)).length;
say.edgesCut = [...document.querySelectorAll("#graph > svg > path")]
  .filter(p => !within(p.getBoundingClientRect(), frameRect, 1)).length;
const all = drawing.getBoundingClientRect();
say.offX = (all.left - frameRect.left) - (frameRect.right - all.right);
say.offY = (all.top - frameRect.top) - (frameRect.bottom - all.bottom);
say.touches = Math.min(all.left - frameRect.left, all.top - frameRect.top);
say.overlaps = 0;
for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++) {
  const a = boxes[i], b = boxes[j];
  say.overlaps += a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}
say.crossed = [...document.querySelectorAll("#graph > svg > path")].filter(path => {
  const long = path.getTotalLength(), to = path.getScreenCTM();
  return Array.from({ length: 200 }, (_, i) => path.getPointAtLength(long * i / 199)
    .matrixTransform(to)).some(p => boxes.some(b => p.x > b.left + 1 && p.x < b.right - 1 &&
      p.y > b.top + 1 && p.y < b.bottom - 1));
}).length;
say.zoom = zoom;
say.wide = document.documentElement.scrollWidth - window.innerWidth;
scale(1 / zoom);
say.textCut = [...document.querySelectorAll(".box")].filter(b => {
  const [rect, ...texts] = [b.querySelector("rect"), ...b.querySelectorAll("text")];
  const inside = rect.getBoundingClientRect();
  return texts.some(t => !within(t.getBoundingClientRect(), inside, 1));
}).length;
fit();
const light = colour => {
  const [r, g, b] = colour.match(/[\\d.]+/g).map(Number);
  return (r + g + b) / 765;
};
const style = (e, name) => getComputedStyle(e)[name];
const one = document.querySelector(".box");
say.ground = light(style(frame, "backgroundColor"));
say.paper = light(style(one.querySelector("rect"), "fill"));
say.ink = light(style(one.querySelector("text"), "fill"));
const hidden = () => [...document.querySelectorAll("#graph .label")].map(e => style(e, "display"));
say.labels = hidden();
document.getElementById("labels").click(); say.shown = hidden();
document.getElementById("labels").click();
const x = frameRect.left + 0.3 * frameRect.width, y = frameRect.top + 0.6 * frameRect.height;
const under = () => {
  const r = drawing.getBoundingClientRect();
  return [(x - r.left) / r.width, (y - r.top) / r.height];
};
const before = [zoom, ...under()];
frame.dispatchEvent(new WheelEvent("wheel", { deltaY: -100, clientX: x, clientY: y,
  cancelable: true, bubbles: true }));
say.wheel = zoom / before[0];
say.drift = Math.hypot(under()[0] - before[1], under()[1] - before[2]);
const start = drawing.getBoundingClientRect();
const point = (kind, dx, dy) => new PointerEvent(kind, { pointerId: 1, clientX: x + dx,
  clientY: y + dy, bubbles: true, button: 0 });
frame.dispatchEvent(point("pointerdown", 0, 0));
frame.dispatchEvent(point("pointermove", 40, 30));
frame.dispatchEvent(point("pointerup", 40, 30));
frame.dispatchEvent(point("pointermove", 90, 90));
const moved_ = drawing.getBoundingClientRect();
say.pan = [moved_.left - start.left, moved_.top - start.top];
document.getElementById("layer-1").querySelector("summary").click();
const target = box(1).getBoundingClientRect();
say.centred = Math.hypot(target.left + target.width / 2 - frameRect.left - frameRect.width / 2,
  target.top + target.height / 2 - frameRect.top - frameRect.height / 2);
document.getElementById("fit").click();
say.fitted = zoom === before[0];
say.filters = [...document.querySelectorAll(".filters img")].map(i =>
  [i.naturalWidth, i.naturalHeight, i.closest("details").id]);
say.svg = drawn();
painted(blob => {
  const reader = new FileReader();
  reader.onload = () => {
    say.png = reader.result.split(",")[1];
    document.title = "DONE" + JSON.stringify(say);
  };
  reader.readAsDataURL(blob);
});
"""


def look(page: Path, *options: str, size: str = "1400,900") -> dict[str, Any]:
    """What a browser says of the page."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        pytest.skip("no Chromium is installed (Debian: apt install chromium)")
    allowed = base64.b64encode(hashlib.sha256(LOOK.encode()).digest()).decode()
    text = page.read_text(encoding="utf-8")
    text = text.replace("</body>", f"<script>{LOOK}</script></body>")
    page.write_text(
        text.replace("script-src ", f"script-src 'sha256-{allowed}' "), encoding="utf-8"
    )
    for _ in range(3):  # a browser that is started on a busy machine may give up by itself
        with tempfile.TemporaryDirectory(
            ignore_cleanup_errors=True
        ) as profile:  # two browsers at once share none
            result = subprocess.run(
                [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={size}",
                 f"--user-data-dir={profile}", *options, "--virtual-time-budget=8000",
                 "--dump-dom", page.as_uri()],
                capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
        title = re.search(r"<title>DONE(.*?)</title>", result.stdout, re.DOTALL)
        if title is not None:
            break
    assert title is not None, result.stderr[-2000:]
    said: dict[str, Any] = json.loads(html.unescape(title[1]))
    return said


def page_of(folder: Path, source: Path, *options: str) -> Path:
    out = folder / "page.html"
    with pytest.raises(SystemExit) as end:
        main(["show", str(source), "--html", "-o", str(out), *options])
    assert end.value.code == 0
    return out


def resnet(folder: Path) -> Path:
    """The demo's residual net, with as many blocks as ResNet-50 has."""
    body = recipe.net(folder, augment=True)
    head, _, tail = body.partition('layer {\n  name: "pool5"')
    bottom = "res4a"
    for i in range(13):
        head += recipe._block(f"more{i}", bottom, 64, 1)
        bottom = f"more{i}"
    path = folder / "deep.prototxt"
    path.write_text(head + 'layer {\n  name: "pool5"' + tail.replace('"res4a"', f'"{bottom}"'))
    return path


def check(said: dict[str, Any], boxes: int) -> None:
    assert said["boxes"] == boxes
    assert said["cut"] == said["edgesCut"] == said["overlaps"] == said["textCut"] == 0
    assert said["crossed"] == 0  # an edge that runs behind a box seems to end there
    assert abs(said["offX"]) < 1 and abs(said["offY"]) < 1 and said["touches"] >= -0.5
    assert said["wide"] <= 0
    assert said["wheel"] == pytest.approx(1.25) and said["drift"] < 0.002
    assert said["pan"] == pytest.approx([40, 30], abs=0.5)
    assert said["centred"] < 1 and said["fitted"]
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(said["png"]), np.uint8), 1)
    root = ElementTree.fromstring(said["svg"])
    assert picture.shape[1] == pytest.approx(2 * float(root.get("width", "0")), abs=2)
    assert (picture == 255).all(2).mean() > 0.2 and picture.std() > 10  # drawn, on white paper
    space = "{http://www.w3.org/2000/svg}"
    assert len([g for g in root.iter(f"{space}g") if g.get("class") == "box"]) == boxes
    assert root.find(f"{space}style") is not None


def test_lenet(tmp_path: Path) -> None:
    source = tmp_path / "lenet.prototxt"
    source.write_text(LENET)
    said = look(page_of(tmp_path, source))
    check(said, 6)
    assert said["labels"] == ["none", "none"] and said["shown"] == ["inline", "inline"]
    assert said["zoom"] > 0.8 and said["ground"] > 0.9 and said["paper"] > 0.9 and said["ink"] < 0.3
    assert "label" not in said["svg"].partition("</style>")[2]


def test_lenet_in_the_dark_on_a_phone_with_filters(tmp_path: Path) -> None:
    source = tmp_path / "lenet.prototxt"
    source.write_text(LENET.replace('type: "Data" top: "data" top: "label"', 'type: "Input" '
        'top: "data" top: "label" input_param { shape { dim: [2, 1, 28, 28] } shape { dim: 2 } }')
        .replace('data_param { source: "not_here" batch_size: 64 }', ""))  # fmt: skip
    weights = tmp_path / "w.caffemodel"
    load_net(source).save(weights)
    page = page_of(tmp_path, source, "--weights", str(weights))
    said = look(page, "--blink-settings=preferredColorScheme=0", size="600,900")
    check(said, 6)
    assert said["ground"] < 0.2 and said["paper"] < 0.3 and said["ink"] > 0.8
    [(width, height, layer)] = said["filters"]
    assert layer == "layer-1" and width > 400 and height > 300


def test_a_deep_residual_net(tmp_path: Path) -> None:
    said = look(page_of(tmp_path, resnet(tmp_path)))
    check(said, 2 + 16 * 3 + 2 + 4)
    assert said["zoom"] > 0.35  # the columns keep it readable


@pytest.mark.parametrize("name", ["googlenet_like", "ssd_like"])
def test_branches(tmp_path: Path, name: str) -> None:
    source = ROOT / "tests" / "nets" / f"{name}.prototxt"
    layers = [
        layer
        for layer in read_net(source).message.layer
        if pb.TRAIN not in [rule.phase for rule in layer.include]
    ]
    boxes = sum(list(layer.bottom) != list(layer.top) for layer in layers)  # others are folded
    check(look(page_of(tmp_path, source)), boxes)


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "boxes"),
    [
        pytest.param("seed/train_val.prototxt", 76, marks=nightly),
        ("corpus/caffemodels/res10_ssd/deploy.prototxt.txt", 0),
    ],
)
def test_known_nets(tmp_path: Path, name: str, boxes: int) -> None:
    said = look(page_of(tmp_path, SHARED / name))
    check(said, boxes or said["boxes"])
