"""What people type who know Caffe's tools, onnx, docker or git: what it is called here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import click

# A word that is no command -> what to type instead.
COMMANDS = {
    "export": "caffeio convert NET WEIGHTS model.onnx",
    "onnx": "caffeio convert NET WEIGHTS model.onnx",
    "caffe2onnx": "caffeio convert NET WEIGHTS model.onnx",
    "onnx2caffe": "caffeio convert MODEL.onnx OUT.caffemodel",
    "optimize": "caffeio convert NET WEIGHTS OUTPUT --merge-batch-norm",
    "import": "caffeio convert MODEL.onnx OUT.caffemodel",
    "save": "caffeio convert INPUTS... OUTPUT",
    "translate": "caffeio convert NET OUT --to-dialect NAME",
    "info": "caffeio show FILE",
    "inspect": "caffeio show FILE",
    "summary": "caffeio show FILE",
    "summarize": "caffeio show FILE",
    "describe": "caffeio show FILE",
    "print": "caffeio show FILE",
    "cat": "caffeio show FILE",
    "dump": "caffeio show FILE --json",
    "view": "caffeio show FILE --html -o page.html",
    "draw": "caffeio show FILE --svg -o net.svg",
    "draw_net": "caffeio show FILE --svg -o net.svg",
    "visualize": "caffeio show FILE --html -o page.html",
    "graph": "caffeio show FILE --html -o page.html",
    "netron": "caffeio show FILE --html -o page.html",
    "stats": "caffeio show FILE",
    "flops": "caffeio show FILE",
    "params": "caffeio show FILE",
    "help": "caffeio --help, or caffeio COMMAND --help",
    "man": "caffeio --help, or caffeio COMMAND --help",
    "version": "caffeio --version",
    "check": "caffeio lint FILE, or caffeio verify A B",
    "validate": "caffeio lint FILE",
    "doctor": "caffeio lint FILE",
    "fix": "caffeio lint --fix FILE",
    "format": "caffeio lint --fix FILE, or caffeio upgrade IN OUT",
    "compare": "caffeio diff A B of files, caffeio verify A B of results",
    "fit": "caffeio train SOLVER",
    "finetune": "caffeio train SOLVER --weights START.caffemodel",
    "fine-tune": "caffeio train SOLVER --weights START.caffemodel",
    "resume": "caffeio train SOLVER --snapshot auto",
    "eval": "caffeio test NET --weights WEIGHTS",
    "evaluate": "caffeio test NET --weights WEIGHTS",
    "score": "caffeio test NET --weights WEIGHTS",
    "val": "caffeio test NET --weights WEIGHTS",
    "predict": "caffeio features NET WEIGHTS PICTURE",
    "infer": "caffeio features NET WEIGHTS PICTURE",
    "classify": "caffeio features NET WEIGHTS PICTURE",
    "detect": "caffeio features NET WEIGHTS PICTURE",
    "bench": "caffeio time NET",
    "benchmark": "caffeio time NET",
    "profile": "caffeio time NET, or caffeio train SOLVER --profile trace.json",
    "set": "caffeio edit FILE KEY=VALUE",
    "sed": "caffeio edit FILE KEY=VALUE",
    "ls": "caffeio show FOLDER, or caffeio layers",
    "list": "caffeio show FOLDER, or caffeio layers",
    "ops": "caffeio layers",
    "device_query": "caffeio device-query",
    "gpus": "caffeio device-query -gpu all",
    "convert_imageset": "caffeio convert-imageset ROOT LIST DB",
    "compute_image_mean": "caffeio image-mean DB mean.binaryproto",
    "mean": "caffeio image-mean DB mean.binaryproto",
    "extract_features": "caffeio extract-features WEIGHTS NET BLOB OUT BATCHES",
    "upgrade_net_proto_text": "caffeio upgrade IN OUT",
    "upgrade_net_proto_binary": "caffeio upgrade IN OUT",
    "upgrade_solver_proto_text": "caffeio upgrade IN OUT",
    "parse_log": "caffeio plot LOG -o - for CSV, or -o run.png",
    "plot_training_log": "caffeio plot LOG -o run.png",
    "tensorboard": "caffeio train SOLVER --tensorboard DIR",
    "lr": "caffeio plot SOLVER",
    "python": "caffeio run SCRIPT",
    "exec": "caffeio run SCRIPT",
    "pycaffe": "caffeio run SCRIPT",
    "build": "nothing: caffeio reads prototxts as they are (caffeio show FILE)",
    "pull": "nothing: caffeio downloads no models; give it files",
    "download": "nothing: caffeio downloads no models; give it files",
    "update": "pip install --upgrade caffeio",
}
# An option that no command has -> the option that is meant; "" where a sentence says more.
_OPTIONS = {
    "out": "--output", "outfile": "--output", "output-file": "--output", "output-path": "--output",
    "save": "--output", "export": "--output",
    "pretrained": "--weights", "caffemodel": "--weights", "checkpoint": "--weights",
    "params": "--weights", "load": "--weights", "finetune": "--weights",
    "resume": "--snapshot", "state": "--snapshot", "restore": "--snapshot",
    "gpus": "--gpu", "gpu-id": "--gpu", "gpu-ids": "--gpu", "cuda": "--device", "cpu": "--device",
    "use-gpu": "--device", "no-cuda": "--device", "target-device": "--device",
    "nproc-per-node": "--nproc", "num-gpus": "--nproc", "world-size": "--nproc",
    "workers": "--nproc", "num-workers": "--nproc", "np": "--nproc",
    "amp": "--precision", "fp16": "--precision", "bf16": "--precision", "half": "--precision",
    "mixed-precision": "--precision", "dtype": "--precision",
    "overwrite": "--force", "yes": "--force", "replace": "--force",
    "input-size": "--input-shape", "shape": "--input-shape", "input-shapes": "--input-shape",
    "inputs": "--input-shape", "input-dim": "--input-shape", "input": "--input-shape",
    "outputs": "--output-blob", "output-names": "--output-blob",
    "simplify": "--fold", "optimize": "--fold", "fuse": "--fold", "opset-version": "--opset",
    "dynamic-axes": "--dynamic", "dynamic-shapes": "--dynamic", "classes": "--labels",
    "mean-values": "--mean", "scale-values": "--scale", "reverse-input-channels": "--rgb",
    "fork": "--caffe", "variant": "--caffe", "log-dir": "--tensorboard",
    "logdir": "--tensorboard", "tb": "--tensorboard", "n": "--iterations", "iters": "--iterations",
    "max-iter": "--iterations", "batches": "--iterations", "num-batches": "--iterations",
    "verbose": "--debug", "traceback": "--debug", "silent": "--quiet",
    "markdown": "--format", "html": "--format", "json": "--format", "sarif": "--format",
    "rules": "--select", "disable": "--ignore", "exclude": "--ignore", "plain": "--format",
}  # fmt: skip
# Options of other trainers -> the field of the solver or of the data layer that says it here.
_FIELDS = {
    "batch-size": "layer[data].data_param.batch_size", "b": "layer[data].data_param.batch_size",
    "batch": "layer[data].data_param.batch_size", "bs": "layer[data].data_param.batch_size",
    "data": "layer[data].data_param.source", "dataset": "layer[data].data_param.source",
    "source": "layer[data].data_param.source", "data-dir": "layer[data].data_param.source",
    "crop-size": "layer[data].transform_param.crop_size",
    "lr": "base_lr", "learning-rate": "base_lr", "epochs": "max_iter", "epoch": "max_iter",
    "max-epochs": "max_iter", "steps": "max_iter", "max-steps": "max_iter",
    "iterations": "max_iter", "iters": "max_iter", "num-iterations": "max_iter",
    "seed": "random_seed", "wd": "weight_decay", "optimizer": "type", "schedule": "lr_policy",
    "lr-schedule": "lr_policy", "gradient-accumulation": "iter_size", "accumulate": "iter_size",
    "clip-grad": "clip_gradients", "warmup": "warmup_iter", "save-every": "snapshot",
    "save-dir": "snapshot_prefix", "log-interval": "display", "eval-interval": "test_interval",
    "val-interval": "test_interval", "net": "net", "mode": "solver_mode",
}  # fmt: skip
# Sentences for what is no field and no option.
_SAID = {
    "config": "fields are changed with --set KEY=VALUE, or in the prototxt with caffeio edit",
}


def for_command(word: str, known: Iterable[str], rest: Sequence[str] = ()) -> str:
    """What may have been meant by a command that is not there; `rest` is what stands behind it."""
    plain = word.strip().lower()
    if plain in ("help", "man") and rest and rest[0] in known:
        return f"Here it is: caffeio {rest[0]} --help"
    if plain in COMMANDS:
        return f"Here it is: {COMMANDS[plain]}"
    if os.path.exists(word) or "." in word.strip(".") or os.sep in word:
        return f"To see what a file is: caffeio show {word}"
    if plain.replace("_", "-") in known:
        return f"Did you mean {plain.replace('_', '-')!r}?"
    close = get_close_matches(plain, [*known, *COMMANDS], 1)
    if not close:
        return "caffeio --help lists the commands."
    return f"Did you mean {close[0]!r}?" if close[0] in known else f"Try: {COMMANDS[close[0]]}"


def for_option(name: str, ctx: click.Context, rest: Sequence[str] = ()) -> str:
    """What may have been meant by an option that the command does not have.

    `rest`: the command line, in which the option's value is looked for.
    """
    bare = name.lstrip("-").replace("_", "-").lower()
    has = {text for param in ctx.command.params for text in param.opts}
    if "--set" in has and (field := _field(bare, "--snapshot" in has)):
        counted = bare.endswith(("epoch", "epochs"))
        said = f"{field}={'N' if counted else _value(name, rest) or 'VALUE'}"
        more = " (iterations: epochs x images / images in an update)" if counted else ""
        return f"Fields are changed with --set: --set {_quoted(said)}{more}"
    meant = _OPTIONS.get(bare, "")
    if meant == "--debug":
        return f"--debug stands before the command: caffeio --debug {ctx.info_name}"
    if meant in has and meant:
        return f"Did you mean {meant}?"
    if bare in ("version", "v"):
        return "caffeio --version says the version."
    if bare in _SAID:
        return f"It is not needed: {_SAID[bare]}."
    close = get_close_matches(f"--{bare}", sorted(has), 1, 0.75)
    if close:
        return f"Did you mean {close[0]}?"
    return f"{ctx.command_path} --help lists the options."


def _field(bare: str, trains: bool) -> str:
    """The path of the solver's or data layer's field that an option's name says; empty if none."""
    field = _FIELDS.get(bare, "")
    if field and (trains or field.startswith("layer")):
        return field
    if not trains:
        return ""
    from caffeio.proto import caffe_pb2 as pb

    name = bare.replace("-", "_")
    return name if name in pb.SolverParameter.DESCRIPTOR.fields_by_name else ""


def _value(name: str, rest: Sequence[str]) -> str:
    for i, token in enumerate(rest):
        if token == name and i + 1 < len(rest) and not rest[i + 1].startswith("-"):
            return rest[i + 1]
        if token.startswith(f"{name}="):
            return token.partition("=")[2]
    return ""


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)
