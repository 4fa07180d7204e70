from __future__ import annotations

import json
from pathlib import Path

import pytest

from caffeio.proto import caffe_pb2
from caffeio.proto.dialect import schema
from caffeio.proto.dialect.schema import Field, Schema
from tests.paths import SHARED, needs_shared

NAMES = schema.dialect_names()
_load = schema.load.__wrapped__  # without its cache


def test_caffe_proto_is_what_the_tables_say() -> None:
    path = schema.FOLDER.parent / "caffe.proto"
    assert path.read_text(encoding="utf-8") == schema.proto_text()


def test_the_compiled_schema_is_the_canonical_one() -> None:
    for name, fields in schema.canonical().messages.items():
        if name == "__file__":
            continue
        kind = caffe_pb2
        for part in name.split("."):
            kind = getattr(kind, part)
        numbers = {f.name: f.number for f in kind.DESCRIPTOR.fields}  # type: ignore[attr-defined]
        assert numbers == {f.name: f.number for f in fields.values()}


@pytest.mark.parametrize("name", NAMES)
def test_a_dialect_is_sound(name: str) -> None:
    own = schema.load(name)
    assert own.about
    assert own.layer_types
    for message, fields in own.messages.items():
        numbers = [f.number for f in fields.values()]
        assert len(numbers) == len(set(numbers)), message
        for entry in fields.values():
            assert entry.message is None or entry.message in own.messages, entry
            assert entry.enum is None or entry.enum in own.enums, entry
            assert (
                entry.enum is None
                or entry.default is None
                or (entry.default in own.enums[entry.enum])
            )
    for enum, values in own.enums.items():
        assert len(values) == len(set(values.values())), enum
    for path in own.ranges:
        message, _, key = path.rpartition(".")
        assert own.messages[message][key].type == "float"


@pytest.mark.parametrize("name", NAMES)
def test_the_canonical_schema_can_hold_a_dialect(name: str) -> None:
    union = schema.canonical()
    for message, fields in schema.load(name).messages.items():
        for entry in fields.values():
            mine = union.messages[message][entry.name]
            assert entry.label != "repeated" or mine.label == "repeated", (message, entry)
            assert (entry.enum is None) == (mine.enum is None)
    for enum, values in schema.load(name).enums.items():
        assert values.keys() <= union.enums[enum].keys()


def test_no_label_is_required() -> None:
    labels = {f.label for m in schema.canonical().messages.values() for f in m.values()}
    assert labels == {"optional", "repeated"}


def test_bvlcs_numbers_are_canonical() -> None:
    union = schema.canonical().messages
    for message, fields in schema.load("bvlc").messages.items():
        for entry in fields.values():
            assert union[message][entry.name].number == entry.number


def test_ages_of_intels_caffe() -> None:
    def pooling(name: str) -> dict[str, int]:
        fields = schema.load(name).messages["PoolingParameter"]
        return {key: fields[key].number for key in ("kernel_size", "stride", "pad")}

    def none(name: str) -> int:
        return schema.load(name).enums["LossParameter.NormalizationMode"]["NONE"]

    plain, moved = (
        {"kernel_size": 2, "stride": 3, "pad": 4},
        {"pad": 2, "kernel_size": 3, "stride": 4},
    )
    assert [pooling(n) for n in ("intel-2016", "intel-2017", "sara", "intel")] == [
        plain, moved, moved, plain,
    ]  # fmt: skip
    assert [none(n) for n in ("bvlc", "intel-2016", "intel-2017", "intel")] == [3, 3, 4, 4]
    assert "lr_iter" in schema.load("sara").messages["SolverParameter"]
    assert "lr_iter" not in schema.load("intel-2017").messages["SolverParameter"]


def test_private_fields_have_a_dialect() -> None:
    layer = {name: schema.load(name).messages["LayerParameter"] for name in NAMES}
    assert layer["waifu2x"]["crop_center_param"].number == 149
    assert layer["intel"]["engine"].number == 149
    assert layer["nvidia"]["debug"].number == 149
    assert layer["caffe-on-spark"]["source_class"].number == 10001
    assert schema.load("mtcnn").messages["LossParameter"]["target_dim"].number == 4


def _table(folder: Path, name: str, text: str) -> Schema:
    (folder / "tables").mkdir(exist_ok=True)
    (folder / "tables" / f"{name}.tsv").write_text(text, encoding="utf-8")
    return _load(name)


def test_a_table_lays_a_delta_over_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "FOLDER", tmp_path)
    monkeypatch.setattr(schema, "load", _load)
    _table(
        tmp_path,
        "bvlc",
        "# about bvlc\nfield\tM\ta\t1\toptional\tint32\t5\nfield\tM\tb\t2\toptional\tenum:E\tX\n"
        "field\tGone\tx\t1\toptional\tbool\nenum\tE\tX\t0\nenum\tE\tY\t1\nlayer\tOld\n",
    )
    own = _table(
        tmp_path,
        "fork",
        "# about fork\n# more\nfield\tM\tc\t1\trepeated\tfloat\t\tpacked\n"
        "enum\tE\tZ\t1\nlacks\tGone\nrange\tM.c\t0\t1\n",
    )
    assert own.about == "about fork"
    assert own.messages == {
        "M": {
            "c": Field("c", 1, "repeated", "float", None, True),
            "b": Field("b", 2, "optional", "enum:E", "X"),
        }
    }
    assert own.enums == {"E": {"X": 0, "Z": 1}}
    assert own.layer_types == {"Old"}
    assert own.ranges == {"M.c": (0, 1)}
    grand = _table(tmp_path, "grand", "# g\nbase\tfork\nlacks\tM.b\nlacks\tE.X\nlayer\tNew\n")
    assert list(grand.messages["M"]) == ["c"]
    assert grand.enums == {"E": {"Z": 1}}
    assert grand.layer_types == {"New"}
    with pytest.raises(ValueError, match="unknown kind of row 'oops'"):
        _table(tmp_path, "bad", "oops\tx\n")


# --- against the facts that were read from compiled schemas

OURS = {"sara_nl": "sara", "saranl": "sara", "nvidia-0.17": "nvidia"}


def _same(theirs: dict, mine: Field) -> bool:
    return (
        mine.number == theirs["number"]
        and mine.label == theirs["label"]
        and mine.type == theirs["type"]
        and mine.default == (theirs["default"] or None)
        and mine.packed == bool(theirs["packed"])
    )


@needs_shared
def test_against_the_whole_schemas() -> None:
    facts = json.loads((SHARED / "semantics" / "dialects.json").read_text())
    checked = 0
    for theirs, messages in facts.items():
        own = schema.load(OURS.get(theirs, theirs))
        plain = {m for m in messages if m != "__file__"}
        assert set(own.messages) - {"__file__"} == plain, theirs
        for message, entry in messages.items():
            prefix = "" if message == "__file__" else f"{message}."
            for enum, values in entry["enums"].items():
                assert own.enums[prefix + enum] == values, (theirs, message, enum)
            for field in entry["fields"]:
                assert _same(field, own.messages[message][field["name"]]), (theirs, message, field)
                checked += 1
            if message in own.messages:
                assert len(own.messages[message]) == len(entry["fields"]), (theirs, message)
    assert checked > 3000


@needs_shared
def test_against_the_forks_deltas() -> None:
    facts = json.loads((SHARED / "semantics" / "forks_25_delta.json").read_text())
    facts.pop("_about")
    for theirs, messages in facts.items():
        own = schema.load(OURS.get(theirs, theirs))
        assert not set(messages.pop("_lacks_messages", ())) & set(own.messages), theirs
        types = messages.pop("_registered_layer_types", None)
        assert types is None or set(types) <= own.layer_types, theirs
        for message, entry in messages.items():
            for field in entry["fields"]:
                assert _same(field, own.messages[message][field["name"]]), (theirs, message, field)
            assert not set(entry["lacks"]) & set(own.messages.get(message, {})), (theirs, message)


@needs_shared
def test_against_the_known_conflicts() -> None:
    facts = json.loads((SHARED / "semantics" / "conflicts.json").read_text())
    assert len(facts["number_conflicts"]) == 53
    numbers = {}
    for name in ("bvlc", "sara_nl", "intel", "nvidia", "borisgin"):
        messages = schema.load(OURS.get(name, name)).messages
        numbers[name] = {m: {f.number: f.name for f in fs.values()} for m, fs in messages.items()}
    for conflict in facts["number_conflicts"]:
        for dialect, entry in conflict["by_dialect"].items():
            assert numbers[dialect][conflict["message"]][conflict["number"]] == entry["name"]
