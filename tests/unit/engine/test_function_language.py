"""The language of functions: results compared with an independent calculation, random code and arguments, and the limit on work."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.engine.test_recorded_functions import change, constants
from userhooks.engine.functions import FunctionError, FunctionRaised, check_function, parse_transform
from userhooks.engine.functions.library import LIBRARY
from userhooks.engine.functions.meter import MAX_STEPS
from userhooks.engine.message_format import Transform


def bound(body: str) -> Transform:
    """Return a transform with this body."""
    return parse_transform(f"def transform(action, record, changes, metadata) do\n{body}\nend", "transform").bind(constants("x"))


def made(body: str) -> Any:
    """Return the result of a transform with this body for the recorded row."""
    return json.loads(bound(body)(change()))


def raised(body: str) -> str:
    """Return the error that a transform with this body raises."""
    with pytest.raises(FunctionRaised) as caught:
        bound(body)(change())
    return str(caught.value)


# --- results -------------------------------------------------------------------------------------------------------------------

RESULTS: list[tuple[str, Any]] = [
    ("div(-7, 2)", -3),
    ("rem(-7, 2)", -1),
    ("Integer.floor_div(-7, 2)", -4),
    ("Integer.mod(-7, 2)", 1),
    ("[round(2.5), round(-2.5), trunc(-2.7), floor(-2.5), ceil(-2.5)]", [3, -3, -2, -3, -2]),
    ("7 / 2", 3.5),
    ("[hd([1, 2]), tl([1, 2]), length([1]), elem({1, 2}, 1), map_size(%{a: 1})]", [1, [2], 1, 2, 1]),
    ('byte_size("é") + String.length("é")', 3),
    ('case "order-42" do\n "order-" <> id -> String.to_integer(id)\nend', 42),
    ("case <<1, 2, 3>> do\n <<a, rest::binary>> -> a + byte_size(rest)\nend", 3),
    ("case {1, [2, 3], %{a: 4}} do\n {x, [y | z], %{a: w}} when w > 3 -> [x, y, z, w]\nend", [1, 2, [3], 4]),
    ("case {1, 1.0} do\n {x, x} -> 1\n _ -> 2\nend", 2),
    ('with {:ok, x} <- Map.fetch(record, "id"),\n y = x + 1,\n do: y', 2),
    ('with {:ok, x} <- Map.fetch(record, "none") do\n x\nelse\n :error -> "none"\nend', "none"),
    ('cond do\n nil -> 1\n record["id"] == 1 -> 2\n true -> 3\nend', 2),
    ('f = fn 0 -> "zero"\n n when n > 0 -> "more"\n _ -> "less" end\n[f.(0), f.(1), f.(-1)]', ["zero", "more", "less"]),
    ("fact = fn f, n -> if n == 0, do: 1, else: n * f.(f, n - 1) end\nfact.(fact, 10)", 3628800),
    ("x = 1\nf = fn y -> x + y end\nx = 10\nf.(x)", 11),
    ('Enum.map([1, 2], &(&1 * 2)) ++ Enum.map(["a"], &String.upcase/1)', [2, 4, "A"]),
    ('record["t"] |> String.split("l") |> Enum.reverse() |> Enum.join("-")', "o--he"),
    ('Enum.group_by(["a", "bb", "cc"], &String.length/1, &String.upcase/1)', {"1": ["A"], "2": ["BB", "CC"]}),
    ("Enum.sort_by([%{n: 2}, %{n: 1}], & &1[:n], :desc)", [{"n": 2}, {"n": 1}]),
    ("Enum.reduce_while([1, 2, 3, 4], 0, fn x, acc -> if x < 3, do: {:cont, acc + x}, else: {:halt, acc} end)", 3),
    ("Enum.into(%{a: 1}, %{}, fn {k, v} -> {to_string(k), v + 1} end)", {"a": 2}),
    ("Enum.zip([1, 2], [3, 4]) |> Enum.map(fn {a, b} -> a * b end)", [3, 8]),
    ('Map.update(%{"a" => 1}, "a", 0, &(&1 + 1))', {"a": 2}),
    ('Map.new(record["a"], &{&1, &1 * &1})', {"1": 1, "2": 4, "3": 9}),
    ('update_in(record["j"]["k"], &String.upcase/1)["j"]', {"k": "V", "deep": [1, 2.5]}),
    ("List.flatten([1, [2, [3]]]) ++ List.wrap(nil)", [1, 2, 3]),
    ('Integer.parse("12abc") |> elem(1)', "abc"),
    ("Integer.to_string(255, 16)", "FF"),
    ("Integer.pow(2, 100)", 2**100),
    ('String.replace("a1b22", ~r/\\d+/, fn d -> "<#{d}>" end)', "a<1>b<22>"),
    ('Regex.named_captures(~r/(?<y>\\d{4})-(?<m>\\d\\d)/, "on 2024-05")', {"y": "2024", "m": "05"}),
    ('Regex.scan(~r/(\\w)(\\d)/, "a1 b2")', [["a1", "a", "1"], ["b2", "b", "2"]]),
    ('Regex.run(~r/(?<=b)a(?!c)/i, "BAC ba")', ["a"]),
    ('String.match?("ada@example.com", ~r/^[\\w.+-]+@[\\w-]+\\.[\\w.-]+$/)', True),
    (
        'URI.parse("https://h.example:8443/a?b=1#c") |> Map.take([:host, :port, :path, :query])',
        {"host": "h.example", "port": 8443, "path": "/a", "query": "b=1"},
    ),
    ('URI.encode_query(%{"a" => 1, "b" => "x y"})', "a=1&b=x+y"),
    ('Base.encode64("hello") <> Base.encode16("hi", case: :lower)', "aGVsbG8=6869"),
    ('JSON.decode!("{\\"a\\": [1, null]}")', {"a": [1, None]}),
    ('JSON.encode!(%{a: [1, nil, "x"]})', '{"a":[1,null,"x"]}'),
    ('Date.add(record["d"], 1)', "2024-03-01"),
    ('Date.day_of_week(record["d"])', 4),
    ('Date.diff(~D[2024-03-01], record["d"])', 1),
    ('DateTime.add(record["ts"], 1, :day) |> DateTime.truncate(:second)', "2024-03-01T12:34:56Z"),
    ('DateTime.to_date(record["ts"])', "2024-02-29"),
    ('DateTime.compare(record["ts"], ~U[2024-01-01 00:00:00Z])', "gt"),
    ('DateTime.from_iso8601("2024-01-01T10:00:00+02:00") |> elem(1)', "2024-01-01T08:00:00Z"),
    ("DateTime.from_unix!(0)", "1970-01-01T00:00:00Z"),
    ('NaiveDateTime.to_time(record["tsn"])', "12:34:56.700000"),
    ('case record["ts"] do\n %{year: y, month: m} -> [y, m]\nend', [2024, 2]),
    ('Decimal.mult(record["n"], "0.1")', "0.150"),
    ("Decimal.div(1, 3)", "0.3333333333333333333333333333"),
    ('Decimal.round("2.345", 2)', "2.35"),
    ('Decimal.to_float(record["n"]) + 1', 2.5),
    ('Decimal.compare(record["n"], 1) == :gt and Decimal.lt?(1, "1.1")', True),
    ('[is_map(record["n"]), is_struct(record["ts"], DateTime), record["n"] > 5]', [True, True, True]),
    ('"""\n  one\n    two\n  """', "one\n  two\n"),
    ('~w(a b)a ++ [:"c d", ?a]', ["a", "b", "c d", 97]),
    ('~s(a "#{1}") <> ~S(#{2})', 'a "1"#{2}'),
    ('%{"a" => 1, 2 => 3, nil: 4}', {"a": 1, "2": 3, "nil": 4}),
    ("%{1 => :a}[1.0]", None),
    ("match?({:ok, _}, {:ok, 1}) and 1.0 in [1.0]", True),
    ('max("a", :b)', "a"),
    ("Enum.map(Map.keys(%{b: 1, a: 2}), &to_string/1)", ["a", "b"]),
]


@pytest.mark.parametrize(("body", "result"), RESULTS)
def test_a_body_makes_what_elixir_makes_of_it(body: str, result: Any) -> None:
    assert made(body) == result


integers = st.integers(-(10**20), 10**20)
sums = st.recursive(
    integers.map(lambda n: (str(n) if n >= 0 else f"({n})", Fraction(n))),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(
        lambda three: (f"({three[0][0]} {three[1]} {three[2][0]})", reckoned(three[0][1], three[1], three[2][1]))
    ),
    max_leaves=8,
)


def reckoned(a: Fraction, sign: str, b: Fraction) -> Fraction:
    """Return the result of an operator on two integers."""
    return a + b if sign == "+" else a - b if sign == "-" else a * b


@given(sums)
def test_whole_numbers_are_reckoned_exactly(one: tuple[str, Fraction]) -> None:
    text, result = one
    assert made(text) == result


@given(integers, integers.filter(bool))
def test_division_of_whole_numbers_goes_towards_zero_and_leaves_the_rest(a: int, b: int) -> None:
    quotient, rest, floored, modulus = made(f"[div({a}, {b}), rem({a}, {b}), Integer.floor_div({a}, {b}), Integer.mod({a}, {b})]")
    assert quotient == int(Fraction(a, b))
    assert quotient * b + rest == a
    assert (floored, modulus) == divmod(a, b)


@given(st.lists(st.integers(-9, 9), max_size=8))
def test_lists_are_treated_as_python_would(items: list[int]) -> None:
    body = f"""
    l = {items}
    [Enum.sort(l), Enum.reverse(l), Enum.sum(l), Enum.uniq(l), Enum.map(l, &(&1 * 2)), Enum.filter(l, &(&1 > 0)), length(l),
     Enum.sort(l, :desc), Enum.take(l, 2), Enum.drop(l, 2), Enum.reduce(l, 0, &(&1 - &2)), Enum.with_index(l) |> Enum.map(&elem(&1, 1))]
    """
    folded = 0
    for item in items:
        folded = item - folded
    assert made(body) == [
        sorted(items),
        items[::-1],
        sum(items),
        list(dict.fromkeys(items)),
        [2 * item for item in items],
        [item for item in items if item > 0],
        len(items),
        sorted(items, reverse=True),
        items[:2],
        items[2:],
        folded,
        list(range(len(items))),
    ]


texts = st.text("abcXYZ ,-é", max_size=12)


@given(texts, st.sampled_from(["a", ",", "ab", "é", " "]), st.integers(0, 14))
def test_texts_are_treated_as_python_would(text: str, part: str, at: int) -> None:
    body = f"""
    t = {json.dumps(text, ensure_ascii=False)}
    p = {json.dumps(part, ensure_ascii=False)}
    [String.upcase(t), String.reverse(t), String.split(t, p), String.replace(t, p, "<>"), String.contains?(t, p),
     String.starts_with?(t, p), String.length(t), String.slice(t, {at}, 3), String.trim(t), String.pad_leading(t, 14, "."),
     byte_size(t), t <> p, String.split(t), String.duplicate(p, 2), t < p]
    """
    assert made(body) == [
        text.upper(),
        text[::-1],
        text.split(part),
        text.replace(part, "<>"),
        part in text,
        text.startswith(part),
        len(text),
        text[at : at + 3],
        text.strip(),
        text.rjust(14, "."),
        len(text.encode()),
        text + part,
        text.split(),
        part * 2,
        text.encode() < part.encode(),
    ]


@given(st.datetimes(), st.integers(-(10**9), 10**9))
def test_times_are_reckoned_as_python_would(moment: Any, seconds: int) -> None:
    text = moment.replace(tzinfo=None).isoformat(timespec="microseconds")
    parsed = f'elem(DateTime.from_iso8601("{text}Z"), 1)'
    assert made(parsed) == f"{text}Z"
    assert made(f"Date.day_of_week({parsed})") == moment.isoweekday()
    if 1000 <= moment.year <= 9000:
        assert made(f"DateTime.diff(DateTime.add({parsed}, {seconds}), {parsed})") == seconds


# --- random arguments and code -------------------------------------------------------------------------------------------------

VALUES = [
    *("0", "1", "-1", "3.5", "1.0e300", "true", "nil", ":a", ":desc", ":second", "String", '""', '"a"', '"a,b"', '"12"', '"2024-01-01"'),
    *("[]", "[1, 2]", '["a", :b]', "[a: 1]", "[[1]]", "{}", "{1, 2}", "{:cont, 1}", "%{}", '%{"a" => 1}', "%{a: %{b: 1}}", "<<255>>"),
    *("record", "metadata", 'record["n"]', 'record["ts"]', 'record["d"]', 'record["j"]', "~r/a(b)?/", "~T[10:00:00]", "%URI{}", "self()"),
    *("fn -> 1 end", "fn x -> x end", "fn x -> {x, x} end", "fn _, y -> y end", "fn x, y -> {:cont, {x, y}} end", "&String.upcase/1"),
    *("[trim: true]", "[parts: 2]", "[global: false]", "[capture: :all]", "[day: 1]", "100000000000000000000", 'String.duplicate("a", 9)'),
]
CALLS = [
    function for name, function in LIBRARY.items() if name[0].isalpha() and name.split(".")[0] not in ("field", "segment", "negate", "plus")
]


def call(rng: random.Random, depth: int = 2) -> str:
    """Return a call of a random function with random arguments."""
    function = rng.choice(CALLS)
    if function.name in ("list", "map", "tuple") or function.name.startswith("sigil"):
        return rng.choice(VALUES)
    count = rng.randint(function.least, function.least + 2 if function.most is None else function.most)
    arguments = [call(rng, depth - 1) if depth and rng.random() < 0.2 else rng.choice(VALUES) for _ in range(count)]
    return f"{function.name}({', '.join(arguments)})"


def test_any_function_with_any_arguments_answers_or_raises() -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(2000):
        body = call(rng)
        try:
            transform = bound(body)
        except FunctionError:
            continue
        try:
            json.loads(transform(change()))
        except FunctionRaised:
            continue


WORDS = [
    *(
        "action",
        "record",
        "metadata",
        "x",
        "y",
        "1",
        "2.5",
        '"a"',
        ":b",
        "nil",
        "true",
        "[",
        "]",
        "{",
        "}",
        "%{",
        "(",
        ")",
        ",",
        "=>",
        "a: ",
    ),
    *("\n", "\n", "=", "==", "+", "-", "*", "<>", "|>", "&&", "||", "and", "or", "not", "in", "|", "fn", "->", "end", "do", "case", "cond"),
    *(
        "if",
        "else",
        "with",
        "<-",
        "when",
        "&",
        "&1",
        "&(",
        ".",
        ".(",
        "~r/a/",
        "~w[a]",
        "?a",
        "<<",
        ">>",
        "::",
        "^",
        '"#{',
        '}"',
        "Enum.map(",
    ),
    *("String.upcase(", "Map.get(", "%URI{", "'a'", '"""', "@", "..", "!", "def", ";", "#", "\\", "__MODULE__", "é"),
]


@given(st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join) | st.text(max_size=40))
def test_any_code_is_taken_or_refused_and_answers_or_raises(body: str) -> None:
    code = f"def transform(action, record, changes, metadata) do\n{body}\nend"
    try:
        check_function(code, "transform")
        transform = parse_transform(code, "transform").bind(constants("x"))
    except FunctionError:
        return
    try:
        transform(change())
    except FunctionRaised:
        return


FORMS = [
    *(f"({{}} {sign} {{}})" for sign in ("+", "-", "*", "/", "==", "<", "and", "||", "&&", "<>", "++", "in")),
    *("(not {})", "(-({}))", "[{}]", "{{{}, 1}}", "%{{a: {}}}", "to_string({})", '"#{{{}}}"', "(fn z -> {} end)"),
    *("(if {}, do: {}, else: (x = {}; x))", "Enum.map([{}], fn z -> {} end)", "(with {{:ok, z}} <- {{:ok, {}}}, do: {{z, {}}})"),
    "(case {} do\n {{z, _}} -> z\n [z | _] when z > 1 -> {}\n z -> [z]\nend)",
    "(cond do\n {} -> {}\n true -> 1\nend)",
]
leaves = st.sampled_from(
    ["1", "-2", "2.5", '"a"', ":b", "nil", "true", "x", "y", 'record["id"]', 'record["j"]', 'record["n"]', "[]", "%{}"]
)


def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return a strategy for expressions that contain others."""
    return st.tuples(st.sampled_from(FORMS), inner, inner, inner).map(lambda parts: parts[0].format(*parts[1:]))


expressions = st.recursive(leaves, larger, max_leaves=10)


@given(expressions)
def test_any_expression_answers_or_raises_the_same_in_one_step_and_in_two(expression: str) -> None:
    def outcome(body: str) -> Any:
        try:
            return made(f'x = 3\ny = record["a"]\n{body}')
        except FunctionRaised:
            return "raised"

    result = outcome(expression)
    assert outcome(f"z = {expression}\nz") == result
    assert outcome(f"z = fn -> {expression} end\nz.()") == result


# --- the limit -----------------------------------------------------------------------------------------------------------------

ENDLESS = [
    'String.duplicate("a", 1000000000)',
    "List.duplicate(1, 1000000000)",
    "Integer.pow(10, 100000000)",
    "Enum.reduce(List.duplicate(1, 1000), 2, fn _, a -> a * a end)",
    "f = fn f, n -> f.(f, n + 1) end\nf.(f, 0)",
    "l = List.duplicate(1, 1000)\nEnum.map(l, fn _ -> Enum.map(l, fn _ -> Enum.map(l, fn x -> x end) end) end)",
    'x = String.duplicate("a", 30)\nRegex.match?(~r/(a+)+$/, x <> "b")',
    'x = String.duplicate("a", 5000)\nRegex.match?(~r/a*a*a*a*b/, x)',
    "x = [1]\n" + "x = [x, x]\n" * 60 + "x == [hd(x), hd(x)]",
    "x = [1]\n" + "x = [x, x]\n" * 60 + "x",
    "x = [1]\n" + "x = [x, x]\n" * 60 + "List.flatten(x)",
    "x = [1]\n" + "x = [x, x]\n" * 60 + "%{x => 1}",
    "x = [1]\n" + "x = x ++ x\n" * 60 + "x",
    'x = "a"\n' + "x = x <> x\n" * 60 + "x",
    'x = "a"\n' + 'x = "#{x}#{x}"\n' * 60 + "x",
    "x = %{}\n" + "x = %{a: x, b: x}\n" * 60 + "x",
    "x = %{}\n" + "x = %{a: x, b: x}\n" * 60 + "x < %{a: x[:a], b: x[:b]}",
    "<<1::800000000>>",
    'Decimal.new("1e1000000000")',
    'String.pad_leading("", 1000000000)',
    "Enum.sort(List.flatten(List.duplicate([3, 1, 2], 30000)))",
    "Date.add(~D[2024-01-01], Integer.pow(10, 100))",
]


@pytest.mark.parametrize("body", ENDLESS)
def test_a_function_that_would_not_end_fails_soon(body: str) -> None:
    """The time limit of one second is fifty times what the function takes."""
    started = time.process_time()
    assert raised(body)
    assert time.process_time() - started < 1


def test_a_function_that_reached_the_bound_costs_little_for_later_changes() -> None:
    """Without pauses, five hundred changes would take ten seconds."""
    transform = bound("l = List.duplicate(record, 200)\nEnum.map(l, fn _ -> Enum.map(l, fn x -> x end) end)")
    said = set()
    started = time.process_time()
    for _ in range(500):
        with pytest.raises(FunctionRaised) as caught:
            transform(change())
        said.add(str(caught.value))
    assert time.process_time() - started < 3
    assert any("it was stopped after" in one for one in said)
    assert any("retried later" in one for one in said)


def test_a_function_is_asked_again_after_the_bound_was_reached() -> None:
    transform = bound('l = List.duplicate(1, 300)\nif record["id"] == 1, do: Enum.map(l, fn _ -> Enum.map(l, fn x -> x end) end), else: 2')
    fine = change(id=b"2")
    for _ in range(3):
        with pytest.raises(FunctionRaised):
            transform(change())
    answers = [answer(transform, fine) for _ in range(8)]
    assert answers[-1] == b"2"
    assert answers == sorted(answers, key=bool)


def answer(transform: Transform, of: Any) -> bytes:
    """Return the result of a transform; empty if it raises."""
    try:
        return transform(of)
    except FunctionRaised:
        return b""


def test_large_values_are_within_the_bound() -> None:
    assert MAX_STEPS >= 10_000
    large = change(j=json.dumps({"k": "v" * 2_000_000, "l": list(range(1000))}).encode())
    transform: Callable[[Any], bytes] = bound('String.reverse(record["j"]["k"])')
    with pytest.raises(FunctionRaised):
        transform(large)  # two million characters exceed the limit for reversing a text
    transform = bound('%{n: byte_size(record["j"]["k"]), l: Enum.sum(Enum.map(record["j"]["l"], &(&1 * 2))), j: record["j"]["k"] == "v"}')
    assert json.loads(transform(large)) == {"n": 2_000_000, "l": 999_000, "j": False}
