"""Rules about what is learned: statistics, decay, losses, fillers."""

from __future__ import annotations

from collections.abc import Iterator

from caffeio.converters.lint.model import (
    ERROR,
    INFO,
    Finding,
    Fix,
    NetContext,
    is_loss,
    net_rule,
)
from caffeio.layers.registry import batch_message, find, reads_data
from caffeio.proto import caffe_pb2 as pb


@net_rule("CIO401", "batch-norm-mults")
def batch_norm_mults(context: NetContext) -> Iterator[Finding]:
    """A BatchNorm layer's mean, variance and factor are open to the solver.

    They are sums that the forward pass keeps, not weights. BVLC's Caffe dies of an lr_mult other
    than 0 (or forces 0 where there are exactly three specs); Intel's Caffe lets weight decay shrink
    them. Give `param { lr_mult: 0 }` three times.
    """
    for index, layer in enumerate(context.layers):
        if layer.type != "BatchNorm":
            continue
        specs = list(layer.param)[:3]
        wrong = [i for i, spec in enumerate(specs) if spec.lr_mult != 0]
        if wrong:
            changes = tuple(f"layer[{index}].param[{i}].lr_mult=0" for i in wrong)
            message = f"lr_mult {specs[wrong[0]].lr_mult:g} on its statistics"
            steps = ("param", wrong[0])
            yield context.layer(
                "CIO401", index, message, *steps, fix=Fix("set lr_mult to 0", changes)
            )
        elif len(specs) < 3 and not context.profile.mask_batch_norm_statistics and context.trains:
            message = "weight decay will shrink its statistics: give param { lr_mult: 0 } 3 times"
            yield context.layer("CIO401", index, message)


@net_rule("CIO402", "decayed-scale")
def decayed_scale(context: NetContext) -> Iterator[Finding]:
    """Weight decay pulls the scale and shift behind BatchNorm to 0.

    The recipes of the literature leave them out: `param { decay_mult: 0 }` for each. Said once a
    file.
    """
    if not context.trains:
        return
    after_norm: set[str] = set()
    hits = []
    for index, layer in enumerate(context.layers):
        if layer.type == "BatchNorm":
            after_norm.update(layer.top)
        elif layer.type == "Scale" and len(layer.bottom) == 1 and layer.bottom[0] in after_norm:
            blobs = 2 if layer.scale_param.bias_term else 1
            decayed = [
                i for i in range(blobs) if i >= len(layer.param) or layer.param[i].decay_mult
            ]
            frozen = layer.param and all(spec.lr_mult == 0 for spec in layer.param)
            if decayed and not frozen:
                hits.append((index, decayed))
    if hits:
        changes = tuple(
            f"layer[{index}].param[{i}].decay_mult=0" for index, decayed in hits for i in decayed
        )
        more = f" (and {len(hits) - 1} more Scale layers)" if len(hits) > 1 else ""
        message = f"weight decay acts on its scale and shift{more}"
        fix = Fix("set decay_mult to 0", changes)
        yield context.layer("CIO402", hits[0][0], message, fix=fix)


@net_rule("CIO403", "loss-param-ignored")
def loss_param_ignored(context: NetContext) -> Iterator[Finding]:
    """A loss has a loss_param that it does not read.

    EuclideanLoss, HingeLoss, ContrastiveLoss and MultinomialLogisticLoss always divide by the batch
    size, and know no ignore_label; the losses of YOLO nets have parameters of their own.
    """
    for index, layer in enumerate(context.layers):
        cls = find(layer.type)
        reads = cls is None or cls.reads_loss_param or not cls.is_loss
        if layer.HasField("loss_param") and not reads:
            message = (
                f"{layer.type} does not read loss_param: its divisor (for most the batch) is fixed"
            )
            yield context.layer("CIO403", index, message, "loss_param")


@net_rule("CIO404", "legacy-normalize", INFO)
def legacy_normalize(context: NetContext) -> Iterator[Finding]:
    """`normalize` is the old form of `normalization`, and is ignored beside it.

    true is VALID (divide by the labels that count), false is BATCH_SIZE. The fix writes that.
    """
    for index, layer in enumerate(context.layers):
        p = layer.loss_param
        if not p.HasField("normalize"):
            continue
        if p.HasField("normalization"):
            message, fix = "normalize is ignored beside normalization", None
        else:
            value = "VALID" if p.normalize else "BATCH_SIZE"
            message = f"normalize is the old form of normalization: {value}"
            prefix = f"layer[{index}].loss_param"
            fix = Fix(
                f"write normalization: {value}",
                (f"{prefix}.normalization={value}",),
                (f"{prefix}.normalize",),
            )
        yield context.layer("CIO404", index, message, "loss_param", "normalize", fix=fix)


@net_rule("CIO405", "loss-divides-by-pixels")
def loss_divides_by_pixels(context: NetContext) -> Iterator[Finding]:
    """Two losses over maps of different sizes are normalised in different ways.

    VALID, the default of SoftmaxWithLoss, divides by all labels of the batch; SigmoidCrossEntropy-
    Loss divides by the batch size alone, so that its gradient grows with the size of the map. Set
    loss_param.normalization for both.
    """
    graph = context.graphs.get("TRAIN")
    if graph is None or not context.trains:
        return
    kinds = {n.type for n in graph.nodes if is_loss(n.param)}
    if not {"SoftmaxWithLoss", "SigmoidCrossEntropyLoss"} <= kinds:
        return
    for index, layer in enumerate(context.layers):
        loss = layer.loss_param
        if layer.type != "SigmoidCrossEntropyLoss" or loss.HasField("normalization"):
            continue
        for _, bottoms, _ in context.shapes_of(index):
            spatial = bottoms[0][2:] if bottoms and bottoms[0] else ()
            if any(n != 1 for n in spatial) and not loss.HasField("normalize"):
                message = "divides by the batch size only, unlike the SoftmaxWithLoss beside it"
                yield context.layer("CIO405", index, message)
            break


@net_rule("CIO406", "no-filler")
def no_filler(context: NetContext) -> Iterator[Finding]:
    """Weights without a filler begin at 0 in a net that is trained.

    All outputs of the layer are the same and stay the same, unless its weights are loaded from a
    file. Said once a file.
    """
    if not context.for_training:
        return
    hits = []
    for index, layer in enumerate(context.layers):
        name = {"Convolution": "convolution_param", "InnerProduct": "inner_product_param"}.get(
            layer.type
        )
        if name is None or not context.in_phase(layer, "TRAIN"):
            continue
        filler = getattr(layer, name).weight_filler
        frozen = layer.param and layer.param[0].lr_mult == 0
        if filler.type == "constant" and not filler.value and not frozen:
            hits.append(index)
    if hits:
        more = f" (and {len(hits) - 1} more layers)" if len(hits) > 1 else ""
        yield context.layer("CIO406", hits[0], f"no weight_filler: its weights begin at 0{more}")


@net_rule("CIO407", "test-moves-statistics")
def test_moves_statistics(context: NetContext) -> Iterator[Finding]:
    """use_global_stats: false without a phase: tests use the batch's statistics, and change them.

    A test net shares its BatchNorm statistics with the training net; each test pass moves them.
    Leave use_global_stats out: training then uses the batch's, tests the stored ones. Said once a
    file.
    """
    if "TEST" not in context.graphs or not context.for_training:
        return
    hits = []
    for index, layer in enumerate(context.layers):
        p = layer.batch_norm_param
        if layer.type != "BatchNorm" or not p.HasField("use_global_stats") or p.use_global_stats:
            continue
        if context.in_phase(layer, "TEST") and context.in_phase(layer, "TRAIN"):
            hits.append(index)
    if hits:
        more = f" (and in {len(hits) - 1} more layers)" if len(hits) > 1 else ""
        removals = tuple(f"layer[{i}].batch_norm_param.use_global_stats" for i in hits)
        steps = ("batch_norm_param", "use_global_stats")
        message = f"use_global_stats: false also holds in TEST{more}"
        fix = Fix("remove use_global_stats", removals=removals)
        yield context.layer("CIO407", hits[0], message, *steps, fix=fix)


@net_rule("CIO413", "bad-number", ERROR)
def bad_number(context: NetContext) -> Iterator[Finding]:
    """A number that Caffe dies of, or that undoes the layer.

    dropout_ratio outside of [0, 1), an even local_size, a gaussian filler with std 0, a batch_size
    of 0.
    """
    for index, layer in enumerate(context.layers):
        for steps, message in _bad_numbers(layer):
            yield context.layer("CIO413", index, message, *steps)


def _bad_numbers(layer: pb.LayerParameter) -> Iterator[tuple[tuple[str, ...], str]]:
    ratio = layer.dropout_param.dropout_ratio
    if layer.type == "Dropout" and not 0 <= ratio < 1:
        yield ("dropout_param", "dropout_ratio"), f"dropout_ratio {ratio:g} is not in [0, 1)"
    if layer.type == "LRN" and layer.lrn_param.local_size % 2 == 0:
        message = f"local_size {layer.lrn_param.local_size} is even"
        yield ("lrn_param", "local_size"), message
    for name in ("convolution_param", "inner_product_param", "embed_param"):
        param = getattr(layer, name)
        for field in ("weight_filler", "bias_filler"):
            filler = getattr(param, field)
            if filler.type == "gaussian" and filler.std <= 0:
                yield (name, field), f"a gaussian {field} with std {filler.std:g}"
    name = batch_message(layer.type) if reads_data(layer.type) else ""
    if name and layer.HasField(name) and not getattr(layer, name).batch_size:
        yield (name,), "no batch_size"


@net_rule("CIO414", "bias-before-batch-norm", INFO)
def bias_before_batch_norm(context: NetContext) -> Iterator[Finding]:
    """A convolution has a bias, and BatchNorm behind it takes it away again.

    It costs memory and time and learns nothing: bias_term: false.
    """
    makers: dict[str, int] = {}
    for index, layer in enumerate(context.layers):
        if layer.type == "BatchNorm" and layer.bottom and layer.bottom[0] in makers:
            above = makers[layer.bottom[0]]
            message = f"its bias is taken away by {layer.name!r}"
            yield context.layer("CIO414", above, message, "convolution_param")
        for top in layer.top:
            makers.pop(top, None)
        if layer.type == "Convolution" and layer.convolution_param.bias_term:
            makers.update(dict.fromkeys(layer.top, index))
