"""JSON of every command is JSON to every reader: no NaN, no Infinity."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffeio._json import to_json
from caffeio.cli._watch import Watcher, as_json
from caffeio.converters.plot import read_losses
from caffeio.training.events import Scores
from tests.paths import ROOT


def strict(text: str) -> Any:
    """Parse as a reader that knows RFC 8259 only."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_numbers_that_are_not_finite_are_null() -> None:
    value = {"a": [1.5, math.nan, (math.inf, -math.inf)], "b": {"c": np.float64("nan")}, "d": 3}
    assert strict(to_json(value)) == {"a": [1.5, None, [None, None]], "b": {"c": None}, "d": 3}
    assert strict(to_json({math.nan: 1})) == {"nan": 1}


def test_texts_stay_readable_where_an_encoding_has_them() -> None:
    assert to_json({"name": "größe"}) == '{"name": "größe"}'
    odd = to_json({"path": "gr\udcf6sse"})
    odd.encode("utf-8")
    assert json.loads(odd) == {"path": "gr\udcf6sse"}


def test_metrics_of_a_training_that_diverges_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Watcher("m.jsonl", show=False) as watcher:
        for i, loss in enumerate([0.5, math.nan]):
            watcher.iteration({"iter": i + 1, "lr": math.inf, "loss": np.float32(loss),
                               "seconds": 0.0, "images": 4})  # fmt: skip

        watcher.test(Scores(0, 2, math.inf, {"accuracy": np.array([0.5, math.nan], np.float32)}))
    rows = [strict(line) for line in Path("m.jsonl").read_text().splitlines()]
    assert [row.get("loss") for row in rows[:2]] == [0.5, None]
    assert rows[0]["lr"] is None
    assert (rows[2]["test_loss"], rows[2]["outputs"]) == (None, {"accuracy": [0.5, None]})
    losses = read_losses("m.jsonl")
    assert losses[0] == 0.5
    assert math.isnan(losses[1])


def test_a_float32_is_written_as_short_as_it_reads_back() -> None:
    assert as_json(np.float32(0.1)) == 0.1
    assert as_json(np.array([[0.1, np.inf]], np.float32)) == [[0.1, math.inf]]


def test_nothing_else_writes_json() -> None:
    """safetensors' header holds texts and whole numbers only; visible.py escapes one character."""
    files = [path for room in ("caffeio", "cli", "converters", "proto", "docs")
             for path in (ROOT / room).rglob("*.py")]  # fmt: skip
    writers = {path.name for path in files if "json.dump" in path.read_text()}
    assert writers == {"_json.py", "safetensors.py", "visible.py"}
