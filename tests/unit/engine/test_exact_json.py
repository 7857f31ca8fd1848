"""JSON that keeps all digits of integers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from userhooks.engine import exact_json
from userhooks.engine.message_format import SinkForm
from userhooks.engine.resources import SinkResource
from userhooks.engine.state_store import StateStore

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)
BIG = {"a": [10**30 + 1, {"b": -(2**63) - 1}], "c": 2**64}


@given(VALUES)
def test_what_is_written_is_read_as_it_was(value: Any) -> None:
    text = exact_json.dumps(value)
    assert exact_json.loads(text) == exact_json.loads_first(text) == json.loads(text) == value


@pytest.mark.parametrize("value", [{1: 2**64}, {"a": {2**64}}, [2**64, object()], [2**64, "\ud800"]])
def test_what_is_not_json_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        exact_json.dumps(value)


@pytest.mark.parametrize("depth", [300, 900, 100_000])
def test_a_value_with_too_many_levels_is_refused(depth: int) -> None:
    text = b"[" * depth + b"1" * 30 + b"]" * depth
    with pytest.raises((ValueError, TypeError)):
        exact_json.dumps(exact_json.loads_first(text))


@pytest.mark.parametrize("text", ["", "NaN", "[Infinity]", "1e400", "1" * 5000, '"\\ud800"', "{,}", "01"])
def test_only_strict_json_is_read(text: str) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        exact_json.loads_first(text.encode())


def test_the_first_of_repeated_keys_counts_at_every_level() -> None:
    assert exact_json.loads_first(b'{"a":{"b":1,"b":2},"a":3}') == {"a": {"b": 1}}


def test_a_sinks_annotations_are_stored_and_sent_with_all_digits(tmp_path: Path) -> None:
    sink = SinkResource("s", "s", "e", annotations=BIG)
    store = StateStore(tmp_path / "state")
    store.save(sink)
    assert [one.resource for one in store.load()] == [sink]
    store.close()
    database = {"id": "d", "name": "d", "hostname": "h", "database": "d", "annotations": {}}
    head = SinkForm({"id": "s", "name": "s", "annotations": BIG}, database, "iso8601").head
    assert str(10**30 + 1).encode() in head
    with pytest.raises(TypeError):
        orjson.dumps(BIG)  # orjson alone refuses it
