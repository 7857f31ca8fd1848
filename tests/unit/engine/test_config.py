"""Resources as YAML: what is accepted, what is refused as a whole, and what the export contains."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml

from tests.unit.engine.resource_examples import NOTIFICATIONS, catalog
from userhooks.engine.api import yaml_config
from userhooks.engine.api.api_errors import ApiError
from userhooks.engine.resources import BackfillRange, Catalog, ColumnFilter, FunctionResource, HttpEndpoint, SinkResource, Source

CODE = 'def filter(action, record, changes, metadata) do\n  record["user_id"] == 1\nend'


def wanted(document: Any, known: Catalog) -> yaml_config.Wanted:
    numbers = itertools.count(1)
    text = document if isinstance(document, str) else yaml.safe_dump(document)
    return yaml_config.wanted(yaml_config.document({"yaml": text}), known, lambda: f"new-{next(numbers)}")


def read(document: Any) -> list[yaml_config.Resource]:
    return list(wanted(document, catalog()).named)


ENDLESS = "def filter(action, record, changes, metadata) do\n  f = fn g -> g.(g) end\n  f.(f)\nend"


def flat(name: str = "by-user", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "filter", "code": CODE, **more}


def refusal(document: Any) -> tuple[int, str]:
    with pytest.raises(ApiError) as caught:
        read(document)
    return caught.value.status, caught.value.body["summary"]


def test_a_function_is_read_in_both_forms_and_under_both_keys() -> None:
    expected = [FunctionResource("new-1", "by-user", "filter", CODE)]
    assert read({"functions": [flat()]}) == expected
    assert read({"transforms": [flat()]}) == expected
    nested = {"name": "by-user", "description": "mine", "function": {"type": "filter", "code": CODE}}
    assert read({"functions": [nested]}) == [replace(expected[0], description="mine")]


@pytest.mark.parametrize("kind", ["transform", "function"])
def test_a_transform_is_read_under_both_names_of_its_type(kind: str) -> None:
    code = CODE.replace("filter", "transform")
    assert read({"functions": [flat(type=kind, code=code)]}) == [FunctionResource("new-1", "by-user", "transform", code)]


def test_a_path_function_is_read_in_both_forms() -> None:
    expected = [FunctionResource("new-1", "row", "path", "record.id")]
    assert read({"functions": [{"name": "row", "type": "path", "path": "record.id"}]}) == expected
    assert read({"functions": [{"name": "row", "function": {"type": "path", "path": "record.id"}}]}) == expected


def test_a_flat_functions_description_is_lost_as_in_sequin() -> None:
    assert read({"functions": [flat(description="mine")]}) == [FunctionResource("new-1", "by-user", "filter", CODE)]


def test_a_function_that_exists_keeps_its_id() -> None:
    assert read({"functions": [flat("mine")]}) == [FunctionResource("f1", "mine", "filter", CODE)]


def test_of_two_functions_of_one_name_the_last_is_in_force() -> None:
    other = CODE.replace("1", "2")
    assert read({"functions": [flat(), flat("b"), flat(code=other)]}) == [
        FunctionResource("new-1", "by-user", "filter", other),
        FunctionResource("new-2", "b", "filter", CODE),
    ]


@pytest.mark.parametrize("nothing", ["", "# nothing", {"functions": []}, {"functions": None}])
def test_yaml_that_names_no_function_changes_nothing(nothing: Any) -> None:
    assert read(nothing) == []


@pytest.mark.parametrize(
    ("document", "status", "says"),
    [
        ("functions: [", 400, "Invalid YAML: "),
        ("a: 2026-99-99", 400, "`a` is not supported"),
        ("[" * 3000, 400, "Invalid YAML: "),
        ('{"functions": ' + "[" * 500 + "]" * 500 + "}", 400, "Invalid YAML: "),
        ('{"functions": [{"name": 18446744073709551616}]}', 422, "`name` is required on functions."),
        ("!!python/object:os.system {}", 400, "Invalid YAML: "),
        ("!!set {a, b}", 400, "Invalid YAML: "),
        ("1: 2", 400, "Invalid YAML: "),
        ("functions: &all [*all]", 400, "Invalid YAML: its aliases expand to too much data"),
        (
            "a: &a [" + "x," * 99 + "]\nb: &b [" + "*a," * 999 + "]\nc: [" + "*b," * 999 + "]",
            400,
            "Invalid YAML: its aliases expand to too much",
        ),
        ("- 1", 400, "Invalid YAML: the top level"),
        ({"functions": {"name": "x"}}, 400, "Invalid YAML: `functions` must be a list"),
        ({"functions": 5}, 400, "Invalid YAML: `functions` must be a list"),
        ({"account": {"name": "x"}}, 400, "Account configuration only supported when self hosting"),
        (
            {"databases": []},
            400,
            "`databases` is not supported by the local engine; it supports `functions`, `http_endpoints`, and `sinks`.",
        ),
        ({"functions": [{"type": "filter", "code": CODE}]}, 422, "`name` is required on functions."),
        ({"functions": ["x"]}, 422, "`name` is required on functions."),
        ({"functions": [flat("none")]}, 400, """Error creating function 'none': %{name: ["is reserved"]}"""),
        ({"functions": [flat("a b")]}, 400, "Error creating function 'a b': %{name: [\"Can only contain"),
        ({"functions": [flat(type=None)]}, 400, """Error creating function 'by-user': %{function: %{type: ["can't be blank"]}}"""),
        ({"functions": [flat(code=5)]}, 400, """Error creating function 'by-user': %{function: %{code: ["can't be blank"]}}"""),
        ({"functions": [flat(code="def transform(a, r, c, m), do: 1")]}, 400, "The parameter list `action, record, changes, metadata` is"),
        ({"functions": [flat(code=ENDLESS)]}, 400, "code failed to evaluate: it does not terminate"),
        ({"functions": [flat(type="routing")]}, 400, """%{function: %{sink_type: ["can't be blank"]}}"""),
        ({"functions": [flat(type="routing", sink_type="kafka")]}, 400, """%{function: %{sink_type: ["is invalid"]}}"""),
        ({"functions": [flat(type="enrichment")]}, 400, "enrichment functions are not supported"),
        ({"functions": [flat(type="path")]}, 400, """%{function: %{path: ["can't be blank"]}}"""),
        ({"functions": [flat(type="path", path="")]}, 400, """%{function: %{path: ["can't be blank"]}}"""),
        ({"functions": [flat(type="path", path="row.id")]}, 400, '%{function: %{path: ["line 1: a path must be record'),
        (
            {"functions": [flat(code="def filter(")]},
            400,
            "Error creating function 'by-user': %{function: %{code: [\"parse error at [line: 1",
        ),
        ({"functions": [flat(code="x" * 20_000)]}, 400, "too long, the maximum is 10 kilobytes"),
        ({"functions": [{"name": "x", "description": 5, "function": {"type": "filter", "code": CODE}}]}, 400, "description"),
    ],
)
def test_what_cannot_be_applied_is_refused_in_words(document: Any, status: int, says: str) -> None:
    assert refusal(document)[0] == status
    assert says in refusal(document)[1]


def test_one_bad_function_refuses_all() -> None:
    assert "'bad'" in refusal({"functions": [flat(), flat("bad", code="true")]})[1]


@pytest.mark.parametrize("body", [{}, {"yaml": None}, {"yaml": {"functions": []}}])
def test_the_yaml_is_required(body: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match="`yaml` is required") as caught:
        yaml_config.document(body)
    assert caught.value.status == 400


def test_a_plan_lists_what_is_new_or_different() -> None:
    same = {"name": "mine", "type": "filter", "code": catalog().functions["f1"].code}
    changes = yaml_config.plan(wanted({"functions": [same, flat("new")]}, catalog()))["changes"]
    assert [(c["resource_type"], c["action"], c["new"]["name"], c["old"]) for c in changes] == [("function", "create", "new", None)]
    [change] = yaml_config.plan(wanted({"functions": [{**same, "code": CODE}]}, catalog()))["changes"]
    assert (change["action"], change["old"]["code"], change["new"]["code"]) == ("update", same["code"], CODE)


# --- endpoints and sinks -----------------------------------------------------------------------------------------------


def sink(name: str = "s", **more: Any) -> dict[str, Any]:
    source = {"include_tables": ["public.notifications"]}
    return {"name": name, "database": "postgres", "source": source, "destination": {"type": "webhook", "http_endpoint": "other"}, **more}


def with_sink(**fields: Any) -> Catalog:
    known = catalog()
    known.sinks["k"] = SinkResource("k", "s", "e2", source=Source(include_tables=(NOTIFICATIONS,)), **fields)
    return known


def test_a_sink_may_use_the_function_and_the_endpoint_of_the_same_yaml() -> None:
    destination = {"type": "webhook", "http_endpoint": "fresh"}
    document = {
        "sinks": [sink(filter="by-user", destination=destination)],
        "http_endpoints": [{"name": "fresh", "url": "http://127.0.0.1/x"}],
        "functions": [flat()],
    }
    function, endpoint, one = read(document)
    assert (function.name, endpoint.name, one.name) == ("by-user", "fresh", "s")
    assert isinstance(one, SinkResource)
    assert (one.filter, one.endpoint_id) == ("by-user", endpoint.id)
    plan = yaml_config.plan(wanted(document, catalog()))
    assert [(c["resource_type"], c["action"]) for c in plan["changes"]] == [
        ("function", "create"),
        ("http_endpoint", "create"),
        ("sink", "create"),
    ]


def test_a_yaml_written_as_json_asks_for_the_same() -> None:
    document = {"sinks": [sink(annotations={"user_id": "1", "é": [1, 2.5, None, True, "2026-01-02", "1e3"]})], "functions": [flat()]}
    assert read(json.dumps(document)) == read(document)


def test_a_number_as_a_filter_names_the_sink() -> None:
    assert refusal({"sinks": [sink(filter=1)]}) == (400, "sink 's': a value has the wrong type")


@pytest.mark.parametrize("write", [json.dumps, yaml.dump])
def test_an_integer_keeps_all_its_digits(write: Callable[[Any], str]) -> None:
    (one,) = read(write({"sinks": [sink(annotations={"score": 10**30 + 1})]}))
    assert isinstance(one, SinkResource)
    assert one.annotations == {"score": 10**30 + 1}


@pytest.mark.parametrize("number", ["1e400", "-1.5e999", "1.0e+400", "[0.5, 1e400]"])
def test_a_number_of_json_that_cannot_be_stored_is_refused(number: str) -> None:
    text = json.dumps({"sinks": [sink(annotations={"score": "NUMBER"})]}).replace('"NUMBER"', number)
    with pytest.raises(ApiError, match="is not a finite number") as caught:
        read(text)
    assert caught.value.status == 400


@pytest.mark.parametrize("number", ["1.0e+400", "-1.5e+999", ".inf", "-.inf", ".nan", "[0.5, .inf]"])
def test_a_number_of_yaml_that_cannot_be_stored_is_refused(number: str) -> None:
    text = yaml.dump({"sinks": [sink(annotations={"score": "NUMBER"})]}).replace("NUMBER", number)
    with pytest.raises(ApiError, match="is not a finite number") as caught:
        read(text)
    assert caught.value.status == 400


def test_what_exists_keeps_its_id_and_what_the_yaml_does_not_say() -> None:
    known = with_sink(annotations={"user_id": "1"}, batch_size=7)
    [endpoint, one] = wanted({"http_endpoints": [{"name": "other", "url": "https://c.d"}], "sinks": [sink(batch_size=9)]}, known).named
    assert isinstance(endpoint, HttpEndpoint)
    assert (endpoint.id, endpoint.host) == ("e2", "c.d")
    assert one == replace(known.sinks["k"], batch_size=9)


@pytest.mark.parametrize("silent", [{}, {"filter": None}])
def test_a_sink_never_loses_its_filter_by_yaml_that_does_not_speak_of_it(silent: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        wanted({"sinks": [sink(**silent)]}, with_sink(filter="mine"))
    assert caught.value.status == 422
    says = "sink 's': it has a filter that the YAML omits; write `filter: mine` to keep it or `filter: none` to remove it"
    assert caught.value.body["summary"] == says


def test_neither_does_it_lose_column_filters_or_a_transform() -> None:
    with pytest.raises(ApiError, match="write `filters` again"):
        wanted({"sinks": [sink()]}, with_sink(filters=(ColumnFilter("user_id", "==", 1.0),)))
    with pytest.raises(ApiError, match="`transform: slim` to keep it"):
        wanted({"sinks": [sink()]}, with_sink(transform="slim"))


def test_of_two_entries_of_one_sink_the_second_cannot_lose_the_filter_of_the_first_either() -> None:
    with pytest.raises(ApiError, match="it has a filter"):
        wanted({"sinks": [sink(filter="mine"), sink()]}, catalog())


def test_a_filter_is_removed_by_saying_so() -> None:
    [one] = wanted({"sinks": [sink(filter="none")]}, with_sink(filter="mine")).named
    assert isinstance(one, SinkResource)
    assert one.filter is None


def test_a_hidden_secret_that_comes_back_stays_what_it_was() -> None:
    known = catalog()
    known.endpoints["e2"] = replace(
        known.endpoints["e2"], encrypted_headers={"A": "secret-of-a", "B": "secret-of-b", "Content-Encoding": "gzip"}
    )
    [shown] = [e for e in yaml.safe_load(yaml_config.export(known))["http_endpoints"] if e["name"] == "other"]
    shown["encrypted_headers"]["B"] = "new"
    [one] = wanted({"http_endpoints": [shown]}, known).named
    assert isinstance(one, HttpEndpoint)
    assert one.encrypted_headers == {"A": "secret-of-a", "B": "new", "Content-Encoding": "gzip"}


@pytest.mark.parametrize(
    ("given", "reads"),
    [
        (True, [BackfillRange(NOTIFICATIONS)]),
        (False, []),
        ([], []),
        ([{"table": "notifications"}], [BackfillRange(NOTIFICATIONS)]),
        ([{"table": "public.notifications", "type": "full"}], [BackfillRange(NOTIFICATIONS)]),
        (
            [{"table": "notifications", "type": "partial", "sort_column": "created_at", "start_position": "2026-01-01"}],
            [BackfillRange(NOTIFICATIONS, "created_at", "2026-01-01")],
        ),
        (
            [{"table": "notifications", "type": "partial", "sort_column": "id", "start_position": 5}],
            [BackfillRange(NOTIFICATIONS, "id", "5")],
        ),
    ],
)
def test_a_new_sink_may_begin_with_backfills(given: Any, reads: list[BackfillRange]) -> None:
    of = wanted({"sinks": [sink(initial_backfill=given)]}, catalog())
    assert [reading for _, reading in of.backfills] == reads
    assert wanted({"sinks": [sink(initial_backfill=given)]}, with_sink()).backfills == ()


def test_a_date_need_not_be_quoted() -> None:
    text = yaml.safe_dump({"sinks": [sink(initial_backfill=[{"table": "notifications", "type": "partial", "sort_column": "created_at"}])]})
    text = text.replace("type: partial", "type: partial\n    start_position: 2026-01-01 10:00:00")
    assert wanted(text, catalog()).backfills[0][1].start_position == "2026-01-01 10:00:00"


def test_a_sink_of_every_table_begins_with_all_of_them() -> None:
    assert [r.table for _, r in wanted({"sinks": [sink(source={}, initial_backfill=True)]}, catalog()).backfills] == list(catalog().tables)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("yes", "initial_backfill must be true, false, or a list of table configurations"),
        ([5], "needs a `table`"),
        ([{"table": "nope"}], "Table public.nope not found"),
        ([{"table": "users"}], "Table public.users not in sink's source configuration"),
        ([{"table": "notifications", "rows": 5}], "Unknown field: rows"),
        ([{"table": "notifications", "type": "half"}], "`type` must be `full`, or `partial`"),
        ([{"table": "notifications", "sort_column": "id", "start_position": 5}], "`type` must be `full`, or `partial`"),
        ([{"table": "notifications", "type": "partial"}], "`partial` needs a `sort_column`"),
        ([{"table": "notifications", "type": "partial", "sort_column": "id", "start_position": True}], "`partial` needs a `sort_column`"),
        ([{"table": "notifications", "type": "partial", "sort_column": "x", "start_position": 5}], "it has no column 'x' to sort by"),
        ([{"table": "notifications"}] * 2, "lists a table twice"),
    ],
)
def test_an_initial_backfill_that_cannot_be_is_refused_in_words(given: Any, says: str) -> None:
    status, summary = refusal({"sinks": [sink(initial_backfill=given)]})
    assert (status, summary.startswith("sink 's': ")) == (422, True)
    assert says in summary


@pytest.mark.parametrize(
    ("document", "status", "says"),
    [
        ({"sinks": [{}]}, 422, "`name` is required on sinks."),
        ({"http_endpoints": ["x"]}, 422, "`name` is required on http_endpoints."),
        ({"http_endpoints": [{"name": "x", "local": "true"}]}, 422, "http endpoint 'x': `local` is not supported"),
        ({"sinks": [sink(filter="nope")]}, 422, "sink 's': Function 'nope' not found."),
        ({"sinks": [sink(destination={"type": "webhook", "http_endpoint": "nope"})]}, 404, "sink 's': Not found: No `http endpoint`"),
        ({"sinks": [sink(batch_size=0)]}, 422, "sink 's': batch_size must be"),
        ({"sinks": [sink(), sink("t", zebra=1)]}, 422, "sink 't': Unknown field: zebra"),
    ],
)
def test_one_bad_endpoint_or_sink_refuses_all(document: Any, status: int, says: str) -> None:
    assert refusal(document)[0] == status
    assert says in refusal(document)[1]


# --- the export --------------------------------------------------------------------------------------------------------


def test_what_is_exported_can_be_applied_again_and_holds_no_secret() -> None:
    known = catalog()
    known.functions["f2"] = FunctionResource("f2", "tricky", "filter", CODE + "\n", description="# a: 'b'\n")
    known.functions["f3"] = FunctionResource("f3", "row", "path", "record")
    known.sinks["k"] = SinkResource("k", "mine", "e1", source=Source(include_tables=(NOTIFICATIONS,)))
    text = yaml_config.export(known)
    document = yaml.safe_load(text)
    assert text.startswith("---\n")
    assert "swordfish99" not in text
    assert [s["name"] for s in document["sinks"]] == ["mine"]
    assert "id" not in document["http_endpoints"][0]
    del document["databases"]
    again = wanted(document, known)
    assert {one.id for one in again.named} == {*known.functions, *known.endpoints, *known.sinks}
    assert [(new, old) for new, old in again.changes() if new.name != "tricky"] == []
    [(new, old)] = again.changes()
    assert isinstance(new, FunctionResource)
    assert replace(new, description="# a: 'b'\n") == old
