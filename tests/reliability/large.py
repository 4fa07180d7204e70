"""Nets of any length, and a count of how often each function of ours works on them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from tests.paths import NIGHT, ROOT

HEAD = """name: "large"
layer { name: "data" type: "Input" top: "b0" input_param { shape { dim: 1 dim: 3 dim: 4 dim: 4 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 1 } } }
"""
CONV = "convolution_param { num_output: 3 kernel_size: 1 }"


def line(name: str, kind: str, bottoms: list[str], tops: list[str], more: str = "") -> str:
    ends = "".join(f' bottom: "{b}"' for b in bottoms) + "".join(f' top: "{t}"' for t in tops)
    return f'layer {{ name: "{name}" type: "{kind}"{ends} {more} }}\n'


def chain(i: int) -> str:
    """Convolutions, normalizations and sums, each blob with a name of its own."""
    bottom, top = f"b{i}", f"b{i + 1}"
    match i % 5:
        case 0:
            return line(f"conv{i}", "Convolution", [bottom], [top], CONV)
        case 1:
            return line(f"bn{i}", "BatchNorm", [bottom], [top])
        case 2:
            return line(f"scale{i}", "Scale", [bottom], [top], "scale_param { bias_term: true }")
        case 3:
            return line(f"relu{i}", "ReLU", [bottom], [top])
        case _:
            return line(f"sum{i}", "Eltwise", [bottom, f"b{i - 2}"], [top])


def in_place(i: int) -> str:
    """Everything on one blob."""
    return line(f"l{i}", ("ReLU", "Power", "Scale", "Dropout", "BatchNorm")[i % 5], ["b0"], ["b0"])


def readers(i: int) -> str:
    """Everybody reads one blob."""
    return line(f"r{i}", "ReLU", ["b0"], [f"r{i}"])


def losses(i: int) -> str:
    """Each layer has a loss."""
    more = "loss_weight: 0.5 inner_product_param { num_output: 2 }"
    head = line(f"ip{i}", "InnerProduct", ["b0"], [f"y{i}"], more)
    return head + line(f"loss{i}", "SoftmaxWithLoss", [f"y{i}", "label"], [f"loss{i}"])


def shared(i: int) -> str:
    """All share their weights, and have the same name."""
    more = 'param { name: "w" } param { name: "b" } ' + CONV
    return line("same", "Convolution", [f"b{i}"], [f"b{i + 1}"], more)


def shapes(i: int) -> str:
    """Names for one piece of memory."""
    if i % 2:
        return line(f"f{i}", "Flatten", [f"b{i}"], [f"b{i + 1}"])
    more = "reshape_param { shape { dim: 1 dim: 48 } }"
    return line(f"s{i}", "Reshape", [f"b{i}"], [f"b{i + 1}"], more)


def phases(i: int) -> str:
    """Each layer once a phase, with rules, frozen, unread tops."""
    more = "param { lr_mult: 0 } inner_product_param { num_output: 3 } include { phase: %s }"
    return "".join(
        line(f"ip{i}", "InnerProduct", ["b0"], [f"y{i}"], more % phase)
        for phase in ("TRAIN", "TEST")
    )


def old(i: int) -> str:
    """The layers of 2014."""
    return (
        f'layers {{ name: "c{i}" type: CONVOLUTION bottom: "b{i}" top: "b{i + 1}" blobs_lr: 1 '
        "blobs_lr: 2 convolution_param { num_output: 3 kernel_size: 1 } }\n"
    )


KINDS = {f.__name__: f for f in (chain, in_place, readers, losses, shared, shapes, phases, old)}


def net(kind: str, count: int) -> str:
    """A net of `count` layers or pairs of layers."""
    make = KINDS[kind]
    head = HEAD
    if kind == "old":
        head = 'name: "large"\ninput: "b0"\ninput_dim: 1 input_dim: 3 input_dim: 4 input_dim: 4\n'
    return head + "".join(make(i) for i in range(count))


def wide(count: int) -> str:
    """One layer that cuts a blob into `count`, and some that join them."""
    tops = [f"t{i}" for i in range(count)]
    points = " ".join(f"slice_point: {i}" for i in range(1, count))
    text = line("data", "Input", [], ["b0"], f"input_param {{ shape {{ dim: 1 dim: {count} }} }}")
    text += line("cut", "Slice", ["b0"], tops, f"slice_param {{ {points} }}")
    return text + line("join", "Concat", tops, ["o"]) + line("sum", "Eltwise", tops, ["s"])


def stages(count: int) -> str:
    """A layer under a rule of `count` stages, in a net that has them all."""
    words = " ".join(f'stage: "s{i}"' for i in range(count))
    return (
        HEAD
        + "state { "
        + words
        + " }\n"
        + line("r", "ReLU", ["b0"], ["r"], "include { " + words + " }")
    )


def work(run: Callable[[], Any]) -> Counter[CodeType]:
    """How many lines each function of ours runs, loops and comprehensions included."""
    found: Counter[CodeType] = Counter()
    ours: dict[CodeType, bool] = {}
    folder = str(ROOT)

    def count(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            found[frame.f_code] += 1
        return count

    def begin(frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        if code not in ours:
            name = code.co_filename
            ours[code] = name.startswith(folder) and "/tests/" not in name and "/.venv" not in name
        return count if ours[code] else None

    before = sys.gettrace()
    sys.settrace(begin)
    try:
        run()
    finally:
        sys.settrace(before)
    return found


def grows(run: Callable[[int], Callable[[], Any]], base: int = 20 if NIGHT else 14) -> list[str]:
    """The functions whose work grows faster than a net's length, with what they did."""
    run(base)()  # what is imported, and learned, once
    counts = [work(run(base * factor)) for factor in (2, 4)]
    out = []
    for code, large in counts[1].items():
        small = counts[0][code]
        if large > 30 * base and large > 2.7 * max(small, 1):
            out.append(
                f"{code.co_filename}:{code.co_firstlineno} {code.co_qualname}: {small} -> {large}"
            )
    return out
