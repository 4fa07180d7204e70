"""An If whose condition is known becomes its branch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caffeio.converters.from_onnx.graph import Array
from caffeio.converters.from_onnx.model import Model


def outer_values(node: Any) -> set[str]:
    """Values from outside that the graphs inside a node read."""
    out: set[str] = set()
    for attribute in node.attribute:
        if attribute.HasField("g"):
            graph = attribute.g
            inside = {item.name for item in (*graph.input, *graph.initializer)}
            for inner in graph.node:
                out.update(
                    name for name in (*inner.input, *outer_values(inner)) if name not in inside
                )
                inside.update(inner.output)
            out.update(item.name for item in graph.output if item.name not in inside)
    return out


def inline_ifs(model: Model, constant: set[str], values: Mapping[str, Array]) -> bool:
    """Replace an If whose condition is known by its branch; true if there was one."""
    nodes, changed = [], False
    for number, node in enumerate(model.graph.node):
        known = node.op_type == "If" and node.input[0] in constant
        if not known or set(node.output) <= constant:
            nodes.append(node)
            continue
        changed = True
        chosen = "then_branch" if bool(values[node.input[0]]) else "else_branch"
        branch = next(a.g for a in node.attribute if a.name == chosen)
        nodes += _branch_nodes(model, branch, node, f"if{number}_")
    if changed:
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(copies)
    return changed


def _branch_nodes(model: Model, branch: Any, node: Any, prefix: str) -> list[Any]:
    import onnx

    inside = {name for inner in branch.node for name in inner.output if name}
    inside |= {tensor.name for tensor in branch.initializer}
    names = {name: prefix + name for name in inside}
    for tensor in branch.initializer:
        copy = model.graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = names[tensor.name]
    out = []
    for inner in branch.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(inner)
        copy.input[:] = [names.get(name, name) for name in inner.input]
        copy.output[:] = [names.get(name, name) for name in inner.output]
        out.append(copy)
    for item, outer in zip(branch.output, node.output, strict=True):
        out.append(onnx.helper.make_node("Identity", [names.get(item.name, item.name)], [outer]))
    return out
