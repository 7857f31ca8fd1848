"""The parser accepts exactly the texts of RFC 8259's grammar."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from userhooks.shared.json_text import NotJson, parse

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(SCALARS | TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner))


@given(VALUES, st.sampled_from([None, 1]), st.sampled_from([True, False]))
def test_what_a_writer_writes_is_read_back(value: Any, indent: int | None, ensure_ascii: bool) -> None:
    assert parse(json.dumps(value, indent=indent, ensure_ascii=ensure_ascii)) == (value, None)


@given(st.text(alphabet='{}[]:,"\\/ \t\n0123456789.-+eEtruefalsn\x01\ufeffx', max_size=12))
def test_a_text_is_taken_exactly_when_the_reference_parser_takes_it(text: str) -> None:
    def taken(by: Any) -> bool:
        try:
            by(text)
        except ValueError:
            return False
        return True

    def reference(text: str) -> Any:
        return json.loads(text, parse_constant=NotJson)

    assert taken(parse) == taken(reference)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e400", math.inf),
        ("-1E+999", -math.inf),
        ("1" * 400, int("1" * 400)),
        ("-" + "9" * 10_000, "-" + "9" * 10_000),
        (r'"\ud800"', r"\ud800"),
        (r'"\ud83d\ude00"', "\U0001f600"),
        (r'{"\udc00": 1}', {r"\udc00": 1}),
        ('{"a": 1, "b": 2, "a": 3}', {"a": [1, 3], "b": 2}),
        ('{"a": [1], "a": [2], "a": 3}', {"a": [[1], [2], 3]}),
    ],
    ids=range(9),
)
def test_what_other_parsers_refuse_is_read(text: str, value: object) -> None:
    result = parse(text)
    assert result.value == value
    assert result.repeated == ("a" if '"a"' in text else None)
    if '"' in text:
        orjson.dumps(result.value)  # every string in it can be encoded again


def test_depth_has_no_limit() -> None:
    depth, value = 0, parse('{"a":[' * 100_000 + "]}" * 100_000).value
    while value:
        depth, value = depth + 1, value["a"] if isinstance(value, dict) else value[0]
    assert depth == 199_999


@pytest.mark.parametrize(
    "text", ['"' + "a" * 1_000_000, '"' + r"\\n" * 300_000, "[" * 1_000_000, " " * 1_000_000, "1" * 1_000_000 + "x"], ids=range(5)
)
def test_a_long_malformed_text_is_refused_in_one_pass(text: str) -> None:
    with pytest.raises(NotJson, match="line 1, column "):
        parse(text)
