"""The files of the small recipe: a residual net and five solvers, as the large one has them."""

from __future__ import annotations

from pathlib import Path

from caffeio.demo.glyphs import CLASSES

BATCH, CROP = 32, 32
# phase: (iterations, lr_iter, base_lr, power, warm-up iterations, rate at their start)
PHASES = {
    "init": (450, 1080, 0.05, 1, 90, 0.003125),
    "cyc1": (180, 360, 0.032, 2, 0, 0.0),
    "cyc2": (228, 360, 0.024, 2, 48, 0.008),
    "cyc3": (228, 360, 0.018, 2, 48, 0.006),
}
COLLAPSE = (60, 0.0045)  # iterations, base_lr; weight decay is four times as large


def _conv(name: str, bottom: str, outputs: int, kernel: int, stride: int = 1) -> str:
    pad = f" pad: {kernel // 2}" if kernel > 1 else ""
    return f"""
layer {{
  name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"
  convolution_param {{
    num_output: {outputs} kernel_size: {kernel} stride: {stride}{pad} bias_term: false
    weight_filler {{ type: "msra" }}
  }}
}}"""


def _norm(name: str, gamma: int = 1) -> str:
    """BatchNorm and Scale in place; `gamma` 0 lets a block start as the identity."""
    return f"""
layer {{
  name: "bn_{name}" type: "BatchNorm" bottom: "{name}" top: "{name}"
  param {{ lr_mult: 0 }} param {{ lr_mult: 0 }} param {{ lr_mult: 0 }}
  batch_norm_param {{ moving_average_fraction: 0.95 filler {{ value: {gamma} }} }}
}}
layer {{
  name: "scale_{name}" type: "Scale" bottom: "{name}" top: "{name}"
  param {{ decay_mult: 0 }} param {{ decay_mult: 0 }}
  scale_param {{ bias_term: true }}
}}"""


def _relu(name: str) -> str:
    return f'\nlayer {{ name: "relu_{name}" type: "ReLU" bottom: "{name}" top: "{name}" }}'


def _block(name: str, bottom: str, outputs: int, stride: int) -> str:
    first, second, short = f"{name}_a", f"{name}_b", f"{name}_short"
    text = _conv(first, bottom, outputs, 3, stride) + _norm(first) + _relu(first)
    text += _conv(second, first, outputs, 3) + _norm(second)
    if stride > 1:
        text += _conv(short, bottom, outputs, 1, stride) + _norm(short)
        bottom = short
    text += f"""
layer {{
  name: "{name}" type: "Eltwise" bottom: "{bottom}" bottom: "{second}" top: "{name}"
  eltwise_param {{ }}
}}"""
    return text + _relu(name)


def _data(phase: str, source: Path, augment: str) -> str:
    scale = "\n    scale: 0.0078125"
    return f"""
layer {{
  name: "data" type: "Data" top: "data" top: "label"
  include {{ phase: {phase} }}
  transform_param {{
    crop_size: {CROP}{scale}
    mean_value: 104 mean_value: 117 mean_value: 123{augment}
  }}
  data_param {{ source: "{source}" batch_size: {BATCH} backend: LMDB{
        " shuffle: true" if phase == "TRAIN" else ""
    } }}
}}"""


def net(folder: Path, *, augment: bool) -> str:
    """The net's prototxt; `augment` crops with random area and aspect ratio, as train_val does."""
    random = """
    random_aspect_ratio_param {
      min_area_ratio: 0.6 max_area_ratio: 1 aspect_ratio_change: 0.9
      resize_param { interp_mode: CUBIC }
    }"""
    centre = """
    random_resize_param {
      min_size: 36 max_size: 36 resize_param { interp_mode: CUBIC }
    }"""
    body = _data("TRAIN", folder / "train_lmdb", random if augment else "")
    body += _data("TEST", folder / "test_lmdb", centre)
    body += _conv("conv1", "data", 16, 3) + _norm("conv1") + _relu("conv1")
    for name, bottom, outputs, stride in (
        ("res2a", "conv1", 16, 1), ("res3a", "res2a", 32, 2), ("res4a", "res3a", 64, 2),
    ):  # fmt: skip
        body += _block(name, bottom, outputs, stride)
    body += f"""
layer {{
  name: "pool5" type: "Pooling" bottom: "res4a" top: "pool5"
  pooling_param {{ pool: AVE kernel_size: 8 stride: 1 }}
}}
layer {{
  name: "fc" type: "InnerProduct" bottom: "pool5" top: "fc"
  inner_product_param {{
    num_output: {len(CLASSES)} weight_filler {{ type: "gaussian" std: 0.01 }}
  }}
}}
layer {{ name: "prob" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }}
layer {{
  name: "top-1" type: "Accuracy" bottom: "fc" bottom: "label" top: "top-1"
  include {{ phase: TEST }}
}}
"""
    return f'name: "glyph-resnet"{body}'


def solver(net_file: Path, prefix: Path, phase: str) -> str:
    """The solver of one phase."""
    common = f'net: "{net_file}"\ndisplay: 20\nmomentum: 0.9\nsolver_mode: CPU\nrandom_seed: 1\n'
    if phase.startswith("collapse"):
        iterations, rate = COLLAPSE
        rest = f'base_lr: {rate}\nlr_policy: "poly"\npower: 2\nweight_decay: 0.0004\n'
    else:
        iterations, lr_iter, rate, power, warmup, start = PHASES[phase]
        rest = f'base_lr: {rate}\nlr_policy: "poly_cyc"\npower: {power}\nlr_iter: {lr_iter}\n'
        rest += "weight_decay: 0.0001\n"
        if warmup:
            rest += f"warmup_iter: {warmup}\nwarmup_start_lr: {start}\n"
    tail = f'max_iter: {iterations}\nsnapshot: {iterations}\nsnapshot_prefix: "{prefix}"\n'
    return common + rest + tail


def write(folder: Path) -> dict[str, Path]:
    """Write all prototxts into `folder`; returns the solvers by phase.

    Beside the recipe's five phases there is a collapse after each earlier cycle: the collapsed
    models form the ensemble.
    """
    nets = {}
    for name, augment in (("train_val", True), ("train_val_noaug", False)):
        nets[name] = folder / f"{name}.prototxt"
        nets[name].write_text(net(folder, augment=augment))
    solvers = {}
    for phase in (*PHASES, "collapse1", "collapse2", "collapse"):
        used = nets["train_val_noaug" if phase.startswith("collapse") else "train_val"]
        solvers[phase] = folder / f"solver_{phase}.prototxt"
        solvers[phase].write_text(solver(used, folder / phase, phase))
    return solvers
