"""Functions as YAML: what is taken, what is refused as a whole, and what the export says."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import yaml

from tests.unit.engine.resource_examples import NOTIFICATIONS, catalog
from userhooks.engine import config
from userhooks.engine.refusals import Refused
from userhooks.engine.resources import Function, Sink, Source

CODE = 'def filter(action, record, changes, metadata) do\n  record["user_id"] == 1\nend'


def read(document: Any) -> list[Function]:
    numbers = itertools.count(1)
    text = document if isinstance(document, str) else yaml.safe_dump(document)
    return config.functions_from({"yaml": text}, catalog(), lambda: f"new-{next(numbers)}")


def flat(name: str = "by-user", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "filter", "code": CODE, **more}


def refusal(document: Any) -> tuple[int, str]:
    with pytest.raises(Refused) as caught:
        read(document)
    return caught.value.status, caught.value.body["summary"]


def test_a_function_is_read_in_both_forms_and_under_both_keys() -> None:
    expected = [Function("new-1", "by-user", "filter", CODE)]
    assert read({"functions": [flat()]}) == expected
    assert read({"transforms": [flat()]}) == expected
    nested = {"name": "by-user", "description": "mine", "function": {"type": "filter", "code": CODE}}
    assert read({"functions": [nested]}) == [replace(expected[0], description="mine")]


@pytest.mark.parametrize("kind", ["transform", "function"])
def test_a_transform_is_read_under_both_names_of_its_type(kind: str) -> None:
    code = CODE.replace("filter", "transform")
    assert read({"functions": [flat(type=kind, code=code)]}) == [Function("new-1", "by-user", "transform", code)]


def test_a_path_function_is_read_in_both_forms() -> None:
    expected = [Function("new-1", "row", "path", "record.id")]
    assert read({"functions": [{"name": "row", "type": "path", "path": "record.id"}]}) == expected
    assert read({"functions": [{"name": "row", "function": {"type": "path", "path": "record.id"}}]}) == expected


def test_a_flat_functions_description_is_lost_as_in_sequin() -> None:
    assert read({"functions": [flat(description="mine")]}) == [Function("new-1", "by-user", "filter", CODE)]


def test_a_function_that_exists_keeps_its_id() -> None:
    assert [(f.id, f.code) for f in read({"functions": [flat("mine")]})] == [("f1", CODE)]


def test_of_two_functions_of_one_name_the_last_is_in_force() -> None:
    other = CODE.replace("1", "2")
    assert read({"functions": [flat(), flat("b"), flat(code=other)]}) == [
        Function("new-1", "by-user", "filter", other),
        Function("new-2", "b", "filter", CODE),
    ]


@pytest.mark.parametrize("nothing", ["", "# nothing", {"functions": []}, {"functions": None}])
def test_yaml_that_names_no_function_changes_nothing(nothing: Any) -> None:
    assert read(nothing) == []


@pytest.mark.parametrize(
    ("document", "status", "says"),
    [
        ("functions: [", 400, "Invalid YAML: "),
        ("a: 2026-99-99", 400, "Invalid YAML: "),
        ("[" * 3000, 400, "Invalid YAML: "),
        ("!!python/object:os.system {}", 400, "Invalid YAML: "),
        ("- 1", 400, "Invalid YAML: a mapping"),
        ({"functions": {"name": "x"}}, 400, "Invalid YAML: `functions` must be a list"),
        ({"functions": 5}, 400, "Invalid YAML: `functions` must be a list"),
        ({"account": {"name": "x"}}, 400, "Account configuration only supported when self hosting"),
        ({"sinks": []}, 400, "`sinks` cannot be applied to the local engine; it takes `functions`."),
        ({"functions": [{"type": "filter", "code": CODE}]}, 422, "`name` is required on functions."),
        ({"functions": ["x"]}, 422, "`name` is required on functions."),
        ({"functions": [flat("none")]}, 400, """Error creating function 'none': %{name: ["is reserved"]}"""),
        ({"functions": [flat("a b")]}, 400, "Error creating function 'a b': %{name: [\"Can only contain"),
        ({"functions": [flat(type=None)]}, 400, """Error creating function 'by-user': %{function: %{type: ["can't be blank"]}}"""),
        ({"functions": [flat(code=5)]}, 400, """Error creating function 'by-user': %{function: %{code: ["can't be blank"]}}"""),
        ({"functions": [flat(type="function")]}, 400, "line 1: a transform function is one `def transform("),
        ({"functions": [flat(type="routing")]}, 400, "routing functions are not supported"),
        ({"functions": [flat(type="path")]}, 400, """%{function: %{path: ["can't be blank"]}}"""),
        ({"functions": [flat(type="path", path="")]}, 400, """%{function: %{path: ["can't be blank"]}}"""),
        ({"functions": [flat(type="path", path="row.id")]}, 400, '%{function: %{path: ["line 1: a path is record, changes, action or'),
        ({"functions": [flat(code="def filter(")]}, 400, "Error creating function 'by-user': %{function: %{code: [\"line 1: "),
        ({"functions": [flat(code="x" * 20_000)]}, 400, "longer than"),
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
    with pytest.raises(Refused, match="`yaml` is required") as caught:
        config.functions_from(body, catalog(), str)
    assert caught.value.status == 400


def test_a_plan_lists_what_is_new_or_different() -> None:
    known = catalog()
    same = known.functions["f1"]
    wanted = [same, replace(same, code=CODE), Function("n", "new", "filter", CODE)]
    changes = config.plan(wanted, known)["changes"]
    assert [(c["action"], c["new"]["name"], c["old"] and c["old"]["name"]) for c in changes] == [
        ("update", "mine", "mine"),
        ("create", "new", None),
    ]


def test_what_is_exported_can_be_applied_again_and_holds_no_secret() -> None:
    known = catalog()
    known.functions["f2"] = Function("f2", "tricky", "filter", CODE + "\n", description="# a: 'b'\n")
    known.functions["f3"] = Function("f3", "row", "path", "record")
    known.sinks["k"] = Sink("k", "mine", "e1", source=Source(include_tables=(NOTIFICATIONS,)))
    text = config.export(known)
    document = yaml.safe_load(text)
    assert text.startswith("---\n")
    assert "swordfish99" not in text
    assert [s["name"] for s in document["sinks"]] == ["mine"]
    assert "id" not in document["http_endpoints"][0]
    again = config.functions_from({"yaml": yaml.safe_dump({"functions": document["functions"]})}, known, str)
    assert [(f.id, f.name, f.type, f.code) for f in again] == [(f.id, f.name, f.type, f.code) for f in known.functions.values()]
