"""The nets that a solver names: which files, in which states, with which changes.

Source: src/caffe/solver.cpp (InitTrainNet, InitTestNets).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from caffeio.errors import CaffeIOError, SolverError
from caffeio.net.recipe import NetRecipe, folders_of
from caffeio.profiles import profile_of_dialect
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import NetFile, SolverFile, read_net
from caffeio.proto.text.overrides import apply_overrides
from caffeio.proto.text.text_format import UnknownField
from caffeio.proto.upgrade.upgrade import upgrade_net


def override_nets(specs: Sequence[NetRecipe], overrides: Sequence[str]) -> None:
    """Apply `KEY=VALUE` changes; each must match something in at least one of the nets."""
    counts = [apply_overrides(spec.message, overrides, missing_ok=True) for spec in specs]
    for i, override in enumerate(overrides):
        if not any(count[i] for count in counts):
            text = f"--set {override}: no net of this solver has such a field to set"
            try:
                apply_overrides(specs[0].message, [override])
            except CaffeIOError as error:
                found = str(error).partition("nothing matches: ")[2]
                text += f": {found}" if found else ""
            raise CaffeIOError(text)


def field_paths(net: pb.NetParameter, name: str) -> list[str]:
    """Where layers of a net say a field: `layer[data].data_param.batch_size` for batch_size."""
    found = []
    for layer in net.layer:
        for inner, message in layer.ListFields():
            if inner.message_type is not None and not inner.is_repeated and any(
                field.name == name for field, _ in message.ListFields()
            ):  # fmt: skip
                found.append(f"layer[{layer.name}].{inner.name}.{name}")
    return list(dict.fromkeys(found))


def solver_folder(solver: SolverFile) -> str | None:
    """The folder of the solver's file."""
    return str(Path(solver.path).resolve().parent) if solver.path else None


def find_file(name: str, folder: str | None, *, what: str, where: str | None = None) -> Path:
    """The file `name` as Caffe finds it (from the working directory), else near the solver.

    Tried in order: as given, below the solver's folder, beside the solver. Raises CaffeIOError
    that lists the places.
    """
    places = [Path(name)]
    if folder is not None and not Path(name).is_absolute():
        places.append(Path(folder) / name)
    if folder is not None:
        places.append(Path(folder) / Path(name).name)
    for place in places:
        if place.exists():
            return place
    tried = ", ".join(str(place) for place in dict.fromkeys(places))
    raise CaffeIOError(f"{what} {name!r} is not there (tried {tried})", where=where)


def train_spec(solver: SolverFile) -> NetRecipe:
    """The training net: exactly one of net, net_param, train_net, train_net_param."""
    message = solver.message
    fields = ("net", "net_param", "train_net", "train_net_param")
    given = [name for name in fields if message.HasField(name)]
    if len(given) != 1:
        listed = ", ".join(given) if given else "none of them"
        raise SolverError(
            f"a solver must name one training net with {', '.join(fields)}: this one has {listed}",
            where=str(solver.path) if solver.path else None,
        )
    state = pb.NetState(phase=pb.TRAIN)
    return _recipe_of(solver, given[0], None, state, message.train_state)


def test_specs(solver: SolverFile) -> list[NetRecipe]:
    """The test nets, in Caffe's order: test_net_param, test_net, then copies of the one net."""
    message = solver.message
    where = str(solver.path) if solver.path else None
    n_param, n_file = len(message.test_net_param), len(message.test_net)
    wanted = len(message.test_iter)
    generic = message.HasField("net") or message.HasField("net_param")
    if generic and wanted < n_param + n_file:
        raise SolverError(
            f"test_iter must be given for each test net: {wanted} times for {n_param + n_file} "
            "explicit test nets",
            where=where,
        )
    if not generic and wanted != n_param + n_file:
        raise SolverError(
            f"test_iter must be given once for each test net: {wanted} times for "
            f"{n_param + n_file} test nets",
            where=where,
        )
    sources: list[tuple[str, int | None]] = [("test_net_param", i) for i in range(n_param)]
    sources += [("test_net", i) for i in range(n_file)]
    shared = "net_param" if message.HasField("net_param") else "net"
    sources += [(shared, None)] * (wanted - len(sources))
    states = list(message.test_state)
    if states and len(states) != len(sources):
        raise SolverError(
            f"test_state must be left out or given once for each of the {len(sources)} test nets, "
            f"not {len(states)} times",
            where=where,
        )
    if sources and message.test_interval <= 0:
        raise SolverError("test_interval must be set above 0 when there are test nets", where=where)
    specs = []
    for i, (name, index) in enumerate(sources):
        state = pb.NetState(phase=pb.TEST)
        extra = states[i] if states else pb.NetState()
        specs.append(_recipe_of(solver, name, index, state, extra))
    return specs


def _recipe_of(
    solver: SolverFile,
    name: str,
    index: int | None,
    state: pb.NetState,
    extra: pb.NetState,
) -> NetRecipe:
    folder = solver_folder(solver)
    search = folders_of(solver.path)
    value = getattr(solver.message, name)
    if index is not None:
        value = value[index]
    if isinstance(value, pb.NetParameter):
        prefix = (name,) if index is None else (name, index)
        message, dialect = value, solver.dialect
        lines: Sequence[tuple[str, str]] = ()
        unknown: Sequence[UnknownField] = ()
        if value.layers or value.input:  # Caffe would see no layers: it upgrades files only
            upgraded = upgrade_net(value, dialect=solver.dialect)
            message, lines = upgraded.message, upgraded.log
        title, inline, is_text = name, True, True

        def locate(i: int) -> str:
            return solver.locate(*prefix, "layer", i)
    else:
        path = find_file(value, folder, what="net file", where=_place(solver, name, index))
        file: NetFile = read_net(path)
        message, dialect = file.message, file.dialect
        lines, unknown = file.upgraded.log if file.upgraded else [], file.unknown
        title, inline, is_text = f"{name} file: {value}", False, file.text is not None
        near = str(path.resolve().parent)
        search = (*search, near) if near not in search else search

        def locate(i: int) -> str:
            return file.locate("layer", i)

    message = _copy(message)
    merged = pb.NetState()
    merged.MergeFrom(state)
    merged.MergeFrom(message.state)
    merged.MergeFrom(extra)
    return NetRecipe(
        message, merged, profile_of_dialect(dialect), dialect, title, search, locate, unknown,
        lines, inline, is_text,
    )  # fmt: skip


def _place(solver: SolverFile, name: str, index: int | None) -> str | None:
    if solver.path is None:
        return None
    return solver.locate(name) if index is None else solver.locate(name, index)


def _copy(message: pb.NetParameter) -> pb.NetParameter:
    copy = pb.NetParameter()
    copy.CopyFrom(message)
    return copy
