"""Filter functions and column filters: which changes they accept, which Elixir is supported, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.engine import wal
from userhooks.engine.change import Change
from userhooks.engine.functions import Bound, FunctionError, FunctionRaised, bind_column_filters, parse, terms
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.parser import MAX_CODE_BYTES
from userhooks.engine.functions.terms import Atom
from userhooks.engine.functions.text import float_text
from userhooks.engine.resources import ColumnFilter
from userhooks.engine.routing import wal_forms
from userhooks.engine.table_shape import TableShape

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
    },
    ["id"],
)
METER = Meter(10**9)
ROW = {"id": b"7", "user_id": b"42", "message": b"hello", "price": b"12.50", "ratio": b"1", "read": b"t", "at": b"2026-03-02 09:20:11+00"}
ROW["extra"] = b'{"tags": ["a", 1, 1.5, null], "who": {"name": "Ada"}, "n": 1.0}'

SHARED = """
def filter(_action, record, changes, metadata) do
  wanted = metadata.consumer.annotations["user_id"]
  not is_nil(wanted) and is_nil(changes["user_id"]) and to_string(record["user_id"]) == to_string(wanted)
end
"""


def constants(annotations: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata constants of a sink with these annotations."""
    return {
        "consumer": {"id": "c-1", "name": "user-42", "annotations": annotations},
        "database": {"id": "d-1", "name": "postgres", "annotations": {}, "database": "app", "hostname": "127.0.0.1"},
        "database_name": "postgres",
    }


def program(body: str) -> str:
    """Return the code of a filter function with this body."""
    return f"def filter(action, record, changes, metadata) do\n{body}\nend"


def bound(body: str, annotations: dict[str, Any] | None = None) -> Bound:
    """Return a filter function with this body, bound to a sink with these annotations."""
    return parse(program(body), "filter").bind(constants(annotations or {}))


def row(shape: TableShape = NOTIFICATIONS, **values: bytes | None) -> list[bytes | None]:
    """Return a row of the table from values by column."""
    given_ = {**ROW, **values}
    return [given_.get(column.name) for column in shape.columns]


def inserted(**values: bytes | None) -> Change:
    """Return an insert of the default row, with these columns replaced."""
    return wal.change_of(NOTIFICATIONS, wal.insert(1, row(**values)))


def updated(new: dict[str, bytes | None], old: dict[str, bytes | None] | None) -> Change:
    """Return an update of the default row; `old` is None without REPLICA IDENTITY FULL."""
    return wal.change_of(NOTIFICATIONS, wal.update(1, row(**new), None if old is None else row(**old)))


def deleted(*, whole: bool) -> Change:
    """Return a delete of the default row; with `whole`, under REPLICA IDENTITY FULL."""
    return wal.change_of(NOTIFICATIONS, wal.delete(1, row() if whole else [b"7"] + [None] * 7, whole=whole))


# --- the toolkit's shared filter -------------------------------------------------------------------------------------------


def test_the_shared_filter_passes_the_rows_of_its_user_only() -> None:
    mine = parse(SHARED, "filter").bind(constants({"user_id": "42"}))
    assert mine.accepts(inserted())
    assert not mine.accepts(inserted(user_id=b"43"))
    assert not mine.accepts(inserted(user_id=None))
    assert mine.accepts(deleted(whole=True))
    assert not mine.accepts(deleted(whole=False))
    assert mine.accepts(Change.read(NOTIFICATIONS, row(), "backfill", 0))


def test_the_shared_filter_takes_a_user_id_of_any_type() -> None:
    assert parse(SHARED, "filter").bind(constants({"user_id": 42})).accepts(inserted())
    assert not parse(SHARED, "filter").bind(constants({"user_id": 42.0})).accepts(inserted())


def test_the_shared_filter_withholds_an_update_that_hands_a_row_to_another_user() -> None:
    mine = parse(SHARED, "filter").bind(constants({"user_id": "42"}))
    assert not mine.accepts(updated({}, {"user_id": b"41"}))
    assert not mine.accepts(updated({"user_id": b"43"}, {}))
    assert mine.accepts(updated({"message": b"new"}, {}))
    assert mine.accepts(updated({"message": b"new"}, None))


def test_the_shared_filter_can_be_found_by_the_users_id() -> None:
    mine = parse(SHARED, "filter").bind(constants({"user_id": "42"}))
    assert mine.equality is not None
    assert mine.equality[:3] == ("user_id", "42", True)
    assert mine.rest is not None
    assert not mine.rest(updated({}, {"user_id": b"41"}))


def test_without_an_annotation_the_shared_filter_passes_nothing_ever() -> None:
    assert parse(SHARED, "filter").bind(constants({})).never


# --- Elixir's operators ------------------------------------------------------------------------------------------------------

COMPARISONS = [
    ("1 == 1.0", True),
    ("1 === 1.0", False),
    ("1 != 1.0", False),
    ("1 !== 1.0", True),
    ('1 == "1"', False),
    ("1 == true", False),
    ("0 == false", False),
    ('"" == nil', False),
    ("nil == nil", True),
    ("false == nil", False),
    (":a == :a", True),
    (':a == "a"', False),
    (":true == true", True),
    ("nil > 5", True),
    ("nil < 5", False),
    ("5 < :a", True),
    (":a < [1]", True),
    ('[1] < "a"', True),
    ('99999999 < "1"', True),
    ("false < nil", True),
    ("nil < true", True),
    ("1 < 1.5", True),
    ("9007199254740993 > 9007199254740992.0", True),
    ("-1 < 0", True),
    ('"a" < "b"', True),
    ('"Z" < "a"', True),
    ('"a" < "é"', True),
    ("[1, 2] == [1.0, 2]", True),
    ("[1, 2] === [1.0, 2]", False),
    ("[1] < [1, 0]", True),
    ("[2] > [1, 9]", True),
    ("[] < [1]", True),
    ("1 in [1, 2]", True),
    ("1.0 in [1, 2]", False),
    ("nil in [nil]", True),
    ("3 not in [1, 2]", True),
    ("not (3 in [1, 2])", True),
    ("1_000 == 0x3E8", True),
    ("0b101 == 0o5", True),
    ("1.5e3 == 1500", True),
    (r'"\u00e9\x41\n\t\"\\\s\u{1F600}\q" == "éA' + "\n\t" + r'\"\\ 😀q"', True),
    ("true and 1 == 1", True),
    ("false and 1", False),
    ("true or 1", True),
    ("not false", True),
    ("1 == 1 and not (2 == 3) or false", True),
    ("is_nil(nil)", True),
    ("is_nil(false)", False),
    ('to_string(nil) == ""', True),
    ('to_string(true) == "true"', True),
    ('to_string(:a) == "a"', True),
    ('to_string(42) == "42"', True),
    ('to_string(1.0) == "1.0"', True),
    ('to_string([104, "é", [105]]) == "héi"', True),
    ('nil["k"] == nil', True),
    ('metadata.consumer.annotations["k"]["deeper"] == nil', True),
    ('metadata.consumer[:name] == "user-42"', True),
    ('metadata["consumer"] == nil', True),
    ("metadata.database_name == metadata.database.name", True),
    ('metadata.table_name == "notifications" and metadata.table_schema == "public"', True),
    ("metadata.commit_lsn == 1000 and metadata.commit_idx == 0", True),
    ("metadata.commit_timestamp == ~U[1970-01-01 00:00:00.000000Z]", True),
    ('to_string(metadata.commit_timestamp) == "1970-01-01 00:00:00.000000Z"', True),
    ('metadata.record_pks == ["7"] and metadata.idempotency_key == "MTAwMDow"', True),
    ("is_nil(metadata.transaction_annotations) and is_nil(metadata.enrichment)", True),
    ('action == "insert"', True),
    ('action in ["update", "delete"]', False),
    ('record["user_id"] == 42', True),
    ('42.0 == record["user_id"]', True),
    ('record["user_id"] == "42"', False),
    ('to_string(record["user_id"]) == "42"', True),
    ('record["nothing"] == nil', True),
    ("record[:user_id] == nil", True),
    ('record["price"] == "12.50"', False),
    ('to_string(record["price"]) == "12.50"', True),
    ('record["price"] == Decimal.new("12.50")', True),
    ('Decimal.equal?(record["price"], "12.5")', True),
    ('Decimal.gt?(record["price"], 12)', True),
    ('record["price"] > 100000', True),
    ('to_string(record["ratio"]) == "1.0"', True),
    ('record["ratio"] == 1', True),
    ('record["read"]', True),
    ('record["at"] >= "2026-03-02T00:00:00Z"', False),
    ('DateTime.compare(record["at"], ~U[2026-03-02 00:00:00Z]) == :gt', True),
    ('record["extra"]["who"]["name"] == "Ada"', True),
    ('record["extra"]["tags"] == ["a", 1.0, 1.5, nil]', True),
    ('record["extra"]["n"] === 1', False),
    ('record["extra"]["who"] == record["extra"]["who"]', True),
    ('record["extra"]["who"] > record["extra"]["n"]', True),
    ('record["extra"]["who"] < record["extra"]["tags"]', True),
    ('record["extra"] > record["extra"]["who"]', True),
    ('record["user_id"] in record["extra"]', False),
    ("record != nil and changes == nil", True),
    ('changes["message"] == nil', True),
    ('if record["read"], do: true, else: nil', True),
    ("is_nil(if nil do 1 end)", True),
    ("if 0 do\n true\nelse\n false\nend", True),
    ('if record["nothing"] do "yes" else "no" end == "no"', True),
    ('case action do\n "read" -> false\n "insert" -> true\n _ -> nil\nend', True),
    ("case 1 do\n 1.0 -> 1\n -1 -> 2\n _other -> true\nend", True),
    ("case nil do\n false -> 1\n nil -> true\nend", True),
    ('case record["user_id"] do\n 42 -> true\nend', True),
    ('"#{record["user_id"]}-#{action}" == "42-insert"', True),
    ('"a" <> record["message"] <> "b" == "ahellob"', True),
    (r'"#{nil}#{:a}#{1.0}\n" <> "" == "a1.0\n"', True),
    ("%{a: 1, b: 2} == %{b: 2.0, a: 1}", True),
    ('Map.get(%{"a" => 2, a: 1}, :a) == 1', True),
    ('%{"a" => 2, a: 1}["a"] == 2', True),
    ('%{"a b": 1} == %{"a b": 1.0}', True),
    ('Map.get(record, "user_id") == 42 and is_nil(Map.get(record, "x")) and Map.get(record, "x", 1) == 1', True),
    ('is_nil(Map.get(%{"x" => nil}, "x", 1)) and Map.get(%{}, 1, 2) == 2', True),
    ('Map.put(%{"a" => 1}, "a", 2) == %{"a" => 2}', True),
    ('Map.take(record, ["user_id", "x", :id, 1]) == %{"user_id" => 42}', True),
    ('Map.drop(%{a: 1, b: 2}, [:a, "b", nil]) == %{b: 2}', True),
    ("Map.merge(%{a: 1, b: 2}, %{b: 3}) == %{a: 1, b: 3}", True),
    ("%{a: 1} < %{a: 2} and %{} < %{a: 1}", True),
    ("%{a: 1} < %{b: 0}", True),
]


@pytest.mark.parametrize(("expression", "result"), COMPARISONS)
def test_expressions_mean_what_they_mean_in_elixir(expression: str, result: bool) -> None:
    assert bound(expression).accepts(inserted()) is result
    assert bound(f"x = {expression}\nx == true and true").accepts(inserted()) is result


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("nil and true", 'expected a boolean on left-side of "and", got:\n\n    nil\n (line: 2)'),
        ("1 or true", 'expected a boolean on left-side of "or", got:\n\n    1\n'),
        ('not "x"', "argument error"),
        ('record["message"] and true', 'got:\n\n    "hello"'),
        ('true and record["message"]', 'returned "hello"'),
        ("nil", "returned nil"),
        ("1", "returned 1"),
        ("record", 'returned %{"at" => ~U[2026-03-02 09:20:11.000000Z], "extra" => '),
        ('to_string(record) == ""', "protocol String.Chars not implemented for Map"),
        ('to_string(record["extra"]) == ""', "protocol String.Chars not implemented for Map"),
        ('to_string(record["extra"]["tags"]) == ""', "cannot convert the given list to a string"),
        ("to_string([nil])", "cannot convert the given list to a string"),
        ("to_string([55296])", "cannot convert the given list to a string"),
        ('1 in "1"', "protocol Enumerable not implemented for BitString"),
        ("1 in nil", "protocol Enumerable not implemented for Atom"),
        ('record["message"]["x"] == 1', "no function clause matching in Access.get/3 (line: 2)"),
        ('record["extra"]["tags"]["x"] == 1', "the Access calls for keywords expect the key to be an atom"),
        ('record["at"]["x"] == 1', "DateTime does not implement the Access behaviour"),
        ("metadata.nothing == 1", "key :nothing not found in"),
        ("metadata.consumer.annotations.user_id == 1", "key :user_id not found in"),
        ("changes.user_id == nil", "expected a map or struct when accessing .user_id in variable, got:\n\n    nil"),
        ('case action do\n "read" -> true\nend', 'no case clause matching:\n\n    "insert"'),
        ('cond do\n action == "read" -> true\nend', "no cond clause evaluated to a truthy value"),
        ("{:ok, x} = action\nx == 1", 'no match of right hand side value:\n\n    "insert"'),
        ("f = fn 1 -> true end\nf.(2)", "no function clause matching in an anonymous function (line: 2)"),
        ("f = fn x -> x end\nf.(1, 2)", "function with arity 1 called with 2 arguments (line: 3)"),
        ('record["message"].(1)', 'expected a function, got:\n\n    "hello"'),
        ('record["message"] <> 1', "segment 2 of type 'binary': expected a binary but got: 1"),
        ('"a" <> record["nothing"]', "segment 2 of type 'binary': expected a binary but got: nil"),
        ('"#{record}" == ""', "protocol String.Chars not implemented for Map"),
        ("Map.get(nil, :a)", "expected a map, got:\n\n    nil"),
        ('Map.take(record, "id")', 'expected a list of keys, got:\n\n    "id"'),
        ("Map.merge(record, changes)", "expected a map, got:\n\n    nil"),
        ("if changes.x, do: true", "got:\n\n    nil"),
        ('record["nothing"] + 1 == 2', "bad argument in arithmetic expression (line: 2)"),
        ("1 / 0 == 1", "bad argument in arithmetic expression"),
        ('record["price"] + 1 == 2', "bad argument in arithmetic expression"),
        ("1.0e300 * 1.0e300 == 1", "bad argument in arithmetic expression"),
        ("hd([])", "argument error"),
        ("Enum.max([])", "empty error"),
        ("Enum.map(1, & &1)", "protocol Enumerable not implemented for Integer"),
        ("String.length(nil) == 0", "expected a string"),
        ('String.to_integer("x") == 0', "not a textual representation of an integer"),
        ("Decimal.add(1.5, 1) == 0", "implicit conversion of 1.5 to Decimal is not allowed"),
        ("Decimal.div(1, 0) == 0", "division by zero"),
        ('DateTime.to_unix(record["message"]) == 0', "no function clause matching"),
        ('Regex.compile!("(") == 0', "invalid regular expression"),
        ('f = fn f -> f.(f) end\nif action == "insert", do: f.(f), else: true', "the function recurses too deeply"),
    ],
)
def test_what_elixir_would_raise_is_raised(expression: str, says: str) -> None:
    with pytest.raises(FunctionRaised) as raised:
        bound(expression).accepts(inserted())
    assert says in str(raised.value)


def test_changes_are_the_old_values_of_an_update_under_full_identity() -> None:
    was = updated({"message": b"new", "read": None}, {"message": b"old"})
    assert bound('changes["message"] == "old" and changes["read"] == true and changes["user_id"] == nil').accepts(was)
    assert bound('changes["message"] == "old" and changes != nil').accepts(was)
    assert bound('changes["nothing"] == nil').accepts(was)
    assert bound('changes["message"] == nil and changes != nil').accepts(updated({"message": b"new"}, None))


def test_a_binding_is_evaluated_even_when_it_is_not_used() -> None:
    with pytest.raises(FunctionRaised):
        bound("x = nil and true\ntrue").accepts(inserted())
    with pytest.raises(FunctionRaised):
        bound('to_string(record["extra"])\ntrue').accepts(inserted())


def test_a_name_can_be_bound_again() -> None:
    assert bound("x = 1; y = x; x = 2; x == 2 and y == 1").accepts(inserted())
    assert bound('x = record["extra"]\nx = x["n"]\nx == 1').accepts(inserted())
    assert bound('case record["extra"] do\n record -> record["n"] == 1\nend').accepts(inserted())
    assert bound("x = true").accepts(inserted())


def test_a_function_can_be_written_on_one_line() -> None:
    code = "# passes all\ndef filter(_action, _record, _changes, _metadata), do: true"
    assert parse(code, "filter").bind(constants({})).accepts(inserted())


def test_an_unreadable_json_value_fails_the_change_and_nothing_else() -> None:
    deep = b"[" * 5000 + b"]" * 5000
    with pytest.raises(FunctionRaised):
        bound('record["extra"]["a"] == 1').accepts(inserted(extra=deep))
    assert bound('record["user_id"] == 42').accepts(inserted(extra=deep))


def test_an_error_about_a_value_is_text_that_can_be_sent() -> None:
    with pytest.raises(FunctionRaised) as raised:
        bound('record["extra"]').accepts(inserted(extra=rb'"\ud800"'))
    assert str(raised.value).encode().startswith(b'the function returned "?"')


terms_of_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(-3, 3)
    | st.text("ab", max_size=2)
    | st.sampled_from([Atom("a"), Atom("nix")]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=1), inner, max_size=2),
    max_leaves=5,
)


@given(terms_of_json, terms_of_json, terms_of_json)
def test_the_order_of_terms_is_total_and_fits_equality(a: Any, b: Any, c: Any) -> None:
    assert (terms.compare(METER, a, b) == 0) == terms.equal(METER, a, b) == terms.equal(METER, b, a)
    assert (terms.compare(METER, a, b) > 0) == (terms.compare(METER, b, a) < 0)
    assert not terms.identical(METER, a, b) or terms.equal(METER, a, b)
    first, second, third = sorted([a, b, c], key=lambda t: [terms.compare(METER, t, other) > 0 for other in (a, b, c)].count(True))
    assert terms.compare(METER, first, second) <= 0
    assert terms.compare(METER, second, third) <= 0
    assert terms.compare(METER, first, third) <= 0


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.1, "0.1"),
        (-0.0, "-0.0"),
        (100.0, "100.0"),
        (1000.0, "1.0e3"),
        (123456.0, "123456.0"),
        (0.0001, "0.0001"),
        (0.00012, "1.2e-4"),
        (1.5e-7, "1.5e-7"),
        (2.0**53 - 1, "9007199254740991.0"),
        (2.0**53, "9.007199254740992e15"),
        (1e300, "1.0e300"),
        (-12.25, "-12.25"),
    ],
)
def test_floats_become_text_as_in_elixir(number: float, text: str) -> None:
    assert float_text(number) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_text_of_any_float_reads_back(number: float) -> None:
    assert float(float_text(number)) == number


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(-1e9, 1e9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def holding(value: Any) -> Change:
    """Return an insert in which `extra` has this value."""
    return inserted(extra=json.dumps(value).encode())


@given(json_values)
def test_a_filter_that_answers_with_a_value_passes_the_row_for_true_alone(value: Any) -> None:
    answers = bound('record["extra"]')
    if isinstance(value, bool):
        assert answers.accepts(holding(value)) is value
    else:
        with pytest.raises(FunctionRaised, match="not a boolean"):
            answers.accepts(holding(value))


@given(json_values)
def test_no_value_slips_through_and_or_not(value: Any) -> None:
    for body in ('record["extra"] and true', 'not record["extra"]', 'record["extra"] or false'):
        if isinstance(value, bool):
            assert bound(body).accepts(holding(value)) is (not value if body.startswith("not") else value)
        else:
            with pytest.raises(FunctionRaised):
                bound(body).accepts(holding(value))


def printed(value: Any) -> str:
    """Return a value without maps as Elixir prints it."""
    if isinstance(value, list):
        return f"[{', '.join(map(printed, value))}]"
    return "nil" if value is None else json.dumps(value).replace("#", r"\#")


scalars = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(st.characters(max_codepoint=0xD7FF), max_size=8)


@given(scalars | st.lists(scalars, max_size=3), scalars)
def test_a_value_that_is_written_down_is_read_as_itself(value: Any, other: Any) -> None:
    same = bound(f'record["extra"] === {printed(value)}')
    assert same.accepts(holding(value))
    assert same.accepts(holding(other)) == (value == other and type(value) is type(other))


# --- what is refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "line", "says"),
    [
        ("!true", 2, "validation failed: Forbidden function: !"),
        ("unless true, do: true", 2, "validation failed: Forbidden function: unless"),
        ("record.id == 1", 2, 'validation failed: `record` fields must be accessed with the [] operator: record["id"]'),
        ("record.a.b == 1", 2, 'record["a"]["b"]'),
        ("record = 1", 2, "validation failed: can't assign to argument: record"),
        ("{x, [metadata]} = 1", 2, "validation failed: can't assign to argument: metadata"),
        ("with action <- 1, do: action", 2, "validation failed: can't assign to argument: action"),
        ("1..3 == nil", 2, "validation failed: Forbidden function: .."),
        ("[1] -- [1] == []", 2, "validation failed: Forbidden function: --"),
        ("2 ** 3 == 8", 2, "validation failed: Forbidden function: **"),
        ('"a" =~ "a"', 2, "validation failed: Forbidden function: =~"),
        ("for x <- [1], do: x", 2, "validation failed: Forbidden function: for"),
        ("case 1 do\n ^record -> true\nend", 3, "validation failed: Forbidden function: ^"),
        ("%{record | a: 1} == nil", 2, "validation failed: improper map literal"),
        ("%{a: 1}.a == 1", 2, "validation failed: Forbidden function: %{}.a"),
        ("x = metadata.consumer\nx.name", 3, "validation failed: Forbidden function: x.name"),
        ('record["a"].b', 2, "validation failed: no function clause matching in"),
        ("Float.round(1.5) == 2", 2, "validation failed: Forbidden function: Elixir.Float.round"),
        ("Keyword.get([a: 1], :a)", 2, "validation failed: Forbidden function: Elixir.Keyword.get"),
        ("inspect(1)", 2, "validation failed: Forbidden function: inspect"),
        ('String.to_atom("a")', 2, "validation failed: Forbidden function: Elixir.String.to_atom"),
        (":erlang.halt()", 2, "validation failed: Forbidden function: erlang.halt"),
        ("get(record, 1) == nil", 2, "validation failed: Forbidden function: get"),
        ("x = 1\nx.y(1) == 2", 3, "validation failed: Forbidden function: x.y"),
        ("quote do: 1", 2, "validation failed: Forbidden function: quote"),
        ("try do\n 1\nrescue\n _ -> 2\nend", 2, "validation failed: Forbidden function: try"),
        ("def f(x), do: x", 2, "validation failed: defining functions is not allowed"),
        ("defmodule A do\nend", 2, "validation failed: defining modules is not allowed"),
        ("x = 1\n%Date{year: x}", 3, "validation failed: Forbidden function: %"),
        ("~W[a]", 2, "validation failed: Forbidden function: sigil_W"),
        ("metadata.__info__(:a)", 2, "validation failed: __info__ is not allowed"),
        ("x == 1", 2, "code failed to evaluate: nofile: cannot compile file (errors have been logged): line 2: undefined variable `x`"),
        ("_action == 1", 2, "code failed to evaluate"),
        ("if true do\n x = 1\nend\nx == 1", 5, "undefined variable `x`"),
        ("case 1 do\n x -> true\nend\nx == 1", 5, "undefined variable `x`"),
        ("self == 1", 2, "undefined variable `self`"),
        ("case 1 do\n 1, 2 -> true\nend", 3, "expected 1 pattern before ->"),
        ("case 1 do\n true\nend", 2, "expected -> clauses"),
        ("case 1 do\n x when String.length(x) > 1 -> true\nend", 3, "cannot invoke remote function String.length inside guards"),
        ("case 1 do\n f() -> true\nend", 3, "Forbidden function: f"),
        ("case 1 do\n <<a::binary, b>> -> a\nend", 3, "only allowed at the end of a binary pattern"),
        ("case 1 do\n a <> b -> a\nend", 3, "the left argument of <> operator inside a match"),
        ("fn x -> x; y, z -> z end", 2, "cannot mix clauses"),
        ("&1", 2, "capture argument &1 must be used within the capture operator &"),
        ("& &2", 2, "capture argument"),
        ("&foo/1", 2, "the function `foo/1` does not exist"),
        ("%Foo{}", 2, "cannot expand struct Foo"),
        ("%Date{x: 1}", 2, "unknown key for struct Date"),
        ("if true, foo: 1", 2, "invalid use of `if`"),
        ("Map.get(record) == nil", 2, "the function `Map.get/1` does not exist or is not supported"),
        ('\n\nString.nope("a") == 1', 4, "the function `String.nope/1` does not exist or is not supported"),
        ("is_nil(1, 2)", 2, "the function `is_nil/2` does not exist"),
        ("Enum.random([1])", 2, "the function `Enum.random/1` does not exist or is not supported"),
        ("DateTime.utc_now() == 1", 2, "the function `DateTime.utc_now/0` does not exist or is not supported"),
        ("<<1::float>>", 2, "this type of binary segment is not supported"),
        ("1" * 401 + " == 1", 2, "a number of more than 400 digits is too large"),
        ('"#{action; 1}" == ""', 2, "parse error at [line: 2, column: "),
        ("1.0e999 == 1", 2, "too large for a float"),
        (r'"\xff" == ""', 2, r"\xff is not a valid character"),
        (r'"\u{D800}" == ""', 2, r"\u{D800} is not a valid character"),
        ("true and", 3, "not valid Elixir"),
        ('%{a: 1, "b" => 2}', 2, "parse error at [line: 2, column: "),
        ("(" * 200 + "true" + ")" * 200, 2, "nested too deeply"),
        ("record" + '["a"]' * 200, 2, "nested too deeply"),
    ],
)
def test_what_is_not_supported_is_refused_with_its_line(body: str, line: int, says: str) -> None:
    with pytest.raises(FunctionError) as refused:
        parse(program(body), "filter")
    assert says in refused.value.message
    assert refused.value.line == line


@pytest.mark.parametrize(
    "code",
    [
        "",
        "# nothing",
        "true",
        "def filter(record, changes, metadata) do true end",
        "def filter(record, action, changes, metadata) do true end",
        "def filter(a, record, changes, metadata) do true end",
        "def filter(__action, record, changes, metadata) do true end",
        "def filter(action, record, changes, metadata) when true do true end",
        "def other(action, record, changes, metadata) do true end",
        "defp filter(action, record, changes, metadata) do true end",
        "def filter(action, record, changes, metadata)",
        "def filter(action, record, changes, metadata), else: true",
        "def filter(action, record, changes, metadata) do true end\ndef filter(action, record, changes, metadata) do true end",
        "defmodule X do def filter(action, record, changes, metadata) do true end end",
        "def filter(action, record, changes, metadata) do true rescue _ -> false end",
        "def",
        "def filter",
        "def filter, do: true",
    ],
)
def test_a_filter_has_one_form(code: str) -> None:
    with pytest.raises(FunctionError, match=r"def `?filter|parameter list|top level|parse error|rescue"):
        parse(code, "filter")


def test_a_long_chain_is_not_a_deep_one() -> None:
    chain = " or ".join(f'record["user_id"] == {n}' for n in range(300))
    assert bound(chain).accepts(inserted())


def test_other_kinds_of_functions_and_overlong_code_are_refused() -> None:
    with pytest.raises(FunctionError, match="a transform function is not a filter"):
        parse(program("true"), "transform")
    with pytest.raises(FunctionError, match="too long, the maximum is 10 kilobytes"):
        parse(program("# " + "x" * MAX_CODE_BYTES + "\ntrue"), "filter")


WORDS = ["def", "filter", "(", ")", "do", "end", ",", "action", "record", "changes", "metadata", "true", "=", "==", "[", "]", '"', "\n"]


@given(st.text(max_size=60) | st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for code in (text, program(text)):
        try:
            parse(code, "filter")
        except FunctionError:
            continue


# --- how filters are indexed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "column", "value", "as_text"),
    [
        ('record["user_id"] == 1', "user_id", 1, False),
        ('1.0 == record["user_id"]', "user_id", 1.0, False),
        ('"1" == to_string(record["user_id"])', "user_id", "1", True),
        ('u = record["user_id"]\nu == 1', "user_id", 1, False),
        ('u = to_string(record["user_id"])\nw = "1"\nu == w', "user_id", "1", True),
        ('record["user_id"] == metadata.consumer.annotations["user"]["id"]', "user_id", 9, False),
        ('action == "insert" and record["user_id"] == 1', "user_id", 1, False),
        ('metadata.table_name == "x" and record["user_id"] == 1', "user_id", 1, False),
        ('to_string(record["a"]) != "x" and record["user_id"] == 1', "user_id", 1, False),
        ('record["a"] in [1, 2] and not is_nil(record["b"]) and record["user_id"] == nil', "user_id", None, False),
        ('record["user_id"] == 1 and to_string(record["extra"]["x"]) == "y"', "user_id", 1, False),
        ('(record["a"] > 1 or action == "read") and record["user_id"] == 1', "user_id", 1, False),
    ],
)
def test_an_equality_that_has_to_hold_is_found(body: str, column: str, value: Any, as_text: bool) -> None:
    equality = bound(body, {"user": {"id": 9}}).equality
    assert equality is not None
    assert (equality.column, equality.value, equality.as_text) == (column, value, as_text)
    assert type(equality.value) is type(value)


@pytest.mark.parametrize(
    "body",
    [
        'record["user_id"] == 1 or action == "insert"',
        'not (record["user_id"] == 1)',
        'record["user_id"] != 1',
        'record["user_id"] === 1',
        'record["user_id"] == record["id"]',
        'changes["user_id"] == 1',
        'record["extra"]["x"] == 1',
        'record["read"] and record["user_id"] == 1',
        'to_string(record["extra"]["x"]) == "y" and record["user_id"] == 1',
        'metadata.nothing == 1 and record["user_id"] == 1',
        'record["a"] in record["b"] and record["user_id"] == 1',
        'x = to_string(record["extra"]["x"])\nrecord["user_id"] == 1',
        "true",
    ],
)
def test_no_equality_is_found_where_something_else_could_pass_or_raise(body: str) -> None:
    assert bound(body).equality is None


def test_a_filter_that_can_never_pass_is_known() -> None:
    assert bound('record["user_id"] == 1 and 1 == 2').never
    assert bound("false").never
    assert not bound('record["read"] and false').never
    assert not bound('x = to_string(record["extra"])\nfalse').never
    assert not bound("true").never


# --- column filters ----------------------------------------------------------------------------------------------------------


def filtered(*filters: ColumnFilter) -> Bound:
    """Return the filter of a sink with these column filters."""
    return bind_column_filters(filters)


def passes(column: str, operator: str, value: Any = None, change: Change | None = None, **more: str) -> bool:
    """Return whether the default row passes a column filter."""
    return filtered(ColumnFilter(column, operator, value, **more)).accepts(change or inserted())


@pytest.mark.parametrize(
    ("column", "operator", "value", "result"),
    [
        ("user_id", "==", 42.0, True),
        ("user_id", "==", 41.0, False),
        ("user_id", "!=", 41.0, True),
        ("user_id", ">", 41.5, True),
        ("user_id", "<", 41.5, False),
        ("user_id", ">=", 42.0, True),
        ("user_id", "<=", 42.0, True),
        ("price", "==", 12.5, True),
        ("price", "<", 100.0, True),
        ("ratio", "==", 1.0, True),
        ("message", "==", "hello", True),
        ("message", "==", "HELLO", False),
        ("message", ">", "h", True),
        ("read", "==", True, True),
        ("read", "!=", True, False),
        ("at", "==", "2026-03-02T10:20:11+01:00", True),
        ("at", ">", "2026-03-02", True),
        ("at", "<", "2026-03-02T09:20:11.000001Z", True),
        ("at", ">", "no date", False),
        ("user_id", "in", [1, 42], True),
        ("user_id", "in", ["42"], True),
        ("user_id", "in", [1], False),
        ("user_id", "not_in", ["1"], True),
        ("user_id", "not_in", [42], False),
        ("extra", "in", ["x"], False),
        ("extra", "not_in", ["x"], False),
        ("user_id", "is null", None, False),
        ("user_id", "is not null", None, True),
        ("nothing", "==", 1.0, False),
        ("nothing", "is null", None, False),
    ],
)
def test_column_filters_compare_by_kind(column: str, operator: str, value: Any, result: bool) -> None:
    assert passes(column, operator, value) is result


def test_column_filters_ignore_case_only_when_asked_or_for_citext() -> None:
    assert passes("message", "==", "HeLLo", field_type="cistring")
    shape = wal.shape_of({"name": "citext"})
    change = wal.change_of(shape, wal.insert(1, [b"Ada"]))
    assert bind_column_filters([ColumnFilter("name", "==", "ADA")]).accepts(change)


def test_column_filters_read_inside_json_by_path() -> None:
    assert passes("extra", "==", "Ada", field_path="who.name", field_type="string")
    assert passes("extra", "==", 1.0, field_path="n", field_type="number")
    assert passes("extra", "is null", field_path="who.nothing.more")
    assert passes("extra", "is null", field_path="tags.0")
    dated = inserted(extra=b'{"at": "2026-01-01T00:00:00Z"}')
    assert passes("extra", ">", "2025-12-31T00:00:00Z", dated, field_path="at", field_type="datetime")


def test_column_filters_of_nulls() -> None:
    nobody = inserted(user_id=None, at=None)
    assert passes("user_id", "is null", None, nobody)
    assert not passes("user_id", "==", 42.0, nobody)
    assert passes("user_id", "!=", 42.0, nobody)
    assert not passes("at", "!=", "2026-03-02", nobody)


def test_column_filters_of_dates_at_the_edges() -> None:
    assert passes("at", ">", "2026-03-02", inserted(at=b"infinity"))
    assert passes("at", "<", "2026-03-02", inserted(at=b"-infinity"))
    assert not passes("at", "<", "2026-03-02", inserted(at=b"12345-01-01 00:00:00+00"))
    day = wal.shape_of({"day": "date", "local": "timestamp"})
    change = wal.change_of(day, wal.insert(1, [b"2026-03-02", b"2026-03-02 00:00:00"]))
    for column in ("day", "local"):
        assert bind_column_filters([ColumnFilter(column, "==", "2026-03-02T00:00:00Z")]).accepts(change)


def test_all_column_filters_have_to_hold() -> None:
    both = filtered(ColumnFilter("message", "==", "hello"), ColumnFilter("user_id", "==", 42.0))
    assert both.accepts(inserted())
    assert not both.accepts(inserted(user_id=b"41"))
    assert not both.accepts(inserted(message=b"bye"))
    assert filtered().accepts(inserted())


def test_column_filters_test_the_old_row_of_a_delete() -> None:
    assert passes("user_id", "==", 42.0, deleted(whole=True))
    assert not passes("user_id", "==", 42.0, deleted(whole=False))


@pytest.mark.parametrize(
    ("filters", "column"),
    [
        ([ColumnFilter("user_id", "==", 42.0)], "user_id"),
        ([ColumnFilter("price", ">", 12.5), ColumnFilter("message", "==", "hello")], "message"),
        ([ColumnFilter("message", "==", "hello"), ColumnFilter("user_id", "==", 42.0)], "user_id"),
        ([ColumnFilter("read", "==", True)], "read"),
        ([ColumnFilter("user_id", ">", 42.0)], None),
        ([ColumnFilter("price", "==", 12.5)], None),
        ([ColumnFilter("at", "==", "2026-03-02")], None),
        ([ColumnFilter("message", "==", "x", field_type="cistring")], None),
        ([ColumnFilter("extra", "==", "x", field_path="a")], None),
        ([ColumnFilter("user_id", "==", "42")], None),
    ],
)
def test_column_filters_are_found_by_an_exact_column(filters: Sequence[ColumnFilter], column: str | None) -> None:
    equality = filtered(*filters).equality
    assert (equality.column if equality is not None and wal_forms(NOTIFICATIONS, equality) is not None else None) == column


@pytest.mark.parametrize("value", ["ADA", "42", "2026-03-02", 42.0, True])
@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        ("text", b"Ada"),
        ("text", b"42"),
        ("citext", b"Ada"),
        ("int4", b"42"),
        ("numeric", b"42.00"),
        ("date", b"2026-03-02"),
        ("bool", b"t"),
        ("float8", b"42"),
    ],
)
def test_the_index_finds_what_a_column_filter_accepts_whatever_type_its_column_has(kind: str, raw: bytes, value: Any) -> None:
    shape = wal.shape_of({"it": kind})
    judge = filtered(ColumnFilter("it", "==", value))
    assert judge.equality is not None
    forms = wal_forms(shape, judge.equality)
    change = wal.change_of(shape, wal.insert(1, [raw]))
    assert forms is None or (change.raw(0) in forms) == judge.accepts(change)


def test_a_filter_judges_every_kind_of_change_by_the_row_that_the_message_shows() -> None:
    changes = [inserted(), updated({}, {}), updated({}, None), deleted(whole=True), Change.read(NOTIFICATIONS, row(), "b", 0)]
    judge = bound('record["user_id"] == 42 and to_string(record["message"]) == "hello"')
    assert [judge.accepts(change) for change in changes] == [True] * 5
