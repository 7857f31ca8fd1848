"""Request bodies: what is accepted, what is refused, and with which errors. Recorded responses are compared in tests/contract."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.engine.resource_examples import NOTIFICATIONS, catalog
from userhooks.engine.api.api_errors import ApiError
from userhooks.engine.api.request_bodies import backfill_from, backfill_state, endpoint_from, sink_from
from userhooks.engine.resources import BackfillResource, ColumnFilter, HttpEndpoint, SinkResource, SinkTable, Source

DESTINATION = {"type": "webhook", "http_endpoint": "user-1-endpoint"}
SINK = {"name": "s", "database": "postgres", "source": {"include_tables": ["public.notifications"]}, "destination": DESTINATION}
SEED_SINK = {
    "name": "user-1-notifications",
    "status": "active",
    "database": "postgres",
    "table": "public.notifications",
    "filters": [{"column_name": "user_id", "operator": "=", "comparison_value": "1"}],
    "destination": {"type": "webhook", "http_endpoint": "user-1-endpoint", "http_endpoint_path": ""},
    "actions": ["insert", "update", "delete"],
}


def endpoint(present: HttpEndpoint | None = None, taken: set[str] | None = None, **body: Any) -> HttpEndpoint:
    return endpoint_from(body, present, "new-id", taken or set())


def sink(present: SinkResource | None = None, body: dict[str, Any] | None = None, **more: Any) -> SinkResource:
    return sink_from({**(body or {}), **more}, catalog(), present, "new-id", {"taken"})


def filtered(**one: Any) -> tuple[ColumnFilter, ...] | None:
    return sink(body=SEED_SINK, filters=[one]).filters


def refusal_of_endpoint(**body: Any) -> dict[str, Any]:
    with pytest.raises(ApiError) as caught:
        endpoint(**body)
    assert caught.value.status == 422
    return caught.value.body


def refusal(present: SinkResource | None = None, status: int = 422, body: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    with pytest.raises(ApiError) as caught:
        sink(present, body, **more)
    assert caught.value.status == status
    return caught.value.body


# --- HTTP endpoints ----------------------------------------------------------------------------------------------------


def test_an_endpoints_url_is_taken_apart() -> None:
    one = endpoint(name="e", url="https://user:secret@hooks.example.com:8443/in/1?a=b#top", headers={"X-Tenant": "acme"})
    assert one == HttpEndpoint("new-id", "e", "https", "hooks.example.com", 8443, "/in/1", "a=b", "top", {"X-Tenant": "acme"})


@pytest.mark.parametrize(("url", "port"), [("http://a", 80), ("https://a", 443), ("http://a:81", 81)])
def test_a_url_without_a_port_means_the_schemes_own(url: str, port: int) -> None:
    assert endpoint(name="e", url=url).port == port


@pytest.mark.parametrize(
    ("url", "errors"),
    [
        ("http://under_score/", {"host": ["must be a valid hostname"]}),
        ("http://[::1]/", {"host": ["must be a valid hostname"]}),
        ("http://[::1", {"host": ["must be a valid hostname"]}),
        ("http://a b/", {"host": ["must be a valid hostname"]}),
        ("http://a:0/", {"port": ["must be greater than 0"]}),
        ("http://a:65536/", {"port": ["must be less than 65536"]}),
        ("http://a:x/", {"port": ["is invalid"]}),
        ("ftp://a/", {"scheme": ["is invalid"]}),
        (" http://a/", {"scheme": ["can't be blank"], "host": ["can't be blank"]}),
        ("http://a/" + "b" * 255, {"path": ["should be at most 255 character(s)"]}),
        ("//a/", {"scheme": ["can't be blank"]}),
        ("http:///in", {"host": ["can't be blank"]}),
        (5, {"url": ["must be a string"]}),
    ],
)
def test_a_url_that_cannot_be_posted_to_is_refused(url: Any, errors: dict[str, Any]) -> None:
    assert refusal_of_endpoint(name="e", url=url)["validation_errors"] == errors


def test_all_bad_fields_of_an_endpoint_are_reported_at_once() -> None:
    assert refusal_of_endpoint(name="a b", url="x") == {
        "summary": "Validation failed",
        "validation_errors": {
            "name": ["Can only contain alphanumeric characters, underscores, hyphens, or dots"],
            "scheme": ["can't be blank"],
            "host": ["can't be blank"],
        },
    }


def test_a_host_name_keeps_its_case() -> None:
    assert endpoint(name="e", url="HTTP://me:secret@Hooks.Example.com:81/In").host == "Hooks.Example.com"


def test_a_name_is_taken_once_and_not_too_long() -> None:
    assert refusal_of_endpoint(name="e", url="http://a", taken={"e"})["validation_errors"] == {"name": ["has already been taken"]}
    assert "255" in refusal_of_endpoint(name="e" * 300, url="http://a")["validation_errors"]["name"][0]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-A": "one\r\nX-B: two"},
        {"X A": "one"},
        {"": "one"},
        {"X-A": 1},
        {"X-A:": "one"},
        {"X-A": "\x00"},
        "X-A: one",
        [{"key": "X-A"}],
        5,
    ],
)
@pytest.mark.parametrize("key", ["headers", "encrypted_headers"])
def test_headers_that_cannot_be_sent_are_refused_and_their_values_not_shown(key: str, headers: Any) -> None:
    answer = refusal_of_endpoint(name="e", url="http://a", **{key: headers})
    assert answer["summary"].startswith((key, f"Invalid {key} configuration"))
    assert "one" not in answer["summary"]


@pytest.mark.parametrize("key", ["headers", "encrypted_headers"])
@pytest.mark.parametrize("name", ["content-encoding", "Content-Encoding"])
def test_a_content_encoding_that_is_not_applied_is_refused(key: str, name: str) -> None:
    for value in ("br", "deflate", "gzip, br", "x-gzip", ""):
        assert "Use `gzip`" in refusal_of_endpoint(name="e", url="http://a", **{key: {name: value}})["summary"]
    for value in ("gzip", " GZip ", "identity"):
        assert getattr(endpoint(name="e", url="http://a", **{key: {name: value}}), key) == {name: value}


def test_headers_are_replaced_whole_and_other_fields_stay() -> None:
    present = endpoint(name="e", url="http://a:81/x", headers={"A": "1", "B": "2"}, encrypted_headers={"Authorization": "Bearer k"})
    changed = endpoint(present, headers=[{"key": "C", "value": "3"}])
    assert changed == replace(present, headers={"C": "3"})
    assert endpoint(present, headers=None).headers == {}


def test_a_new_url_leaves_nothing_of_the_old_one() -> None:
    present = endpoint(name="e", url="https://a:81/x?y#z")
    assert endpoint(present, url="http://b") == HttpEndpoint("new-id", "e", "http", "b", 80)


@pytest.mark.parametrize(("key", "value"), [("local", "true"), ("path", "/x"), ("webhook.site", True)])
def test_endpoints_behind_services_on_the_internet_are_refused_in_words(key: str, value: Any) -> None:
    assert "not supported by the local engine" in refusal_of_endpoint(name="e", url="http://a", **{key: value})["summary"]


def test_the_first_unknown_field_by_name_is_reported() -> None:
    assert refusal_of_endpoint(name="e", zebra=1, host="a") == {"summary": "Unknown field: host", "validation_errors": {}, "code": None}


# --- sinks -------------------------------------------------------------------------------------------------------------


def test_a_sink_has_sequins_defaults() -> None:
    assert sink(body=SINK) == SinkResource("new-id", "s", "e1", source=Source(include_tables=(NOTIFICATIONS,)))


def test_a_sink_takes_every_documented_field() -> None:
    one = sink(
        body=SINK,
        status="paused",
        actions=["delete"],
        batch_size=1000,
        filter="mine",
        message_grouping="true",
        max_retry_count=3,
        load_shedding_policy="discard_on_full",
        timestamp_format="unix_microsecond",
        annotations={"user_id": "1"},
        tables=[{"name": "notifications", "group_column_names": ["user_id"]}],
        destination={**DESTINATION, "http_endpoint_path": "/a?b=c", "batch": True},
        transform="none",
        routing=None,
        enrichment="none",
        consumer_start={},
        id="ignored",
    )
    assert one == SinkResource(
        "new-id",
        "s",
        "e1",
        "paused",
        ("delete",),
        "/a?b=c",
        True,
        1000,
        "mine",
        source=Source(include_tables=(NOTIFICATIONS,)),
        tables=(SinkTable(NOTIFICATIONS, ("user_id",)),),
        max_retry_count=3,
        load_shedding_policy="discard_on_full",
        timestamp_format="unix_microsecond",
        annotations={"user_id": "1"},
    )


def test_the_parser_stops_at_the_first_key_by_name_whatever_comes_first_in_the_body() -> None:
    body = {"zebra": 1, "table": "nope", "name": "", "database": "unknown", "batch_size": 0}
    assert refusal(body=body)["summary"] == "batch_size must be a positive integer <= 1000"
    del body["batch_size"]
    assert refusal(body=body, status=404)["summary"] == "Not found: No `database` found matching the provided ID or name"


def test_the_model_check_reports_all_fields_at_once() -> None:
    assert refusal(body={"status": "x", "actions": ["y"], "timestamp_format": "z", "annotations": []})["validation_errors"] == {
        "status": ["is invalid"],
        "actions": ["is invalid"],
        "timestamp_format": ["is invalid"],
        "annotations": ["is invalid"],
        "name": ["can't be blank"],
        "sink": ["can't be blank"],
        "replication_slot_id": ["can't be blank"],
    }


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("filter", "unknown", "Function 'unknown' not found."),
        ("filter", ["mine"], "Function '['mine']' not found."),
        ("transform", "mine", "is a filter function and cannot be used as transform"),
        ("routing", "mine", "is a filter function and cannot be used as routing"),
        ("routing", "other", "Function 'other' not found."),
        ("message_grouping", 1, "message_grouping must be a boolean"),
        ("max_retry_count", -1, "max_retry_count must be a non-negative integer"),
        ("max_retry_count", True, "max_retry_count must be a non-negative integer"),
        ("batch_size", "5", "batch_size must be a positive integer <= 1000"),
        ("batch_size", True, "batch_size must be a positive integer <= 1000"),
        ("initial_backfill", "yes", "initial_backfill must be true, false, or a list of table configurations"),
        ("schema", None, "schema must be a string"),
        ("source", [], "source must be an object"),
        ("source", {"tables": []}, "Unknown field: tables"),
        ("source", {"include_tables": ["nope"]}, "Table 'nope' not found in database 'postgres'"),
        ("source", {"include_schemas": "public"}, "include_schemas must be a list of names"),
        ("tables", {}, "Invalid `tables` attribute: must be a list of maps."),
        ("tables", ["notifications"], "tables must be a list of objects with a name"),
        ("tables", [{"name": "notifications", "group_column_names": ["nope"]}], "`table=public.notifications, column=nope`"),
        ("tables", [{"name": "notifications", "group_column_names": [["id"]]}], "must be a list of column names"),
        ("table", 5, "Table '5' not found in database 'postgres'"),
        ("destination", "user-1-endpoint", "supports no other type"),
        ("destination", None, "`sink` is required on sink consumers."),
        ("destination", {"type": "kafka"}, "supports no other type"),
    ],
)
def test_a_field_that_means_nothing_is_refused_in_words(key: str, value: Any, says: str) -> None:
    assert says in refusal(body=SINK, **{key: value})["summary"]


@pytest.mark.parametrize(
    ("more", "errors"),
    [
        ({"source": None}, {"source": ["can't be blank"]}),
        ({"tables": None}, {"source_tables": ["is invalid"]}),
        ({"destination": {**DESTINATION, "http_endpoint_path": 1}}, {"sink": {"http_endpoint_path": ["is invalid"]}}),
        (
            {"source": {"include_tables": ["users"], "exclude_tables": ["users"]}},
            {"source": {"exclude_table_oids": ["cannot be set when include_table_oids is set"]}},
        ),
        ({"source": {"include_tables": []}}, {"source": {"include_table_oids": ["should have at least 1 item(s)"]}}),
        (
            {"source": {"include_schemas": ["a"], "exclude_schemas": ["b"]}},
            {"source": {"include_schemas": ["cannot be set when exclude_schemas is set"]}},
        ),
        ({"max_retry_count": 2**31}, {"max_retry_count": ["must be at most 2147483647"]}),
        ({"max_retry_count": 0}, {"max_retry_count": ["must be greater than 0"]}),
        ({"annotations": {"a": "x" * 8192}}, {"annotations": ["should be at most 8192 byte(s)"]}),
        ({"name": "taken"}, {"name": ["has already been taken"]}),
        (
            {"destination": {**DESTINATION, "batch": False}, "batch_size": 2},
            {"batch_size": ["batch_size must be 1 when batch is false for webhook sinks"]},
        ),
        (
            {"destination": {**DESTINATION, "http_endpoint_path": "x", "batch": 5}},
            {"sink": {"http_endpoint_path": ["must start with '/', '?', '#', or be blank"], "batch": ["is invalid"]}},
        ),
        (
            {"destination": {**DESTINATION, "http_endpoint_path": "/a b"}},
            {"sink": {"http_endpoint_path": ["must be a valid URL path or empty"]}},
        ),
        (
            {"message_grouping": False, "tables": [{"name": "notifications", "group_column_names": ["id"]}]},
            {"message_grouping": ["cannot be false while tables have group_column_names"]},
        ),
    ],
)
def test_a_field_with_an_impossible_value_is_named(more: dict[str, Any], errors: dict[str, Any]) -> None:
    assert refusal(body=SINK, **more)["validation_errors"] == errors


@pytest.mark.parametrize("key", ["actions", "status"])
def test_a_null_changes_nothing(key: str) -> None:
    present = sink(body=SINK, status="paused", actions=["delete"])
    assert sink(present, {key: None}) == present


def test_batch_may_be_a_text() -> None:
    assert [sink(body=SINK, destination={**DESTINATION, "batch": text}).batch for text in ("true", "false")] == [True, False]


@pytest.mark.parametrize("key", ["filter", "transform", "routing"])
def test_a_number_is_not_the_name_of_a_function(key: str) -> None:
    assert refusal(body=SINK, status=400, **{key: 1}) == {"errors": {"detail": "Bad Request"}}


def test_an_endpoint_is_named_never_given_by_its_id() -> None:
    answer = refusal(body=SINK, status=404, destination={"type": "webhook", "http_endpoint": "e1"})
    assert answer["summary"] == "Not found: No `http endpoint` found matching the provided ID or name"


def test_a_patch_changes_what_it_names() -> None:
    present = sink(body=SINK, batch_size=7, annotations={"a": 1})
    assert sink(present, status="paused") == replace(present, status="paused")
    assert sink(present, max_retry_count=None) == present
    assert sink(present, name="other").name == "other"


def test_a_patched_destination_is_replaced_whole() -> None:
    present = sink(body=SINK, destination={**DESTINATION, "http_endpoint_path": "/x", "batch": False})
    changed = sink(present, destination={"type": "webhook", "http_endpoint": "other"})
    assert (changed.endpoint_id, changed.path, changed.batch) == ("e2", None, True)


@pytest.mark.parametrize("key", ["source", "table", "tables", "schema"])
def test_tables_need_the_database_in_the_same_body(key: str) -> None:
    present = sink(body=SINK)
    value = {"source": {}, "table": "users", "tables": [], "schema": "public"}[key]
    assert refusal(present, 404, {key: value})["summary"].startswith("Not found: No `database`")
    sink(present, {key: value, "database": "postgres"})


# --- column filters of 0.9.4: invalid ones are refused, since ignoring a filter would let every row pass ---------------


def test_the_sink_of_the_well_known_example_is_taken_with_its_filter() -> None:
    one = sink(body=SEED_SINK)
    assert one.filters == (ColumnFilter("user_id", "==", 1.0),)
    assert one.source == Source(include_tables=(NOTIFICATIONS,))
    assert one.filter is None


@pytest.mark.parametrize(
    ("operator", "value", "normal"),
    [
        ("=", "1", ("==", 1.0)),
        ("==", 1, ("==", 1.0)),
        ("!=", "-1.5e3", ("!=", -1500.0)),
        (">=", 2, (">=", 2.0)),
        ("in", [1, "2"], ("in", [1, "2"])),
        ("not in", ["1"], ("not_in", ["1"])),
        ("is null", None, ("is null", None)),
        ("not null", "ignored", ("is not null", None)),
    ],
)
def test_a_filter_is_kept_in_normal_form(operator: str, value: Any, normal: tuple[str, Any]) -> None:
    assert filtered(column_name="user_id", operator=operator, comparison_value=value) == (ColumnFilter("user_id", *normal),)


@pytest.mark.parametrize(
    ("column", "given", "kept"),
    [
        ("message", "1", "1"),
        ("seen", "true", True),
        ("seen", False, False),
        ("created_at", "2025-01-01T00:00:00Z", "2025-01-01T00:00:00Z"),
        ("amount", "0.1", 0.1),
        ("id", 2**53, 2.0**53),
    ],
)
def test_a_filters_value_follows_the_columns_type(column: str, given: Any, kept: Any) -> None:
    (one,) = filtered(column_name=column, operator="=", comparison_value=given) or ()
    assert one.value == kept
    assert type(one.value) is type(kept)


def test_a_filter_may_look_inside_json() -> None:
    found = filtered(column_name="more", operator="=", comparison_value="x", field_path="a.b", field_type="cistring")
    assert found == (ColumnFilter("more", "==", "x", "a.b", "cistring"),)


@pytest.mark.parametrize(
    "filters",
    [
        None,
        [],
        {},
        "user_id = 1",
        [None],
        ["user_id"],
        [{}],
        [{"column_name": 5, "operator": "=", "comparison_value": 1}],
        [{"column_name": "nope", "operator": "=", "comparison_value": 1}],
        [{"column_name": "user_id", "operator": "=", "comparison_value": 1}, {}],
    ],
)
def test_filters_that_are_empty_or_malformed_are_refused(filters: Any) -> None:
    assert len(refusal(body=SEED_SINK, filters=filters)["summary"]) > 20


@pytest.mark.parametrize(
    ("one", "error"),
    [
        ({"comparison_value": 1}, {"operator": ["can't be blank"]}),
        ({"operator": "="}, {"value": {"value": ["can't be blank"]}}),
        ({"operator": "=", "comparison_value": "abc"}, {"value": {"value": ["is invalid"]}}),
        ({"operator": "=", "comparison_value": True}, {"value": {"value": ["is invalid"]}}),
        ({"operator": "=", "comparison_value": "NaN"}, {"value": {"value": ["is invalid"]}}),
        ({"operator": "=", "comparison_value": "1_0"}, {"value": {"value": ["is invalid"]}}),
        ({"operator": "=", "comparison_value": "٣"}, {"value": {"value": ["is invalid"]}}),
        ({"operator": "=", "comparison_value": "1e999"}, {"value": {"value": ["is invalid"]}}),
        ({"operator": "in", "comparison_value": []}, {"value": {"value": ["is invalid"]}}),
        ({"operator": "in", "comparison_value": "1"}, {"value": {"value": ["is invalid"]}}),
        ({"operator": "in", "comparison_value": [[1]]}, {"value": {"value": ["is invalid"]}}),
        (
            {"column_name": "created_at", "operator": "=", "comparison_value": "2025-99-01T00:00:00Z"},
            {"value": {"value": ["must be a valid UTC datetime in ISO 8601 format (e.g., 2023-04-13T14:30:00Z)"]}},
        ),
        ({"column_name": "seen", "operator": "=", "comparison_value": "yes"}, {"value": {"value": ["is invalid"]}}),
        ({"column_name": "message", "operator": "=", "comparison_value": 1}, {"value": {"value": ["is invalid"]}}),
    ],
)
def test_a_value_that_does_not_fit_is_refused_in_the_nested_form(one: dict[str, Any], error: dict[str, Any]) -> None:
    answer = refusal(body=SEED_SINK, filters=[{"column_name": "user_id", **one}])
    assert answer["validation_errors"] == {"sequence_filter": {"column_filters": [error]}}


@pytest.mark.parametrize("value", [2**53 + 1, str(2**53 + 1), -(2**53) - 1])
def test_a_number_that_would_stand_for_its_neighbour_is_refused(value: Any) -> None:
    answer = refusal(body=SEED_SINK, filters=[{"column_name": "id", "operator": "=", "comparison_value": value}])
    assert "too large to be compared exactly" in json.dumps(answer)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"operator": "like"}, "not supported"),
        ({"operator": ["="]}, "must be a string"),
        ({"field_path": "a"}, "json"),
        ({"field_path": 5}, "json"),
        ({"field_type": "colour"}, "field_type must be one of"),
        ({"field_type": ["string"]}, "field_type must be one of"),
    ],
)
def test_a_filter_with_an_unknown_part_is_refused(more: dict[str, Any], says: str) -> None:
    one = {"column_name": "user_id", "operator": "=", "comparison_value": "1", **more}
    assert says in refusal(body=SEED_SINK, filters=[one])["summary"]


def test_filters_need_the_table_they_apply_to() -> None:
    body = {key: value for key, value in SEED_SINK.items() if key != "table"}
    assert "single table" in refusal(body=body)["summary"]
    assert "single table" in refusal(body=body, source={})["summary"]


@pytest.mark.parametrize("more", [{"source": {}}, {"source": {"include_tables": ["users"]}}, {"schema": "public"}])
def test_new_filters_cannot_come_with_a_source_that_they_were_not_checked_against(more: dict[str, Any]) -> None:
    for present in (sink(body=SEED_SINK), sink(body=SINK)):
        assert "single table" in refusal(present, database="postgres", filters=SEED_SINK["filters"], **more)["summary"]


def test_filter_and_filters_exclude_each_other_on_create_and_on_every_change() -> None:
    assert "not both" in refusal(body=SEED_SINK, filter="mine")["summary"]
    assert "not both" in refusal(sink(body=SEED_SINK), filter="mine")["summary"]
    assert "not both" in refusal(sink(body=SINK, filter="mine"), filters=SEED_SINK["filters"])["summary"]
    kept = sink(sink(body=SEED_SINK), filter="none")
    assert kept.filters == (ColumnFilter("user_id", "==", 1.0),)


def test_a_patch_replaces_the_filters_or_keeps_them() -> None:
    present = sink(body=SEED_SINK)
    two = [{"column_name": "user_id", "operator": "=", "comparison_value": 2}]
    assert sink(present, filters=two).filters == (ColumnFilter("user_id", "==", 2.0),)
    assert sink(present, status="paused").filters == present.filters
    assert sink(present, database="postgres", table="notifications") == present
    for emptied in (None, []):
        refusal(present, filters=emptied)


def test_filters_on_a_table_that_is_gone_are_refused() -> None:
    known = catalog()
    present = sink_from(SEED_SINK, known, None, "k", set())
    del known.tables[NOTIFICATIONS]
    with pytest.raises(ApiError, match=r"Table 'public\.notifications' not found"):
        sink_from({"filters": SEED_SINK["filters"]}, known, present, "k", set())


@pytest.mark.parametrize("more", [{"table": "users"}, {"source": {}}, {"source": {"exclude_tables": ["users"]}}, {"schema": "public"}])
def test_the_table_under_a_filter_cannot_be_exchanged_alone(more: dict[str, Any]) -> None:
    assert "together with the new table" in refusal(sink(body=SEED_SINK), database="postgres", **more)["summary"]


# --- backfills ---------------------------------------------------------------------------------------------------------


def backfill_refusal(body: dict[str, Any], of: SinkResource, *present: BackfillResource) -> dict[str, Any]:
    known = catalog()
    known.backfills.update({one.id: one for one in present})
    with pytest.raises(ApiError) as caught:
        backfill_from(body, of, known)
    assert caught.value.status == 422
    return caught.value.body


def test_a_backfill_reads_the_sinks_only_table_or_the_one_that_is_named() -> None:
    one, every = sink(body=SINK), sink(body=SINK, source={})
    assert backfill_from({}, one, catalog()) == (NOTIFICATIONS, "active")
    assert backfill_from({"table": "users", "state": "paused"}, every, catalog()) == (("public", "users"), "paused")
    assert backfill_refusal({}, every)["summary"] == "Table reference is required"
    assert backfill_refusal({"table": "users"}, one)["summary"] == "Table public.users not in sink's source configuration"
    assert backfill_refusal({"table": "nope"}, one)["summary"] == "Table public.nope not found"
    assert backfill_refusal({"table": 5}, one)["summary"] == "Table public.5 not found"
    assert backfill_refusal({"sort_column": "id"}, one)["summary"] == "Unknown field: sort_column"


@pytest.mark.parametrize("state", ["completed", "cancelled", "x", None, []])
def test_a_backfill_begins_active_or_paused(state: Any) -> None:
    assert backfill_refusal({"state": state}, sink(body=SINK))["validation_errors"] == {"state": ["is invalid"]}


@pytest.mark.parametrize("state", ["active", "paused"])
def test_a_sink_has_one_unfinished_backfill_per_table(state: Any) -> None:
    one = sink(body=SINK)
    running = BackfillResource("b", one.id, NOTIFICATIONS, state, "t", "t")
    assert backfill_refusal({}, one, running)["validation_errors"] == {"sink_consumer_id": ["already has an active backfill"]}
    known = catalog()
    known.backfills["b"] = replace(running, sink_id="another")
    assert backfill_from({}, one, known) == (NOTIFICATIONS, "active")


STATES = ("active", "paused", "completed", "cancelled", "failed")
ALLOWED = {"active": {"paused", "completed", "failed", "cancelled"}, "paused": {"active", "cancelled"}}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("present", STATES)
def test_a_finished_backfill_stays_finished(present: Any, state: Any) -> None:
    if state == present or state in ALLOWED.get(present, set()):
        assert backfill_state({"state": state}, present) == state
        return
    with pytest.raises(ApiError, match=f"Invalid state transition from {present} to {state}"):
        backfill_state({"state": state}, present)


# --- random bodies -----------------------------------------------------------------------------------------------------

KEYS = st.sampled_from(
    [*SEED_SINK, *SINK, "batch_size", "annotations", "tables", "schema", "filter", "message_grouping", "max_retry_count"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.sampled_from(["name", "type", "key"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "type", "http_endpoint", "column_name", "operator", "include_tables", "group_column_names", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


def outcome(call: Callable[[], Any]) -> Any:
    """Return the result of a call, or the refusal that it raises."""
    try:
        return call()
    except ApiError as refused:
        return refused


@given(st.dictionaries(KEYS, VALUES, max_size=5), st.sampled_from([{}, SINK, SEED_SINK]), st.booleans())
def test_any_body_gives_a_sink_or_a_refusal_and_never_loses_a_filter(body: dict[str, Any], base: dict[str, Any], change: bool) -> None:
    present = sink(body=SEED_SINK) if change else None
    one = outcome(lambda: sink(present, {**base, **body}))
    if isinstance(one, ApiError):
        assert one.status in (400, 404, 422)
        assert json.dumps(one.body)
    elif change or "filters" in {**base, **body}:
        assert one.filters


@given(st.dictionaries(st.sampled_from(["name", "url", "headers", "encrypted_headers", "local"]), VALUES, max_size=4))
def test_any_body_gives_an_endpoint_or_a_refusal(body: dict[str, Any]) -> None:
    one = outcome(lambda: endpoint(**body))
    if isinstance(one, ApiError):
        assert json.dumps(one.body)
    else:
        assert one.scheme in ("http", "https")
        assert one.host


@given(st.text(max_size=30), st.sampled_from(["", "http://", "http://a:", "https://a/"]))
def test_any_text_gives_an_endpoint_or_a_refusal(text: str, before: str) -> None:
    one = outcome(lambda: endpoint(name="e", url=before + text))
    if not isinstance(one, ApiError):
        assert one.host
        assert 0 < one.port < 65536
