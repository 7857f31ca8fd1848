"""Transform and path functions: the JSON that they return for changes, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.engine import wal
from userhooks.engine.change import Change
from userhooks.engine.functions import FunctionError, FunctionRaised, parse_transform
from userhooks.engine.message_format import SinkForm, render
from userhooks.engine.table_shape import TableShape

CONSTANTS: dict[str, Any] = {
    "consumer": {"id": "c-1", "name": "user-42", "annotations": {"k": {"deep": [1, None]}}},
    "database": {"id": "d-1", "name": "postgres", "annotations": {}, "database": "app", "hostname": "127.0.0.1"},
    "database_name": "postgres",
}
FORM = SinkForm(CONSTANTS["consumer"], CONSTANTS["database"], "iso8601")

NOTIFICATIONS = wal.shape_of(
    {
        "id": "int8",
        "user_id": "int4",
        "message": "text",
        "price": "numeric",
        "ratio": "float8",
        "read": "bool",
        "extra": "jsonb",
        "at": "timestamptz",
        "tags": "_text",
    },
    ["id"],
)
ROW: dict[str, bytes | None] = {
    "id": b"7",
    "user_id": b"42",
    "message": b"hello",
    "price": b"12.50",
    "ratio": b"1",
    "read": b"t",
    "extra": b'{"z": [1, 1.5, null], "a": {"name": "Ada"}}',
    "at": b"2026-03-02 09:20:11+00",
    "tags": b'{a,"b c"}',
}


def row(**values: bytes | None) -> list[bytes | None]:
    """Return the default row, with these columns replaced."""
    return list({**ROW, **values}.values())


def inserted(**values: bytes | None) -> Change:
    """Return an insert of the default row, with these columns replaced."""
    return wal.change_of(NOTIFICATIONS, wal.insert(1, row(**values)))


def updated() -> Change:
    """Return an update of the message and the time, under REPLICA IDENTITY FULL."""
    return wal.change_of(NOTIFICATIONS, wal.update(1, row(), row(message=b"old", at=b"2026-01-01 00:00:00+00")))


CHANGES = {
    "insert": inserted(),
    "update": updated(),
    "update without old values": wal.change_of(NOTIFICATIONS, wal.update(1, row(), None)),
    "delete": wal.change_of(NOTIFICATIONS, wal.delete(1, row())),
    "delete with the key only": wal.change_of(NOTIFICATIONS, wal.delete(1, [b"7"] + [None] * 8, whole=False)),
    "read": Change.read(NOTIFICATIONS, row(), "backfill", 5),
}


def code(body: str) -> str:
    """Return the code of a transform with this body."""
    return f"def transform(action, record, changes, metadata) do\n{body}\nend"


def written(body: str, change: Change | None = None) -> bytes:
    """Return the JSON from a transform with this body, by default for the default insert."""
    return parse_transform(code(body), "transform").bind(CONSTANTS)(change or inserted())


def made(body: str, change: Change | None = None) -> Any:
    """Return the same, parsed."""
    return json.loads(written(body, change))


def at_path(path: str, change: Change | None = None) -> Any:
    """Return the parsed result of a path function for a change."""
    return json.loads(parse_transform(path, "path").bind(CONSTANTS)(change or inserted()))


# --- results -------------------------------------------------------------------------------------------------------------------


def test_a_map_is_built_of_what_the_message_holds() -> None:
    body = """
    who = metadata.consumer.annotations["k"]
    %{
      "text" => record["message"],
      id: record["id"],
      nested: %{event: action, key: metadata.idempotency_key, when: metadata.commit_timestamp},
      list: [record["price"], record["ratio"], record["read"], nil, :word, who["deep"]],
      line: "#{record["user_id"]}: #{record["message"]}!" <> "?"
    }
    """
    assert made(body) == {
        "id": 7,
        "text": "hello",
        "nested": {"event": "insert", "key": "MTAwMDow", "when": "1970-01-01T00:00:00.000000Z"},
        "list": ["12.50", 1.0, True, None, "word", [1, None]],
        "line": "42: hello!?",
    }


def test_keys_are_in_elixirs_order_atoms_first() -> None:
    assert written('%{"b" => 1, "a" => 2, :z => 3, y: %{d: 1, c: 2}}') == b'{"y":{"c":2,"d":1},"z":3,"a":2,"b":1}'
    assert written('x = %{"b" => 1, "a" => record["id"], :z => 3}\nx') == b'{"z":3,"a":7,"b":1}'


def test_the_parameters_may_carry_underscores_and_the_body_stand_on_one_line() -> None:
    function = parse_transform('def transform(_action, record, _changes, _metadata), do: %{id: record["id"]}', "transform")
    assert function.bind(CONSTANTS)(inserted()) == b'{"id":7}'


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ('record["id"]', 7),
        ("nil", None),
        ("[]", []),
        ("%{}", {}),
        ('"é\\n\\"#{"x"}"', 'é\n"x'),
        ("-1.5", -1.5),
        ("99999999999999999999999", 99999999999999999999999),
        ('record["nothing"]', None),
        ('record["extra"]["a"]["name"]', "Ada"),
        ('record["tags"]', ["a", "b c"]),
        ('record["user_id"] == 42 and action in ["insert"]', True),
        ('if record["read"], do: %{read: true}, else: %{read: false}', {"read": True}),
        ('%{a: if record["nothing"] do 1 end}', {"a": None}),
        ('case record["message"] do\n "x" -> 1\n "hello" -> record["extra"]["z"]\n _ -> 3\nend', [1, 1.5, None]),
        ('Map.take(record, ["id", "message", "nothing"])', {"id": 7, "message": "hello"}),
        ('Map.put(Map.take(record, ["id"]), "action", action)', {"id": 7, "action": "insert"}),
        ('Map.merge(%{id: 1, at: 2}, %{id: record["id"]})', {"id": 7, "at": 2}),
        ('Map.merge(record["extra"], %{"z" => 1})', {"a": {"name": "Ada"}, "z": 1}),
        ('Map.drop(%{a: 1, b: record["id"]}, [:a])', {"b": 7}),
        ('Map.get(Map.put(record, "x", [record["id"]]), "x")', [7]),
        ('%{"k" <> "1" => 1, record["message"] => 2}', {"k1": 1, "hello": 2}),
        ("metadata.consumer", CONSTANTS["consumer"]),
        ("metadata.database[:hostname]", "127.0.0.1"),
        ("metadata.record_pks", ["7"]),
        ("Map.take(metadata, [:table_name, :table_schema])", {"table_name": "notifications", "table_schema": "public"}),
    ],
)
def test_a_transform_may_make_any_value(body: str, result: Any) -> None:
    assert made(body) == result
    assert made(f"x = {body}\nx") == result
    assert made(f"%{{inner: [{body}]}}") == {"inner": [result]}


def test_a_variable_may_be_used_again_and_again() -> None:
    assert made('x = Map.take(record, ["id"])\ny = Map.put(x, :more, x)\n[y, x]') == [{"id": 7, "more": {"id": 7}}, {"id": 7}]
    assert made('extra = Map.put(record["extra"], "z", 1)\nextra["z"]') == 1


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_arguments_are_what_the_message_shows(change: Change) -> None:
    shown = json.loads(render(change, FORM))
    assert made("%{record: record, changes: changes, action: action, metadata: metadata}", change) == shown
    assert made("Map.merge(%{}, %{record: record, changes: changes, action: action, metadata: metadata})", change) == shown
    columns = ", ".join(f'"{name}" => record["{name}"]' for name in ROW)
    assert made(f"%{{{columns}}}", change) == shown["record"]
    assert made('changes["message"]', change) == (shown["changes"] or {}).get("message")
    assert made("Map.drop(record, [])", change) == shown["record"]
    for name, value in shown["metadata"].items():
        assert made(f"metadata.{name}", change) == value
        assert made(f"Map.get(metadata, :{name})", change) == value


def test_a_sinks_timestamp_format_holds_for_its_transform_too() -> None:
    form = SinkForm(CONSTANTS["consumer"], CONSTANTS["database"], "unix_microsecond")
    shown = json.loads(render(updated(), form))
    body = """%{
      a: record["at"], b: record, c: changes, d: changes["at"],
      e: Map.take(record, ["at"]), f: "#{record["at"]}", g: [Map.get(record, "at")]
    }"""
    at, was = shown["record"]["at"], shown["changes"]["at"]
    assert at == 1772443211000000
    assert json.loads(parse_transform(code(body), "transform").bind(CONSTANTS, "unix_microsecond")(updated())) == {
        "a": at,
        "b": shown["record"],
        "c": shown["changes"],
        "d": was,
        "e": {"at": at},
        "f": str(at),
        "g": [at],
    }


def test_a_message_is_what_the_transform_makes_and_nothing_else() -> None:
    transform = parse_transform(code('%{id: record["id"]}'), "transform").bind(CONSTANTS)
    assert render(inserted(), SinkForm(CONSTANTS["consumer"], CONSTANTS["database"], "iso8601", transform)) == b'{"id":7}'


def test_odd_values_become_json() -> None:
    odd = wal.shape_of({"id": "int4", 'na"me%b': "json", "text": "text"}, ["id"])
    change = wal.change_of(odd, wal.insert(1, [b"1", rb'{"half": "\ud800", "big": 123456789012345678901234567890}', b"100%"]))
    for body in (
        "record",
        "Map.drop(record, [])",
        r'%{"na\"me%b" => record["na\"me%b"], "id" => 1, "text" => "100%"}',
        "x = Map.put(record, :id, 1)\nMap.drop(x, [:id])",
    ):
        shown = made(body, change)
        assert shown == {"id": 1, 'na"me%b': {"half": "\ud800", "big": 123456789012345678901234567890}, "text": "100%"}
    assert written("record", odd_unchanged()) == b'{"id":1,"text":"unchanged_toast"}'


def odd_unchanged() -> Change:
    """Return an update that did not change a text stored outside the row (TOAST), so that the WAL does not contain it."""
    shape = wal.shape_of({"id": "int4", "text": "text"}, ["id"])
    return wal.change_of(shape, wal.update(1, [b"1", wal.UNCHANGED], None))


# --- what raises ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('record["message"] <> 1', "segment 2 of type 'binary': expected a binary but got: 1 (line: 2)"),
        ('%{id: record["message"]["x"]}', "no function clause matching in Access.get/3"),
        ('%{"id" => 1, :id => record["id"]}', "have the same JSON name: id"),
        ('%{"id" => 1, :id => 2}', "have the same JSON name: id"),
        ("Map.put(record, :id, 1)", "have the same JSON name: id"),
        ("Map.merge(record, changes)", "expected a map, got:\n\n    nil"),
        ("Map.merge(changes, %{})", "expected a map, got:\n\n    nil"),
        ('Map.take(record, "id")', 'expected a list of keys, got:\n\n    "id"'),
        ("case action do\n 1 -> 1\nend", 'no case clause matching:\n\n    "insert"'),
        ("x = nil and true\n1", 'expected a boolean on left-side of "and", got:\n\n    nil'),
        ("metadata.nothing", "key :nothing not found in"),
    ],
)
def test_what_elixir_or_json_refuses_is_raised(body: str, says: str) -> None:
    transform = parse_transform(code(body), "transform").bind(CONSTANTS)
    with pytest.raises(FunctionRaised) as raised:
        transform(inserted())
    assert says in str(raised.value)


def test_a_number_that_json_has_not_is_raised() -> None:
    with pytest.raises(FunctionRaised, match="too large for JSON"):
        made('record["extra"]["n"]', inserted(extra=b'{"n": 1e999}'))


def test_a_value_that_is_nested_too_deeply_is_raised() -> None:
    nested = "x = [x]\n" * 1200
    for start in ("1", 'record["id"]'):
        transform = parse_transform(code(f"x = {start}\n{nested}x"), "transform").bind(CONSTANTS)
        with pytest.raises(FunctionRaised):
            transform(inserted())


# --- paths ---------------------------------------------------------------------------------------------------------------------


def test_a_path_picks_one_part_of_the_message() -> None:
    shown = json.loads(render(updated(), FORM))
    assert at_path("record", updated()) == shown["record"]
    assert at_path("changes", updated()) == shown["changes"]
    assert at_path("action", updated()) == "update"
    assert at_path("metadata", updated()) == shown["metadata"]
    assert at_path("record.id") == 7
    assert at_path("record.extra.a.name") == "Ada"
    assert at_path("record.nothing.more") is None
    assert at_path("changes.message", updated()) == "old"
    assert at_path("changes.message") is None
    assert at_path("metadata.table_name") == "notifications"
    assert at_path("metadata.consumer.annotations.k.deep") == [1, None]
    assert at_path("metadata.database.hostname") == "127.0.0.1"
    assert at_path("metadata.transaction_annotations.x") is None


def test_a_path_into_a_value_without_keys_raises() -> None:
    with pytest.raises(FunctionRaised, match=r"no function clause matching in Access\.get/3"):
        at_path("record.message.x")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "a path must be record, changes, action, or metadata"),
        ("row.id", "a path must be record"),
        ("record.", "a path must be record"),
        ("record..id", "a path must be record"),
        ("action.x", "a path must be record"),
        ("record id", "a path must be record"),
        ("metadata.nothing", "`metadata.nothing` does not exist: `nothing` must be one of table_name, "),
        ("metadata.consumer.age", "`metadata.consumer.age` does not exist: `age` must be one of id, name, annotations"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(path: str, says: str) -> None:
    with pytest.raises(FunctionError) as refused:
        parse_transform(path, "path")
    assert says in str(refused.value)


# --- what is refused -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("def other(action, record, changes, metadata) do record end", 1, "Expecting only `def transform`, `def route` or `def filter`"),
        ("def transform(record) do record end", 1, "The parameter list `action, record, changes, metadata` is required"),
        (code("%{\n id: record.id\n}"), 3, "`record` fields must be accessed with the [] operator"),
        (code('record\n|> Map.foo(["id"])'), 3, "the function `Map.foo/2` does not exist"),
        (code("%{id: rec[:id]}"), 2, "undefined variable `rec`"),
        (code("%{id: }"), 2, "not valid Elixir"),
    ],
)
def test_a_transform_that_is_not_understood_is_refused_with_its_line(text: str, line: int, says: str) -> None:
    with pytest.raises(FunctionError) as refused:
        parse_transform(text, "transform")
    assert refused.value.line == line
    assert says in refused.value.message


# --- random transforms -----------------------------------------------------------------------------------------------------------

leaves = st.sampled_from(
    [
        *(f'record["{name}"]' for name in (*ROW, "nothing")),
        'changes["message"]',
        "record",
        "changes",
        "action",
        "metadata",
        "metadata.commit_lsn",
        "metadata.record_pks",
        'metadata.consumer.annotations["k"]',
        'record["extra"]["n"]',
        "nil",
        "true",
        "1",
        "-2.5",
        ":word",
        '"text"',
        "[]",
        "%{}",
    ]
)
keys = st.sampled_from(['"a"', ":a", ":b", '"message"', 'record["message"]', 'record["id"]'])


def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return a strategy for expressions that contain others."""

    def form(text: str, *parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.tuples(*parts).map(lambda given_: text.format(*given_))

    return st.one_of(
        form("[{}, {}]", inner, inner),
        form("%{{{} => {}, {} => {}}}", keys, inner, keys, inner),
        form("%{{x: {}, y: {}}}", inner, inner),
        form("Map.put({}, {}, {})", inner, keys, inner),
        form("Map.take({}, [{}, {}])", inner, keys, keys),
        form("Map.drop({}, [{}, {}])", inner, keys, keys),
        form("Map.merge({}, {})", inner, inner),
        form("Map.get({}, {}, {})", inner, keys, inner),
        form("({} <> {})", inner, inner),
        form('"a#{{{}}}b"', inner),
        form("to_string({})", inner),
        form("({} == {})", inner, inner),
        form("({} < {})", inner, inner),
        form("({} in {})", inner, inner),
        form("({} and {})", inner, inner),
        form("(not {})", inner),
        form("(if {}, do: {}, else: {})", inner, inner, inner),
        form('(case {} do\n 1 -> {}\n "text" -> {}\n _ -> {}\n end)', inner, inner, inner, inner),
        form("{}[{}]", inner.filter(lambda text: text not in ("1", "-2.5")), keys),
    )


expressions = st.recursive(leaves, larger, max_leaves=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)


@st.composite
def any_change(draw: st.DrawFn) -> Change:
    """Draw a change of any kind with random values."""
    values = {
        "id": b"%d" % draw(st.integers(-(2**63), 2**63 - 1)),
        "message": draw(st.none() | texts.map(str.encode)),
        "extra": draw(st.none() | json_values.map(lambda value: json.dumps(value).encode())),
        "read": draw(st.sampled_from([b"t", b"f", None])),
    }
    kind = draw(st.sampled_from(["insert", "update", "blind update", "delete", "read"]))
    if kind == "insert":
        return inserted(**values)
    if kind == "delete":
        return wal.change_of(NOTIFICATIONS, wal.delete(1, row(**values)))
    if kind == "read":
        return Change.read(NOTIFICATIONS, row(**values), "b", 0)
    return wal.change_of(NOTIFICATIONS, wal.update(1, row(**values), row() if kind == "update" else None))


@given(expressions, any_change())
def test_any_transform_makes_json_or_raises(expression: str, change: Change) -> None:
    transform = parse_transform(code(expression), "transform").bind(CONSTANTS)
    in_two_steps = parse_transform(code(f"x = [{expression}]\n[x]"), "transform").bind(CONSTANTS)
    try:
        result = json.loads(transform(change), parse_constant=pytest.fail)
    except FunctionRaised:
        with pytest.raises(FunctionRaised):
            in_two_steps(change)
        return
    assert json.loads(in_two_steps(change)) == [[result]]


@given(st.dictionaries(texts, texts, max_size=4), st.dictionaries(texts, texts, max_size=4))
def test_any_column_and_key_arrives_under_its_name(new: dict[str, str], old: dict[str, str]) -> None:
    names = sorted({*new, *old}) or ["id"]
    shape: TableShape = wal.shape_of(dict.fromkeys(names, "text"))
    after, before = ([row_[name].encode() if name in row_ else None for name in names] for row_ in (new, old))
    change = wal.change_of(shape, wal.update(1, after, before))
    assert made("record", change) == made("Map.merge(record, %{})", change) == {name: new.get(name) for name in names}
    assert made("changes", change) == {name: old.get(name) for name in names if old.get(name) != new.get(name)}
