"""`show` at 80 columns: one screen, whole words; several solvers as a chain."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from caffeio.cli.main import main
from caffeio.converters.report.fit import broken, fit
from caffeio.converters.report.model import Cell, Report, Table
from caffeio.converters.report.text import write
from caffeio.net import load_net
from tests.paths import SHARED, needs_shared


def show(*arguments: str, columns: int = 80, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["show", *arguments], env={"COLUMNS": str(columns)})
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def long_net(blocks: int = 40) -> str:
    text = 'layer { name: "data" type: "Input" top: "data" input_param { shape {'
    text += " dim: 1 dim: 3 dim: 32 dim: 32 } } }\n"
    bottom = "data"
    for i in range(blocks):
        text += f'layer {{ name: "block{i}_convolution" type: "Convolution" bottom: "{bottom}" '
        text += f'top: "c{i}" convolution_param {{ num_output: 8 kernel_size: 3 pad: 1 }} }}\n'
        for kind in ("BatchNorm", "Scale", "ReLU"):
            text += f'layer {{ name: "{kind}{i}" type: "{kind}" bottom: "c{i}" top: "c{i}" }}\n'
        bottom = f"c{i}"
    return text


def test_a_long_net_fits_one_screen_and_breaks_no_word(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(long_net())
    lines = show(str(tmp_path / "net.prototxt")).splitlines()
    assert len(lines) <= 45 and max(map(len, lines)) <= 80
    assert any(re.match(r"block3_convolution +Conv\+BN\+Scale\+ReLU +1x8x32x32 ", x) for x in lines)
    assert "... 17 more (--all)" in lines
    everything = show(str(tmp_path / "net.prototxt"), "-a")
    assert all(f"BatchNorm{i} " in everything for i in range(40)) and "(--all)" not in everything


def test_where_there_is_room_types_and_memory_are_whole(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(long_net(2))
    text = show(str(tmp_path / "net.prototxt"), columns=140)
    assert "Convolution+BatchNorm+Scale+ReLU" in text and "memory" in text


def test_lines_break_between_words() -> None:
    table = Table(("file", "words"))
    table.add("a/long/path/to/a/file.prototxt", "three short words")
    fitted = fit(table, 30)
    assert sum(fitted.widths) + 2 <= 30
    path, words = (text for text, _ in fitted.rows[0])
    assert path.replace("\n", "") == "a/long/path/to/a/file.prototxt"
    assert words.split() == ["three", "short", "words"]
    assert broken("Convolution+BatchNorm", 12) == "Convolution+\nBatchNorm"
    assert broken("unbreakable_name", 8) == "unb…name" or "…" in broken("unbreakable_name", 8)
    assert broken("12,345 and 6", 7) == "12,345\nand 6"


def test_short_forms_and_spare_columns_come_before_breaks(tmp_path: Path) -> None:
    table = Table(("name", "type", "more"), spare=(2,))
    table.add("n", Cell("InnerProduct", short="IP"), "m" * 10)
    assert fit(table, 40).rows[0][1][0] == "InnerProduct"
    assert [text for text, _ in fit(table, 22).rows[0]] == ["n", "IP", "m" * 10]
    assert [text for text, _ in fit(table, 12).rows[0]] == ["n", "IP"]


def test_the_middle_of_long_tables_goes_first_and_columns_stay_in_line(tmp_path: Path) -> None:
    report = Report("t")
    table = report.section("").table("number", "square", right=(0, 1))
    for i in range(100):
        table.add(str(i), str(i * i))
    with (tmp_path / "out").open("w") as stream:
        write(report, stream, width=80, most=6)
    lines = (tmp_path / "out").read_text().splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["number", "0", "1", "2", "3", "...", "98", "99"]
    assert len({len(line.rstrip()) for line in lines if "..." not in line}) == 1


SOLVER = """net: "none.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: {n}
snapshot_prefix: "s{n}" solver_mode: CPU
"""


@needs_shared
def test_the_recipe_of_128_workers() -> None:
    """24.94 + 11.99 + 15.19 + 15.19 + 4.987 epochs (../shared/seed, 128 workers of 32 images)."""
    names = ("init", "cyc1", "cyc2", "cyc3", "collapse")
    files = [str(SHARED / "seed" / f"solver_{name}.prototxt") for name in names]
    options = ["--workers", "128", "--dataset-size", "1281167", "--speed", "20000"]
    data = json.loads(show(*files, *options, "--json"))
    assert [p["run"]["images"] for p in data["phases"]] == [
        32 * 128 * n for n in (7800, 3750, 4750, 4750, 1560)
    ]
    assert data["images"] == 32 * 128 * 22610
    assert data["epochs"] == pytest.approx(92610560 / 1281167)
    assert data["hours"] == pytest.approx(92610560 / 20000 / 3600)
    text = show(*files, *options)
    assert "24.94" in text and "72.29 of 1,281,167 images" in text and "1.29 h" in text
    assert max(map(len, text.splitlines())) <= 80
    one = show(files[0], *options)
    assert "4,096 (32 a batch x 128 workers)" in one and "24.94 of 1,281,167" in one
    assert "26.6 min" in one and len(one.splitlines()) <= 60


def test_a_chain_without_its_net_says_what_is_not_known(tmp_path: Path) -> None:
    for n in (10, 20):
        (tmp_path / f"solver_{n}.prototxt").write_text(SOLVER.format(n=n))
    files = [str(tmp_path / f"solver_{n}.prototxt") for n in (10, 20)]
    text = show(*files)
    assert "the net none.prototxt was not found" in text.replace("\n", " ")
    assert re.search(r"iterations +30\b", text) and "unknown (no batch size found)" in text
    assert "--speed" in text


def test_a_net_may_be_followed_by_its_weights(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(long_net(1))
    load_net(tmp_path / "net.prototxt").save(tmp_path / "w.caffemodel")
    both = [str(tmp_path / "net.prototxt"), str(tmp_path / "w.caffemodel")]
    assert show(*both) == show(both[0], "--weights", both[1])
    assert "std" in show(*both)


def test_several_files_are_solvers(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(long_net(1))
    (tmp_path / "solver.prototxt").write_text(SOLVER.format(n=1))
    message = show(str(tmp_path / "solver.prototxt"), str(tmp_path / "net.prototxt"), code=2)
    assert "chain of solvers: this is a net prototxt" in message
