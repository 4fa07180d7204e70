"""Rules about solvers and their nets together."""

from __future__ import annotations

from collections.abc import Iterator

from caffeio.converters.diff.training import feed_of
from caffeio.converters.lint.model import (
    ERROR,
    INFO,
    Finding,
    SolverContext,
    is_loss,
    solver_rule,
)
from caffeio.errors import NetError
from caffeio.layers.registry import reads_data
from caffeio.net.graph import build_graph, net_state
from caffeio.proto import caffe_pb2 as pb


@solver_rule("CIO515", "test-nets", ERROR)
def test_nets(context: SolverContext) -> Iterator[Finding]:
    """test_iter and test_state must be there for each test net; Caffe dies otherwise."""
    solver = context.message
    explicit = len(solver.test_net) + len(solver.test_net_param)
    generic = solver.HasField("net") or solver.HasField("net_param")
    wanted = len(solver.test_iter)
    if (generic and wanted < explicit) or (not generic and wanted != explicit):
        message = f"{wanted} test_iter for {explicit} test nets"
        yield context.at("CIO515", message, "test_iter" if wanted else "test_net")
    if solver.test_state and len(solver.test_state) != max(wanted, explicit):
        message = f"{len(solver.test_state)} test_state for {max(wanted, explicit)} test nets"
        yield context.at("CIO515", message, "test_state")


@solver_rule("CIO516", "no-net")
def no_net(context: SolverContext) -> Iterator[Finding]:
    """A solver must name one net to train, in one way; Caffe dies otherwise."""
    fields = ("net", "net_param", "train_net", "train_net_param")
    given = [name for name in fields if context.message.HasField(name)]
    if len(given) > 1:
        message = f"more than one net to train: {', '.join(given)}"
        yield context.at("CIO516", message, given[1])
    if not given and context.message.HasField("base_lr"):
        yield context.whole("CIO516", "names no net to train")


@solver_rule("CIO517", "stage-never-set")
def stage_never_set(context: SolverContext) -> Iterator[Finding]:
    """A rule of the net asks for a stage that this solver never sets.

    The layer never takes part (or always, for not_stage). `caffe train -stage` may set stages too.
    """
    if context.net is None:
        return
    solver = context.message
    states = [context.net.message.state, solver.train_state, *solver.test_state]
    known = {stage for state in states for stage in state.stage}
    for index, layer in enumerate(context.net.layers):
        for field in ("include", "exclude"):
            for i, rule in enumerate(getattr(layer, field)):
                for name in ("stage", "not_stage"):
                    for stage in getattr(rule, name):
                        if stage not in known:
                            message = f"no state of {context.path} has the stage {stage!r}"
                            yield context.net.layer("CIO517", index, message, field, i, name)


@solver_rule("CIO518", "nothing-to-test")
def nothing_to_test(context: SolverContext) -> Iterator[Finding]:
    """The solver tests its net, and the net cannot be built for TEST: Caffe dies at the start.

    Each test net is built with its own test_state. `caffe train -stage` counts for the training
    net alone.
    """
    solver = context.message
    explicit = len(solver.test_net) + len(solver.test_net_param)
    if context.net is None or not solver.HasField("net") or len(solver.test_iter) <= explicit:
        return
    net, said = context.net, set()
    for i in range(explicit, len(solver.test_iter)):
        extra = solver.test_state[i] if i < len(solver.test_state) else pb.NetState()
        state = net_state(net.message, "TEST", extra.level, extra.stage)
        try:
            build_graph(net.message, state=state, locate=lambda j: net.file.locate("layer", j))
        except NetError as error:
            if error.message not in said:
                said.add(error.message)
                stages = f", stages {', '.join(state.stage)}" if state.stage else ""
                text = f"test net #{i} (state TEST{stages}) cannot be built: {error}"
                yield context.at("CIO518", text, "test_iter", i)


@solver_rule("CIO523", "deploy-net", ERROR)
def deploy_net(context: SolverContext) -> Iterator[Finding]:
    """The net of the solver has no loss and reads no data: it is a net for use, not for training.

    Caffe trains it on zeros without a word. Give the train_val.prototxt, with a data layer and a
    loss.
    """
    graph = context.net.graphs.get("TRAIN") if context.net is not None else None
    if graph is None or any(is_loss(node.param) for node in graph.nodes):
        return
    types = {node.type for node in graph.nodes}
    if "Input" in types and "Python" not in types and not any(map(reads_data, types)):
        field = "net" if context.message.HasField("net") else "train_net"
        yield context.at("CIO523", "the net is a deploy net: no data layer and no loss", field)


@solver_rule("CIO519", "partial-test", INFO)
def partial_test(context: SolverContext) -> Iterator[Finding]:
    """test_iter times the batch size is not the size of the test set, so far as that is known.

    A test then sees only a part, or some images twice.
    """
    if context.net is None or not context.message.test_iter:
        return
    if len(context.message.test_iter) > 1 or context.message.test_state:
        return  # each test net has data of its own
    feed = feed_of(context.net.message, "TEST", context.net.search)
    if not feed.records or not feed.batch:
        return
    seen = context.message.test_iter[0] * feed.batch
    if seen != feed.records:
        message = f"a test sees {seen:,} images, {feed.source} has {feed.records:,}"
        yield context.at("CIO519", message, "test_iter")


@solver_rule("CIO521", "net-not-here", INFO)
def net_not_here(context: SolverContext) -> Iterator[Finding]:
    """The net that the solver names was not found, neither from here nor near the solver."""
    for name in ("net", "train_net"):
        value = getattr(context.message, name)
        if value and context.net_path is None:
            yield context.at("CIO521", f"{value} was not found", name)
