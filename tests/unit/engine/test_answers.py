"""Responses of the Management API that the recordings in tests/contract do not cover."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.engine.resource_examples import NOTIFICATIONS, catalog
from userhooks.engine.api import responses
from userhooks.engine.resources import ApiKey, BackfillResource, ColumnFilter, HttpEndpoint, SinkResource, SinkTable, Source

SINK = SinkResource("k", "mine", "e1", source=Source(include_tables=(NOTIFICATIONS,)))
BACKFILL = BackfillResource("b", "k", NOTIFICATIONS, "active", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", 303)


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("", ""),
        ("abcde", "*****"),
        ("abcdef", "a****f"),
        ("abcdefghi", "a*******i"),
        ("abcdefghij", "abc******j"),
        ("Bearer " + "x" * 43, "Bea" + "*" * 20 + "x"),
    ],
)
def test_a_secret_is_shown_as_stars(secret: str, shown: str) -> None:
    assert responses.obscured(secret) == shown


@pytest.mark.parametrize(
    ("parts", "url"),
    [
        (("http", "a", 80, None, None, None), "http://a"),
        (("https", "a", 443, "/", None, None), "https://a/"),
        (("http", "a", 443, "/x", "y=1", "z"), "http://a:443/x?y=1#z"),
        (("https", "a", 80, None, "y", None), "https://a:80?y"),
    ],
)
def test_an_endpoints_url_names_a_port_only_when_it_is_not_the_schemes_own(parts: tuple[Any, ...], url: str) -> None:
    assert responses.url_of(HttpEndpoint("e", "e", *parts)) == url


def test_an_endpoints_encrypted_headers_are_never_shown() -> None:
    one = HttpEndpoint("e", "e", "http", "a", 80, headers={"X": "open"}, encrypted_headers={"Authorization": "Bearer swordfish"})
    shown = responses.endpoint(one)
    assert shown["headers"] == {"X": "open"}
    assert "swordfish" not in str(shown)
    assert "swordfish" not in repr(one)


def test_a_sink_with_column_filters_has_the_old_shape_and_one_without_the_new() -> None:
    old = responses.sink(replace(SINK, filters=(ColumnFilter("user_id", "==", 1.0),)), catalog())
    new = responses.sink(SINK, catalog())
    assert old.keys() - new.keys() == {"table", "filters", "group_column_names"}
    assert new.keys() - old.keys() == {"filter", "routing", "enrichment", "message_grouping", "source", "tables"}
    assert old["filters"] == [{"column_name": "user_id", "operator": "==", "comparison_value": 1.0}]
    assert old["group_column_names"] == ["id"]


def test_a_json_filter_is_shown_with_its_path() -> None:
    one = replace(SINK, filters=(ColumnFilter("more", "in", ["x"], "a.b", "string"),))
    (shown,) = responses.sink(one, catalog())["filters"]
    assert shown == {"column_name": "more", "operator": "in", "comparison_value": ["x"], "field_path": "a.b", "field_type": "string"}


def test_a_sink_shows_its_tables_by_full_name_and_what_it_groups_by() -> None:
    one = replace(SINK, tables=(SinkTable(NOTIFICATIONS, ("user_id",)),), source=Source(exclude_schemas=("private",)))
    shown = responses.sink(one, catalog())
    assert shown["tables"] == [{"name": "public.notifications", "group_column_names": ["user_id"]}]
    assert shown["source"] == {"include_schemas": None, "exclude_schemas": ["private"], "include_tables": None, "exclude_tables": None}


@pytest.mark.parametrize(("state", "shown"), [("active", ["b"]), ("paused", []), ("completed", []), ("cancelled", []), ("failed", [])])
def test_a_sink_shows_its_active_backfills(state: Any, shown: list[str]) -> None:
    known = catalog()
    known.backfills = {"b": replace(BACKFILL, state=state), "c": replace(BACKFILL, id="c", sink_id="another")}
    assert [one["id"] for one in responses.sink(SINK, known)["active_backfills"]] == shown


def test_a_backfill_names_its_sink_and_table() -> None:
    shown = responses.backfill(BACKFILL, SINK)
    assert (shown["sink_consumer"], shown["table"], shown["rows_initial_count"]) == ("mine", "public.notifications", 303)


def test_a_backfill_that_has_failed_says_why() -> None:
    assert "error" not in responses.backfill(BACKFILL, SINK)
    assert responses.backfill(replace(BACKFILL, state="failed", error="no key"), SINK)["error"] == "no key"


def test_the_databases_password_and_a_keys_token_are_not_shown() -> None:
    assert responses.database(catalog().database, "active")["password"] == "swo*******9"
    assert responses.api_key(ApiKey("i", "ci", "digest", "t")) == {"id": "i", "name": "ci", "inserted_at": "t"}
