"""A net's layers as real Caffe sees them: filtered by state, wired, with splits inserted.

No torch here. Sources: src/caffe/net.cpp (FilterNet, Init), src/caffe/util/insert_splits.cpp.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from caffeio.errors import Locator, NetError
from caffeio.net.wiring_errors import unknown_bottom
from caffeio.profiles import BVLC, Profile
from caffeio.proto import caffe_pb2 as pb


@dataclass(eq=False)
class LayerNode:
    """One layer that takes part: its LayerParameter is a copy that may be changed by set-up."""

    param: pb.LayerParameter
    where: str = ""  # "file:line:column" of the layer in its file
    source_index: int | None = None  # index in the file's list of layers; None for a Split
    in_place: frozenset[int] = frozenset()  # indices i with top[i] == bottom[i]
    merged_scale: str | None = None  # name of the Scale layer that this BatchNorm has taken in
    number: int = 1  # among the layers of this name that take part, from 1

    @property
    def name(self) -> str:
        """The layer's name; Caffe does not insist that names be unique."""
        return self.param.name

    @property
    def key(self) -> str:
        """The layer's name; of a second layer of this name `name#2`."""
        return self.name if self.number == 1 else f"{self.name}#{self.number}"

    @property
    def type(self) -> str:
        """The layer's type."""
        return self.param.type

    @property
    def bottoms(self) -> list[str]:
        """Names of the bottoms, after splits."""
        return list(self.param.bottom)

    @property
    def tops(self) -> list[str]:
        """Names of the tops as written; automatic tops of losses are not among them."""
        return list(self.param.top)

    @property
    def propagate_down(self) -> list[bool]:
        """The layer's propagate_down list: empty, or one entry a bottom."""
        return list(self.param.propagate_down)


@dataclass
class NetGraph:
    """The layers of one net in one state, in the order in which they run."""

    name: str
    phase: str  # "TRAIN" or "TEST"
    level: int
    stages: tuple[str, ...]
    nodes: list[LayerNode] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)  # tops of Input layers, in order
    outputs: list[str] = field(default_factory=list)  # tops nobody consumes, sorted by bytes
    force_backward: bool = False
    debug_info: bool = False
    is_text: bool = False  # of a net as written, whose blobs have values if there are any


def state_meets_rule(state: pb.NetState, rule: pb.NetStateRule) -> bool:
    """Whether every condition of `rule` holds in `state` (an empty rule always does)."""
    if rule.HasField("phase") and rule.phase != state.phase:
        return False
    if rule.HasField("min_level") and state.level < rule.min_level:
        return False
    if rule.HasField("max_level") and state.level > rule.max_level:
        return False
    stages = set(state.stage)
    return stages.issuperset(rule.stage) and stages.isdisjoint(rule.not_stage)


def is_included(layer: pb.LayerParameter, state: pb.NetState, where: str = "") -> bool:
    """Whether `layer` takes part in a net of this state."""
    if len(layer.include) and len(layer.exclude):
        raise NetError(
            f"layer {layer.name!r}: specify either include rules or exclude rules, not both",
            where=where or None,
        )
    if len(layer.include):
        return any(state_meets_rule(state, rule) for rule in layer.include)
    return not any(state_meets_rule(state, rule) for rule in layer.exclude)


def net_state(
    net: pb.NetParameter, phase: str, level: int = 0, stages: Iterable[str] = ()
) -> pb.NetState:
    """The state of `Net(file, phase, level, stages)`: stages are added to the net's own."""
    state = pb.NetState()
    state.CopyFrom(net.state)
    state.phase = pb.TRAIN if phase == "TRAIN" else pb.TEST
    state.level = level
    state.stage.extend(stages)
    return state


def build_graph(
    net: pb.NetParameter,
    *,
    phase: str = "TEST",
    level: int = 0,
    stages: Iterable[str] = (),
    state: pb.NetState | None = None,
    locate: Locator | None = None,
    is_text: bool = False,
    profile: Profile = BVLC,
) -> NetGraph:
    """Filter the layers of an upgraded `net` by state, insert splits, check the wiring.

    `state` overrides phase, level and stages (a solver merges states of its own). Where `profile`
    says so, every BatchNorm takes in the Scale behind it, as Intel's MKL-DNN engine does.
    `locate(i)` gives the place of layer i in its file. `is_text`: see NetGraph. Raises NetError.
    """
    if state is None:
        state = net_state(net, phase, level, stages)
    place = locate or (lambda index: "")
    nodes, names = [], Counter[str]()
    for index, layer in enumerate(net.layer):
        spot = place(index)
        if is_included(layer, state, spot):
            copy = pb.LayerParameter()
            copy.CopyFrom(layer)
            names[copy.name] += 1
            nodes.append(LayerNode(copy, spot, index, number=names[copy.name]))
    if profile.merge_batch_norm_scale:
        nodes = _merge_scales(nodes)
    graph = NetGraph(
        net.name,
        pb.Phase.Name(state.phase),
        state.level,
        tuple(state.stage),
        _insert_splits(nodes, net, state),
        force_backward=net.force_backward,
        debug_info=net.debug_info,
        is_text=is_text,
    )
    _wire(graph)
    return graph


def _merge_scales(nodes: list[LayerNode]) -> list[LayerNode]:
    """Join each BatchNorm with the one-bottom Scale that reads its top first.

    The Scale's specs and fillers are lost, as they are in Intel Caffe: scale and shift become
    blobs 3 and 4 of BatchNorm with its own specs and fillers. Source: sara-nl/caffe
    src/caffe/net.cpp (CompilationRuleOne), remove_batch_norm.cpp.
    """
    gone: set[int] = set()
    readers = Readers([node.param for node in nodes])
    for i, node in enumerate(nodes):
        if node.type != "BatchNorm" or not node.param.top:
            continue
        j = readers.first(node.param.top[0], i + 1)
        if j is None or nodes[j].type != "Scale" or len(nodes[j].param.bottom) != 1:
            continue
        scale = nodes[j].param
        if len(scale.top) != 1:
            continue  # refused as it stands
        node.merged_scale = scale.name
        node.param.top[0] = scale.top[0]
        node.param.batch_norm_param.bias_term = scale.scale_param.bias_term
        gone.add(j)
    return [node for i, node in enumerate(nodes) if i not in gone]


class Readers:
    """Finds which layer reads a blob next."""

    def __init__(self, layers: Sequence[pb.LayerParameter]) -> None:
        self._of: dict[str, list[int]] = {}
        for index, layer in enumerate(layers):
            for blob in layer.bottom:
                self._of.setdefault(blob, []).append(index)

    def first(self, blob: str, start: int) -> int | None:
        """The index of the first layer from `start` on that reads `blob`; None if there is none."""
        found = self._of.get(blob, [])
        at = bisect_left(found, start)
        return found[at] if at < len(found) else None


def split_name(blob: str, layer: str, index: int) -> str:
    """The name of the Split layer behind top `index` of `layer`."""
    return f"{blob}_{layer}_{index}_split"


def _insert_splits(
    nodes: list[LayerNode], message: pb.NetParameter, state: pb.NetState
) -> list[LayerNode]:
    """Put a Split behind every top that is read more than once (its loss counts as a reader)."""
    producer: dict[str, tuple[int, int]] = {}  # blob name -> its latest (layer, top)
    source_of: dict[tuple[int, int], tuple[int, int]] = {}  # (layer, bottom) -> (layer, top)
    readers: dict[tuple[int, int], int] = {}
    loss_weight: dict[tuple[int, int], float] = {}
    for i, node in enumerate(nodes):
        for j, blob in enumerate(node.param.bottom):
            if blob not in producer:
                left_out = [la for la in message.layer if not is_included(la, state)]
                raise unknown_bottom([n.param for n in nodes], i, j, left_out, state, node.where)
            source_of[i, j] = producer[blob]
            readers[producer[blob]] = readers.get(producer[blob], 0) + 1
        for j, blob in enumerate(node.param.top):
            producer[blob] = (i, j)
        for j, weight in enumerate(node.param.loss_weight):
            if weight and j < len(node.param.top):
                loss_weight[i, j] = weight
                readers[i, j] = readers.get((i, j), 0) + 1

    split_losses = {key[0] for key in loss_weight if readers[key] > 1}
    out: list[LayerNode] = []
    given: dict[tuple[int, int], int] = {}  # how many tops of this split are taken
    names = [list(node.param.top) for node in nodes]
    for i, node in enumerate(nodes):
        for j in range(len(node.param.bottom)):
            origin = source_of[i, j]
            if readers[origin] > 1:
                k = given.get(origin, 0)
                given[origin] = k + 1
                blob = names[origin[0]][origin[1]]
                split = split_name(blob, nodes[origin[0]].name, origin[1])
                node.param.bottom[j] = f"{split}_{k}"
        out.append(node)
        for j, blob in enumerate(names[i]):
            if readers.get((i, j), 0) > 1:
                if (i, j) in loss_weight:
                    given[i, j] = 1
                out.append(_split_node(node, blob, j, readers[i, j], loss_weight.get((i, j))))
        if i in split_losses:
            del node.param.loss_weight[:]
    return out


def _split_node(
    node: LayerNode, blob: str, index: int, count: int, weight: float | None
) -> LayerNode:
    name = split_name(blob, node.name, index)
    param = pb.LayerParameter(name=name, type="Split", bottom=[blob])
    param.top.extend(f"{name}_{k}" for k in range(count))
    if weight:
        param.loss_weight.extend([weight] + [0.0] * (count - 1))
    return LayerNode(param, node.where)


def _wire(graph: NetGraph) -> None:
    """Find in-place tops, inputs and outputs; refuse a top that two layers make."""
    available: set[str] = set()
    made_by: dict[str, LayerNode] = {}
    for node in graph.nodes:
        param = node.param
        if len(param.propagate_down) not in (0, len(param.bottom)):
            raise NetError(
                f"layer {node.name!r}: propagate_down must be given for no bottom or for each of "
                f"the {len(param.bottom)}, not {len(param.propagate_down)} times",
                where=node.where or None,
            )
        available.difference_update(param.bottom)
        in_place = set()
        for i, top in enumerate(param.top):
            if i < len(param.bottom) and param.bottom[i] == top:
                in_place.add(i)
            elif top in made_by:
                raise NetError(
                    f"top blob {top!r} is made by more than one layer: {made_by[top].name!r} and "
                    f"{node.name!r} (in-place needs the same name at the same index of bottom "
                    "and top)",
                    where=node.where or None,
                )
            made_by[top] = node
            available.add(top)
            if param.type == "Input":
                graph.inputs.append(top)
        node.in_place = frozenset(in_place)
    graph.outputs = sorted(available, key=str.encode)
