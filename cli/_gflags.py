"""Command lines in gflags' spelling, as Caffe's own programs take them.

gflags takes `-flag value`, `-flag=value`, `--flag=value`, `-flag` and `-noflag` for booleans, with
`-` and `_` alike, and every program takes all flags that its binary defines, whether it uses them
or not. A `GflagsCommand` turns all that into the spelling of its own click options.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import click

# Flags that the binaries define and a command of ours may have no use for. True: a boolean.
CAFFE = {
    "gpu": False, "solver": False, "model": False, "phase": False, "level": False, "stage": False,
    "snapshot": False, "weights": False, "iterations": False, "sigint_effect": False,
    "sighup_effect": False,
}  # fmt: skip
GLOG = {
    "logtostderr": True, "alsologtostderr": True, "colorlogtostderr": True,
    "stderrthreshold": False, "minloglevel": False, "log_dir": False, "v": False,
    "vmodule": False, "logbufsecs": False,
    "max_log_size": False, "stop_logging_if_full_disk": True, "log_prefix": True,
}  # fmt: skip
_FLAG = re.compile(r"--?([A-Za-z][\w-]*)(?:=(.*))?", re.DOTALL)
_TRUE = frozenset({"1", "t", "true", "y", "yes"})
_FALSE = frozenset({"0", "f", "false", "n", "no"})


class GflagsCommand(click.Command):
    """A click command that also takes gflags' spellings of its options.

    `other_flags` are flags that Caffe's program takes and this command has no use for.
    """

    other_flags: dict[str, bool] = GLOG

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Rewrite the arguments, then parse them as ever."""
        return super().parse_args(ctx, rewrite(args, self.params, self.other_flags))


class CaffeCommand(GflagsCommand):
    """One of the actions of the program `caffe`: it takes the flags of all of them."""

    other_flags = CAFFE | GLOG


def rewrite(
    args: Iterable[str], params: Iterable[click.Parameter], others: dict[str, bool]
) -> list[str]:
    """The arguments in click's spelling: `-gray=true` becomes `--gray`, unused flags go."""
    known = _options(params)
    given = list(args)
    out: list[str] = []
    while given:
        token = given.pop(0)
        if token == "--":
            return [*out, token, *given]
        match = _FLAG.fullmatch(token)
        name = match[1].replace("-", "_") if match else ""
        flag, negative = _find_flag(name, known, others)
        if match is None or (len(name) == 1 and not token.startswith("--") and name != "v"):
            out.append(token)
        elif flag in known:
            out += _of_option(known[flag], match[2], negative, given, token)
        elif flag in others:
            if not others[flag] and match[2] is None and given:
                given.pop(0)
        else:
            out.append(token)
    return out


def _options(params: Iterable[click.Parameter]) -> dict[str, click.Option]:
    """Long options by name, with `_` for `-`."""
    found = {}
    for param in params:
        if isinstance(param, click.Option):
            for spelling in param.opts:
                name = spelling.lstrip("-").replace("-", "_")
                if len(name) > 1:
                    found[name] = param
    return found


def _find_flag(name: str, *tables: dict[str, Any]) -> tuple[str, bool]:
    """The flag that `name` means and whether it is negated: gflags' `-noshuffle`."""
    for table in tables:
        if name in table:
            return name, False
    bare = name.removeprefix("no").removeprefix("_")
    if name.startswith("no") and any(bare in table and _is_flag(table[bare]) for table in tables):
        return bare, True
    return name, False


def _is_flag(entry: Any) -> bool:
    return bool(entry.is_flag) if isinstance(entry, click.Option) else bool(entry)


def _of_option(
    option: click.Option, value: str | None, negative: bool, given: list[str], token: str
) -> list[str]:
    """One flag of this command in click's spelling."""
    spelling = max(option.opts, key=lambda text: (text.startswith("--"), len(text)))
    if not option.is_flag:
        if value is None:
            return [spelling, *([given.pop(0)] if given else [])]
        return [spelling, value]
    if value is not None and value.lower() not in _TRUE | _FALSE:
        raise click.UsageError(f"illegal value {value!r} of the flag {token!r}: true or false")
    on = value is None or value.lower() in _TRUE
    return [spelling] if on is not negative else []
