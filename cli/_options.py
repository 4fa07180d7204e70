"""Options that several commands share: one name, one form and one text for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]


def _limit_pixels(ctx: click.Context, param: click.Parameter, value: int | None) -> None:
    if value is not None:
        import os

        os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(value)  # before OpenCV is loaded
        from caffeio.data.transform.image_header import set_max_pixels

        set_max_pixels(value)


def max_pixels(function: Command) -> Command:
    """Add --max-pixels, which holds for the whole process."""
    return click.option(
        "--max-pixels", type=click.IntRange(1), metavar="N", expose_value=False,
        callback=_limit_pixels,
        help="Refuse pictures of more pixels (width x height); default: 178,956,970, as Pillow.",
    )(function)  # fmt: skip


def on_bad_record(function: Command) -> Command:
    """Add --on-bad-record."""
    return click.option(
        "--on-bad-record", type=click.Choice(["stop", "skip"]), default="stop", show_default=True,
        help="A record that cannot be read: stop, or take the one behind it, with a warning.",
    )(function)  # fmt: skip


if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # before click 8.3 it takes no type


class Names(_ParamType):
    """A name out of a list that is made when it is asked for; it completes in the shell."""

    def __init__(self, name: str, known: Callable[[], Sequence[str]]) -> None:
        self.name, self.known = name, known

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The names that begin with what is typed."""
        return [CompletionItem(name) for name in self.known() if name.startswith(incomplete)]


class _Caffe(Names):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from caffeio.errors import CaffeIOError
        from caffeio.profiles import get_profile

        try:
            get_profile(value)
        except CaffeIOError as error:
            self.fail(str(error), param, ctx)
        return value


def _profiles() -> Sequence[str]:
    from caffeio.profiles import PROFILES

    return list(PROFILES)


def _dialects() -> Sequence[str]:
    from caffeio.proto.dialect.schema import dialect_names

    return dialect_names()


def _targets() -> Sequence[str]:
    from caffeio.converters.from_onnx.targets import target_names

    return target_names()


def _formats() -> Sequence[str]:
    from caffeio.converters.convert.convert import format_names

    return format_names()


def _codes() -> Sequence[str]:
    from caffeio.converters.lint.run import RULES, rules

    rules()
    return sorted(RULES)


def _layer_types() -> Sequence[str]:
    from caffeio.tools.layer_support import layer_types

    return sorted(kind.name for kind in layer_types())


CODE = Names("code", _codes)
FORMAT = Names("format", _formats)
LAYER_TYPE = Names("layer type", _layer_types)
DIALECT = Names("dialect", _dialects)
TARGET = Names("target", _targets)


class _Device(click.Choice[str] if TYPE_CHECKING else click.Choice):  # type: ignore[misc]
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if str(value).lower() in ("gpu", "nvidia", "0"):
            self.fail(f"{value!r} is not one of {', '.join(self.choices)}; did you mean cuda?",
                      param, ctx)  # fmt: skip
        return super().convert(value, param, ctx)


def device(text: str = "Where to run (default: cpu).") -> Decorator:
    """Add --device."""
    return click.option("--device", type=_Device(["cpu", "cuda", "auto"]), help=text)


def caffe(name: str = "caffe", text: str = "Whose numbers to compute") -> Decorator:
    """Add --caffe, whose value is the name of any profile."""
    listed = "bvlc, intel, nvidia, intel-mkldnn ..."
    return click.option(
        "--caffe", name, metavar="NAME", type=_Caffe("profile", _profiles),
        help=f"{text}: {listed} (default: those of the Caffe that the files are for).",
    )  # fmt: skip


def dialect(
    text: str = "The Caffe that the file was written for (default: what it tells).",
) -> Decorator:
    """Add --dialect."""
    return click.option("--dialect", metavar="NAME", type=DIALECT, help=text)


def phase(default: str | None, text: str = "Phase of the net.") -> Decorator:
    """Add --phase, in capitals or not."""
    return click.option(
        "--phase", "-phase", default=default, help=text,
        type=click.Choice(["TRAIN", "TEST"], case_sensitive=False),
    )  # fmt: skip


def _stages(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for value in values for name in value.split(",") if name)


def state(stages: str = "stages", which: str = "the net") -> Decorator:
    """Add --stage, which may be repeated and takes several with commas, and --level."""

    def add(function: Command) -> Command:
        level = click.option("--level", "-level", default=0, help=f"Level of {which}.")
        stage = click.option(
            "--stage", "-stage", stages, multiple=True, metavar="A[,B]", callback=_stages,
            help=f"Stages of {which}; may be repeated.",
        )  # fmt: skip
        return stage(level(function))

    return add


def input_shape(name: str = "input_shape", text: str = "The shape of an input") -> Decorator:
    """Add --input-shape; --input means the same."""
    return click.option(
        "--input-shape", "--input", name, multiple=True, metavar="NAME=N,C,H,W",
        help=f"{text}; may be repeated.",
    )  # fmt: skip


def output(text: str = "Write there, not to standard output.") -> Decorator:
    """Add --output and -o."""
    return click.option("--output", "-o", type=click.Path(), metavar="FILE", help=text)


_CHOSEN = "caffeio.form"


def _choose(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value:
        assert param.name is not None
        _set_form(ctx, param.name.removeprefix("form_"))


def _set_form(ctx: click.Context, form: str) -> None:
    before = ctx.meta.setdefault(_CHOSEN, form)
    if before != form:
        raise click.UsageError(f"two forms are wanted, {before} and {form}: give one", ctx)


def _form(ctx: click.Context, param: click.Parameter, value: Any) -> str:
    source = ctx.get_parameter_source(param.name or "")
    if source not in (click.core.ParameterSource.DEFAULT, None):
        _set_form(ctx, value)
    return str(ctx.meta.get(_CHOSEN, value))


def forms(short: str | None = None, **texts: str) -> Decorator:
    """Add --format, and --NAME for each form but `text`, which is the default.

    `short`: another name of --format. The command gets the form as `form`.
    """

    def add(function: Command) -> Command:
        names = ["--format", *([short] if short else []), "form"]
        function = click.option(
            *names, type=click.Choice(["text", *texts]), default="text", callback=_form,
            help="The form of what is written.",
        )(function)  # fmt: skip
        for name, text in reversed(texts.items()):
            function = click.option(
                f"--{name}", f"form_{name}", is_flag=True, expose_value=False, is_eager=True,
                callback=_choose, help=text,
            )(function)  # fmt: skip
        return function

    return add
