"""Readers start cold in several threads at once: the tables that they share are never half made."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from caffeio import load_solver, read_net
from caffeio.errors import CaffeIOError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.dialect import detect_dialect, rules, schema
from caffeio.proto.text import tables

SOLVERS = [
    'net: "a" base_lr: 0.1 lr_policy: "step" stepsize: 10 gamma: 0.1 max_iter: 100 momentum: 0.9',
    'lr_policy: "multistep" stepvalue: 3 stepvalue: 5 power: 1 weight_decay: 1e-4 test_iter: 3',
    'max_iter: 5 snapshot: 2 snapshot_prefix: "s" type: "Adam" momentum2: 0.99 delta: 1e-8 ',
    'net: "b" display: 5 average_loss: 4 solver_mode: GPU device_id: 1 random_seed: 3 iter_size: 2',
]


@pytest.fixture(autouse=True)
def _hurry() -> Iterator[None]:
    """Let threads take turns a million times a second."""
    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(old)


def together(works: list[Callable[[], Any]]) -> list[Any]:
    """The results, or errors, of works that begin at the same moment."""
    start = threading.Barrier(len(works))
    results: list[Any] = [None] * len(works)

    def run(index: int) -> None:
        start.wait()
        try:
            results[index] = works[index]()
        except CaffeIOError as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_texts_are_read_alike_by_threads_that_start_cold() -> None:
    wanted = [str(load_solver(text).message) for text in SOLVERS]
    for _ in range(100):
        tables.table.cache_clear()
        found = together([lambda text=text: str(load_solver(text).message) for text in SOLVERS])
        assert found == wanted


def test_fields_of_a_table_have_bits_of_their_own_from_the_begin() -> None:
    table = tables.MessageTable(pb.SolverParameter.DESCRIPTOR, None)
    bits = [field.bit for field in table.fields.values() if field.bit]
    assert len(bits) == len(set(bits)) > 50
    assert all(bit & (bit - 1) == 0 for bit in bits)


def test_a_list_of_messages_that_must_have_fields_is_closed() -> None:
    text = 'layer: [{ name: "a" type: "Input" }, { name: "b" type: "Silence" bottom: "a" }]'
    assert [layer.name for layer in read_net(text).message.layer] == ["a", "b"]


def test_dialects_know_all_their_fields_in_threads_that_start_cold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def count() -> int:
        """How many rules can be reached from a net, over all dialects."""
        todo = [rules.rules_of(name, "NetParameter") for name in schema.dialect_names()]
        seen: set[int] = set()
        while todo:
            index = todo.pop()
            if index >= 0 and index not in seen:
                seen.add(index)
                todo += [rule.inner for rule in rules.rule_table(index).values()]
        return len(seen)

    wanted = count()
    assert wanted > 500
    for _ in range(6):
        for name, empty in (
            ("_RULES", []),
            ("_KNOWN", {}),
            ("_BLOBS", set()),
            ("_RULES_BY_DIALECT", {}),
        ):
            monkeypatch.setattr(rules, name, empty)
        detect_dialect._rules_for.cache_clear()
        assert together([count] * 4) == [wanted] * 4
    monkeypatch.undo()
    detect_dialect._rules_for.cache_clear()


def test_the_rules_do_not_depend_on_which_are_asked_for_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def inner(first: str) -> list[bool]:
        for name, empty in (
            ("_RULES", []),
            ("_KNOWN", {}),
            ("_BLOBS", set()),
            ("_RULES_BY_DIALECT", {}),
        ):
            monkeypatch.setattr(rules, name, type(empty)())
        rules.rules_of("bvlc-opencl", first)
        table = rules.rule_table(rules.rules_of("bvlc-opencl", "LayerParameter"))
        return [rule.inner < 0 for _, rule in sorted(table.items())]

    assert inner("MOEParameter") == inner("NetParameter") == inner("LayerParameter")
    assert rules.rules_of("bvlc", "MOEParameter") == rules.rules_of("bvlc", "MOEParameter")
