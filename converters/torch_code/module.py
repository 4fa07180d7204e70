"""Net -> the text of a Python file that defines it as a PyTorch module, and its tensors."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from caffeio.converters.onnx.build import batch_norm_pairs, needed_steps
from caffeio.converters.torch_code import forms, map_forms, region_forms, weight_forms
from caffeio.converters.torch_code.copied import Copied
from caffeio.converters.torch_code.text import TorchText, form_of, identifier
from caffeio.errors import UnsupportedError
from caffeio.layers.batch_norm import BatchNorm
from caffeio.net.net import Net
from caffeio.net.step import Step
from caffeio.shape_text import format_shape

WIDTH = 88  # lines are joined up to here
_LOADED = (forms, map_forms, region_forms, weight_forms)  # they register themselves


@dataclass
class CodeLine:
    """One assignment of forward."""

    targets: tuple[str, ...]
    value: str

    @property
    def text(self) -> str:
        """The statement."""
        return f"{', '.join(self.targets)} = {self.value}"


@dataclass
class WrittenModule:
    """A module: its source, its state_dict, and the blobs that go in and come out, in order."""

    name: str  # of the class
    source: str
    tensors: dict[str, Tensor]
    inputs: list[str]
    outputs: list[str]


class ModuleWriter:
    """Writes one net."""

    def __init__(self, net: Net, outputs: Sequence[str], name: str = "") -> None:
        made = {top for step in net.steps if not step.layer.is_source for top in step.tops}
        self.net, self.text = net, TorchText()
        self.kind = class_name(net.name or name)
        self.outputs = list(outputs) or [blob for blob in net.outputs if blob in made]
        if not self.outputs:
            raise UnsupportedError(f"net {net.name!r} has no output to export")
        self.needed = needed_steps(net, self.outputs)
        self.names: dict[str, str] = {}  # blob -> variable
        self.values: dict[str, str] = {}  # blob -> the variable that holds it now
        self.lines: list[CodeLine] = []

    def run(self, head: str) -> WrittenModule:
        """Write the module; `head` is the first line of its docstring."""
        merged = dict(batch_norm_pairs(self.net, self.needed, self.outputs))
        scales = set(merged.values())
        held: dict[str, tuple[Step, str]] = {}
        inputs: list[str] = []
        for i, step in enumerate(self.net.steps):
            if i not in self.needed:
                continue
            self.text.layer = step.layer
            if step.layer.is_source:
                used = [top for top in step.tops if self._is_used(top, i)]
                inputs += used
                self.values.update({top: self._name(top) for top in used})
            elif i in merged:
                held[step.tops[0]] = (step, self.values[step.bottoms[0]])
                self.values[step.tops[0]] = self.values[step.bottoms[0]]
            elif i in scales:
                self._batch_norm(step, *held.pop(step.bottoms[0]))
            else:
                self._layer(step)
        result = [self.values[blob] for blob in self.outputs]
        source = self._source(head, inputs, joined(self.lines), result)
        return WrittenModule(self.kind, source, self.text.tensors, inputs, self.outputs)

    def _is_used(self, top: str, index: int) -> bool:
        later = [s for j, s in enumerate(self.net.steps) if j > index and j in self.needed]
        return any(top in step.bottoms for step in later)

    def _name(self, blob: str) -> str:
        """The variable that is called as the blob, as near as Python allows."""
        if blob not in self.names:
            name = identifier(blob)
            while name in self.names.values():
                name += "_"
            self.names[blob] = name
        return self.names[blob]

    def _batch_norm(self, scale: Step, norm: Step, x: str) -> None:
        assert isinstance(norm.layer, BatchNorm)
        self.text.layer = norm.layer  # what an error names
        blobs = list(scale.layer.blobs)
        value = weight_forms.scaled_batch_norm(self.text, norm.layer, x, blobs)
        self._assign(scale.tops, value)

    def _layer(self, step: Step) -> None:
        write = form_of(step.layer)
        if write is None:
            raise self.text.unsupported(f"none is known for {step.node.type}")
        bottoms = tuple(self.values[name] for name in step.bottoms)
        found = write(self.text, step.layer, bottoms)
        if isinstance(found, list):
            names = tuple(self._fresh(top) for top in step.tops)
            self.lines.append(CodeLine(names, found[0]))
            self.values.update(zip(step.tops, names, strict=True))
            return
        for top, value in zip(
            step.tops, (found,) if isinstance(found, str) else found, strict=True
        ):
            self._assign((top,), value)

    def _fresh(self, blob: str) -> str:
        """The blob's variable, or another one where its value is still read under another blob."""
        name = self._name(blob)
        taken = {value for other, value in self.values.items() if other != blob}
        while name in taken:
            name += "_"
        return name

    def _assign(self, tops: Sequence[str], value: str) -> None:
        (top,) = tops
        if value.isidentifier():  # another name of the same value
            self.values[top] = value
            return
        name = self._fresh(top)
        self.lines.append(CodeLine((name,), value))
        self.values[top] = name

    # -- the file -----------------------------------------------------------------------------

    def _source(
        self, head: str, inputs: Sequence[str], lines: Sequence[CodeLine], result: Sequence[str]
    ) -> str:
        copied = Copied()
        for helper in self.text.helpers:
            copied.add(helper)
        kind = self.kind
        arguments = "".join(f", {self.names[name]}: Tensor" for name in inputs)
        several = len(result) > 1
        returns = f"tuple[{', '.join(['Tensor'] * len(result))}]" if several else "Tensor"
        body = [line.text for line in lines] + [f"return {', '.join(result)}"]
        setup = ["super().__init__()", *self.text.setup]
        code = "\n".join(
            [
                f"class {kind}(nn.Module):",
                f"    {self._doc(inputs)}",
                "",
                "    def __init__(self) -> None:",
                *(f"        {line}" for line in setup),
                "",
                f"    def forward(self{arguments}) -> {returns}:",
                *(f"        {line}" for line in body),
            ]
        )
        used = {name for name in ("F", "torch") if re.search(rf"\b{name}\.", code)}
        imports = {"import torch"} if "torch" in used else set()
        imports |= {"import torch.nn.functional as F"} if "F" in used else set()
        imports |= copied.imports
        return "\n\n".join(
            [
                f'"""{head}"""',
                "from __future__ import annotations",
                _imports(imports),
                *(part.rstrip("\n") if "=" in part.split("\n")[0] and "def " not in part
                  else "\n" + part.rstrip("\n") for part in copied.parts.values()),
                "\n" + code,
                "\n" + LOAD.format(kind=kind),
            ]
        ).replace("\n\n\n\n", "\n\n\n") + "\n"  # fmt: skip

    def _doc(self, inputs: Sequence[str]) -> str:
        shapes = self.net.blob_shapes
        given = ", ".join(f"{self.names[n]} {_shape(shapes[n])}" for n in inputs)
        made = ", ".join(f"{self.values[n]} {_shape(shapes[n])}" for n in self.outputs)
        return f'"""Takes {given}; returns {made}."""'


LOAD = '''def load_model(weights: str | Path | None = None) -> {kind}:
    """The module for evaluation, with the weights that lie beside this file."""
    from safetensors.torch import load_file

    model = {kind}()
    model.load_state_dict(load_file(weights or Path(__file__).with_suffix(".safetensors")))
    return model.eval()'''


def _shape(shape: Sequence[int]) -> str:
    return format_shape(shape) if shape else "a number"


def _imports(lines: set[str]) -> str:
    """Import lines in the usual order: the standard library, then torch."""
    lines = {*lines, "from pathlib import Path", "from torch import Tensor, nn"}
    torch = sorted(line for line in lines if "torch" in line.split()[1].split("."))
    plain = sorted(line for line in lines if line not in torch)
    order = [*(n for n in plain if n[0] == "i"), *(n for n in plain if n[0] == "f")]
    heads = [n for n in torch if n.startswith("import")]
    rest = [n for n in torch if n not in heads]
    return "\n".join([*order, "", *heads, *rest])


def class_name(name: str) -> str:
    """A class's name after a net's."""
    words = [w for w in re.split(r"[^0-9A-Za-z]+", name) if w]
    out = "".join(word[0].upper() + word[1:] for word in words) or "Net"
    out = f"Net{out}" if out[0].isdigit() else out
    return f"{out}Net" if out in ("Tensor", "Path", "F", "None", "True", "False") else out


def joined(lines: Sequence[CodeLine]) -> list[CodeLine]:
    """Put an assignment into the next one, where that reads it once and changes the same variable.

    So that `x = self.conv(x)` and `x = F.relu(x)` are one line.
    """
    out: list[CodeLine] = []
    for line in lines:
        last = out[-1] if out else None
        if last is not None and len(last.targets) == 1 and last.targets == line.targets:
            (name,) = line.targets
            if _count(line.value, name) == 1:
                value = _substitute(line.value, name, last.value)
                if len(f"        {name} = {value}") <= WIDTH:
                    out[-1] = CodeLine(line.targets, value)
                    continue
        out.append(line)
    return out


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.\"']){re.escape(name)}(?![\w\"']|\s*=(?!=))")


def _count(value: str, name: str) -> int:
    return len(_pattern(name).findall(value))


def _substitute(value: str, name: str, inner: str) -> str:
    node = ast.parse(inner, mode="eval").body
    plain = isinstance(node, ast.Name | ast.Call | ast.Attribute | ast.Subscript)
    alone = _pattern(name).search(value)
    assert alone is not None
    before, after = value[: alone.start()], value[alone.end() :]
    argument = before.endswith("(") and after[:1] in (",", ")")
    text = inner if plain or argument else f"({inner})"
    return before + text + after
