"""Routing: a change reaches exactly the sinks whose filters accept it, and sinks whose filters raise are reported."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.unit.engine import wal
from userhooks.engine.change import Change
from userhooks.engine.functions import Bound, FunctionRaised, bind_column_filters, parse
from userhooks.engine.postgres.pgoutput import UNCHANGED, Value
from userhooks.engine.resources import Action, ColumnFilter, Source
from userhooks.engine.routing import Route, Router
from userhooks.engine.table_shape import TableShape

ALL: tuple[Action, ...] = ("insert", "update", "delete")
NOTIFICATIONS = wal.shape_of({"id": "int8", "user_id": "int4", "message": "text"}, ["id"])
SHARED = parse(
    """
    def filter(_action, record, changes, metadata) do
      wanted = metadata.consumer.annotations["user_id"]
      not is_nil(wanted) and is_nil(changes["user_id"]) and to_string(record["user_id"]) == to_string(wanted)
    end
    """,
    "filter",
)


def constants(annotations: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata constants of a sink with these annotations."""
    return {"consumer": {"id": "c", "name": "n", "annotations": annotations}, "database": {"name": "postgres"}, "database_name": "postgres"}


def bound(body: str) -> Bound:
    """Return a filter function with this body."""
    return parse(f"def filter(action, record, changes, metadata) do\n{body}\nend", "filter").bind(constants({}))


def route(
    sink_id: str,
    filter_: Bound | None = None,
    *,
    source: Source | None = None,
    actions: Sequence[Action] = ALL,
    start_lsn: int = 0,
    broken: str | None = None,
) -> Route:
    """Return a sink's route, by default for all changes."""
    return Route(sink_id, object(), source or Source(), actions, start_lsn, filter_, broken)


def inserted(user_id: bytes | None, shape: TableShape = NOTIFICATIONS, lsn: int = 1000) -> Change:
    """Return an insert of a notification."""
    return wal.change_of(shape, wal.insert(1, [b"1", user_id, b"x"]), lsn=lsn)


def reached(router: Router, change: Change) -> tuple[set[str], dict[str, str]]:
    """Return the sinks that get a change, and the errors of filters that raise, by sink."""
    routes, failed = router.for_table(change.shape).match(change)
    names = [r.sink_id for r in routes] + [r.sink_id for r, _ in failed]
    assert len(names) == len(set(names))
    return {r.sink_id for r in routes}, {r.sink_id: text for r, text in failed}


def test_each_user_gets_their_own_rows() -> None:
    router = Router()
    for user in range(100):
        router.add(route(f"user-{user}", SHARED.bind(constants({"user_id": str(user)}))))
    assert reached(router, inserted(b"7")) == ({"user-7"}, {})
    assert reached(router, inserted(b"100")) == (set(), {})
    assert reached(router, inserted(None)) == (set(), {})


def test_several_sinks_may_want_the_same_row() -> None:
    router = Router()
    router.add(route("everything"))
    router.add(route("by-number", bound('record["user_id"] == 7')))
    router.add(route("by-text", bound('to_string(record["user_id"]) == "7"')))
    router.add(route("asked", bound('record["user_id"] > 6')))
    router.add(route("other", bound('record["user_id"] == 8')))
    assert reached(router, inserted(b"7")) == ({"everything", "by-number", "by-text", "asked"}, {})


def test_a_sink_gets_only_its_actions_its_tables_and_what_committed_since_it_began() -> None:
    router = Router()
    router.add(route("deletes", actions=["delete"]))
    router.add(route("elsewhere", source=Source(include_tables=(("public", "users"),))))
    router.add(route("later", start_lsn=1001))
    router.add(route("since", start_lsn=1000))
    assert reached(router, inserted(b"7")) == ({"since"}, {})


def test_an_update_is_routed_by_its_new_row_and_a_delete_by_its_old_one() -> None:
    router = Router()
    for user in (1, 2):
        router.add(route(f"user-{user}", bound(f'record["user_id"] == {user}')))
    moved = wal.change_of(NOTIFICATIONS, wal.update(1, [b"1", b"2", b"x"], [b"1", b"1", b"x"]))
    gone = wal.change_of(NOTIFICATIONS, wal.delete(1, [b"1", b"1", b"x"]))
    assert reached(router, moved)[0] == {"user-2"}
    assert reached(router, gone)[0] == {"user-1"}


def test_a_row_that_moves_to_another_user_reaches_neither_through_the_shared_filter() -> None:
    router = Router()
    for user in ("1", "2"):
        router.add(route(f"user-{user}", SHARED.bind(constants({"user_id": user}))))
    moved = wal.change_of(NOTIFICATIONS, wal.update(1, [b"1", b"2", b"x"], [b"1", b"1", b"x"]))
    assert reached(router, moved) == (set(), {})


def test_a_filter_that_raises_fails_the_change_for_its_own_sink_only() -> None:
    router = Router()
    router.add(route("raises", bound('record["message"] and true')))
    router.add(route("raises-later", bound('record["user_id"] == 7 and record["message"]')))
    router.add(route("fine"))
    routes, failed = reached(router, inserted(b"7"))
    assert routes == {"fine"}
    assert failed == {
        "raises": 'expected a boolean on left-side of "and", got:\n\n    "x"\n (line: 2)',
        "raises-later": 'the function returned "x", which is not a boolean',
    }
    assert reached(router, inserted(b"8"))[1].keys() == {"raises"}


def test_a_sink_with_a_broken_filter_gets_nothing_and_says_why() -> None:
    router = Router()
    router.add(route("broken", None, broken="the filter function 'x' does not exist"))
    assert reached(router, inserted(b"7")) == (set(), {"broken": "the filter function 'x' does not exist"})


def test_a_route_can_be_replaced_and_removed() -> None:
    router = Router()
    router.for_table(NOTIFICATIONS)
    router.add(route("one", bound('record["user_id"] == 7')))
    router.add(route("one", bound('record["user_id"] == 8')))
    assert reached(router, inserted(b"7")) == (set(), {})
    assert reached(router, inserted(b"8")) == ({"one"}, {})
    router.add(route("one"))
    assert reached(router, inserted(b"7")) == ({"one"}, {})
    router.remove("one")
    router.remove("one")
    assert reached(router, inserted(b"8")) == (set(), {})


def test_routes_follow_a_table_whose_shape_changes() -> None:
    router = Router()
    router.add(route("one", bound('record["user_id"] == 7')))
    assert reached(router, inserted(b"7"))[0] == {"one"}
    as_text = wal.shape_of({"id": "int8", "user_id": "text", "message": "text"})
    assert reached(router, inserted(b"7", as_text))[0] == set()
    moved = wal.shape_of({"id": "int8", "added": "int4", "user_id": "int4"})
    assert reached(router, wal.change_of(moved, wal.insert(1, [b"1", b"8", b"7"])))[0] == {"one"}
    gone = wal.shape_of({"id": "int8", "added": "int4", "message": "text"})
    assert reached(router, inserted(b"7", gone))[0] == set()


def test_an_unreadable_row_that_nobody_looks_at_beyond_its_key_passes_by() -> None:
    router = Router()
    router.add(route("user-1", bound('record["user_id"] == 1')))
    cut = wal.insert(1, [b"1", b"7", b"a long message"])[:-4]
    change = wal.change_of(NOTIFICATIONS, cut)
    assert reached(router, change) == (set(), {})


@pytest.mark.parametrize(
    ("type_name", "text", "equal", "different"),
    [
        ("int4", b"1", ["1", "1.0"], ['"1"', "true", "1.5", "nil", "[1]"]),
        ("user_id", b"1", ["1", "1.0"], ['"1"', "true"]),
        ("int8", b"9007199254740993", ["9007199254740993"], ["9007199254740992.0"]),
        ("text", b"1", ['"1"'], ["1", "true", ":a"]),
        ("text", b"", ['""'], ["nil"]),
        ("text", None, ["nil"], ['""', '"nil"', "false"]),
        ("text", "é".encode(), ['"é"', r'"\u00e9"'], ['"e"']),
        ("bool", b"t", ["true"], ['"true"', "1", '"t"']),
        ("bool", b"f", ["false"], ["nil", "0"]),
        ("numeric", b"1.50", ['Decimal.new("1.50")'], ["1.5", '"1.50"', 'Decimal.new("1.5")']),
        ("float8", b"1", ["1", "1.0"], ['"1"']),
        (
            "uuid",
            b"6f1a2b3c-0000-4000-8000-000000000001",
            ['"6f1a2b3c-0000-4000-8000-000000000001"'],
            ['"6F1A2B3C-0000-4000-8000-000000000001"'],
        ),
        ("timestamptz", b"2026-01-01 00:00:00+00", ["~U[2026-01-01 00:00:00.000000Z]"], ['"2026-01-01T00:00:00.000000Z"']),
        ("jsonb", b"1", ["1"], ['"1"']),
        ("jsonb", b'"1"', ['"1"'], ["1"]),
        ("jsonb", b"null", ["nil"], ['""']),
        ("_text", b"{a}", ['["a"]'], ['"{a}"']),
    ],
)
def test_values_of_different_kinds_never_meet(type_name: str, text: bytes | None, equal: list[str], different: list[str]) -> None:
    shape = wal.shape_of({"k": type_name})
    change = wal.change_of(shape, wal.insert(1, [text]))
    for literal, expected in [(e, True) for e in equal] + [(d, False) for d in different]:
        router = Router()
        router.add(route("one", bound(f'record["k"] == {literal}')))
        assert reached(router, change) == ({"one"} if expected else set(), {}), literal


@pytest.mark.parametrize(
    ("type_name", "text", "equal", "different"),
    [
        ("int4", b"1", ["1"], ["1.0", "01", "true", ""]),
        ("text", b"1", ["1"], ["1.0"]),
        ("text", None, [""], ["nil"]),
        ("int4", None, [""], ["0"]),
        ("text", b"", [""], [" "]),
        ("bool", b"t", ["true"], ["t", "1"]),
        ("bool", None, [""], ["false"]),
        ("float8", b"1", ["1.0"], ["1"]),
        ("numeric", b"1.50", ["1.50"], ["1.5"]),
        ("date", b"2026-01-01", ["2026-01-01"], [""]),
    ],
)
def test_texts_of_values_meet_when_they_are_the_same(type_name: str, text: bytes | None, equal: list[str], different: list[str]) -> None:
    shape = wal.shape_of({"k": type_name})
    change = wal.change_of(shape, wal.insert(1, [text]))
    for wanted, expected in [(e, True) for e in equal] + [(d, False) for d in different]:
        router = Router()
        router.add(route("one", bound(f'to_string(record["k"]) == "{wanted}"')))
        assert reached(router, change) == ({"one"} if expected else set(), {}), wanted


@pytest.mark.parametrize("type_name", ["int4", "bool", "text"])
def test_a_text_never_meets_what_is_no_text(type_name: str) -> None:
    shape = wal.shape_of({"k": type_name})
    change = wal.change_of(shape, wal.insert(1, [b"f" if type_name == "bool" else b"0"]))
    for literal in ("false", "0", "nil", ":f"):
        router = Router()
        router.add(route("one", bound(f'to_string(record["k"]) == {literal}')))
        assert reached(router, change) == (set(), {})


# --- random filters and rows -------------------------------------------------------------------------------------------------

COLUMNS = {
    "id": "int8",
    "n": "int4",
    "t": "text",
    "b": "bool",
    "d": "numeric",
    "f": "float8",
    "j": "jsonb",
    "w": "timestamptz",
    "u": "user_id",
}
LITERALS = ["0", "1", "2", "1.0", "1.5", '"1"', '""', '"a"', '"true"', '"1.50"', "true", "false", "nil", ":a", "[]", '"unchanged_toast"']
VALUES: dict[str, list[Value]] = {
    "int8": [b"0", b"1", b"2", None],
    "int4": [b"0", b"1", b"2", None],
    "user_id": [b"0", b"1", None],
    "text": [b"", b"1", b"a", b"true", None, UNCHANGED],
    "bool": [b"t", b"f", None],
    "numeric": [b"1.50", b"1", b"NaN", None],
    "float8": [b"1", b"1.5", b"NaN", None],
    "jsonb": [b"1", b'"1"', b"null", b"[]", b'{"a": 1}', None, UNCHANGED],
    "timestamptz": [b"2026-01-01 00:00:00+00", b"infinity", None],
}


def random_expression(rng: random.Random, depth: int) -> str:
    """Return a random Elixir expression, which may be a boolean or not, and may raise."""
    column = rng.choice([*COLUMNS, "missing"])
    source = rng.choice(["record", "record", "record", "changes"])
    literal = rng.choice(LITERALS)
    inner: Callable[[], str] = lambda: random_expression(rng, depth - 1)  # noqa: E731  # a name for brevity
    simple = [
        f'{source}["{column}"] == {literal}',
        f'{source}["{column}"] == {literal}',
        f'{literal} == to_string({source}["{column}"])',
        f'to_string({source}["{column}"]) == {literal}',
        f'{source}["{column}"] {rng.choice(["!=", "<", ">=", "==="])} {literal}',
        f'is_nil({source}["{column}"])',
        f'{source}["{column}"] in [{literal}, {rng.choice(LITERALS)}]',
        f'action == "{rng.choice(ALL)}"',
        f'{source}["{column}"]["a"] == {literal}',
        f'{source}["{column}"]',
        rng.choice(["true", "false", "x", "y"]),
    ]
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(simple)
    return rng.choice([f"({inner()}) and ({inner()})", f"{inner()} and {inner()}", f"({inner()}) or ({inner()})", f"not ({inner()})"])


def random_filter(rng: random.Random) -> Bound | None:
    """Return no filter, a function, or column filters."""
    kind = rng.random()
    if kind < 0.05:
        return None
    if kind < 0.2:
        values: list[tuple[str, str, Any]] = [
            ("n", "==", 1.0),
            ("n", ">", 0.0),
            ("t", "==", "1"),
            ("b", "==", True),
            ("d", "==", 1.5),
            ("w", ">", "2020-01-01T00:00:00Z"),
            ("u", "==", 1.0),
            ("n", "in", ["1", 2]),
            ("j", "is null", None),
        ]
        return bind_column_filters([ColumnFilter(*rng.choice(values)) for _ in range(rng.randint(1, 2))])
    steps = f"x = {random_expression(rng, 0).replace('x', 'true').replace('y', 'false')}\ny = {rng.choice(LITERALS)}\n"
    return bound(steps + random_expression(rng, 2))


def random_message(rng: random.Random) -> bytes:
    """Return an insert, update, or delete, with complete old rows or only keys."""

    def row(*, whole: bool = True) -> list[Value]:
        return [rng.choice([v for v in VALUES[t] if not (whole and v is UNCHANGED)]) for t in COLUMNS.values()]

    return rng.choice(
        [
            lambda: wal.insert(1, row()),
            lambda: wal.update(1, row(whole=False)),
            lambda: wal.update(1, row(whole=False), row()),
            lambda: wal.delete(1, row()),
            lambda: wal.delete(1, [b"1"] + [None] * (len(COLUMNS) - 1), whole=False),
        ]
    )()


def brute_force(routes: Sequence[Route], change: Change) -> tuple[set[str], dict[str, str]]:
    """Evaluate every filter for a change, without an index."""
    passed, failed = set(), {}
    for one in routes:
        if change.action in one.actions and change.commit_lsn >= one.start_lsn and one.source.covers(*change.shape.table):
            try:
                if one.bound is None or one.bound.accepts(change):
                    passed.add(one.sink_id)
            except FunctionRaised as exc:
                failed[one.sink_id] = str(exc)
    return passed, failed


def test_routing_answers_as_if_every_filter_had_been_asked() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    found = raised = compared = 0
    for _ in range(40):
        router = Router()
        routes: dict[str, Route] = {}
        shape = wal.shape_of(COLUMNS)
        if rng.random() < 0.5:
            router.for_table(shape)
        for number in range(60):
            sink_id = str(number if rng.random() < 0.8 else rng.randrange(60))
            source = Source() if rng.random() < 0.9 else Source(exclude_tables=(("public", "notifications"),))
            actions = rng.sample(ALL, rng.randint(1, 3))
            new = route(sink_id, random_filter(rng), source=source, actions=actions, start_lsn=rng.choice([0, 10]))
            router.add(new)
            routes[sink_id] = new
            if rng.random() < 0.1:
                gone = rng.choice(list(routes))
                router.remove(gone)
                del routes[gone]
        found += sum(r.bound is not None and r.bound.equality is not None for r in routes.values())
        for _ in range(40):
            message, lsn = random_message(rng), rng.choice([5, 10, 15])
            expected = brute_force(list(routes.values()), wal.change_of(shape, message, lsn=lsn))
            raised += len(expected[1])
            compared += len(expected[0])
            assert reached(router, wal.change_of(shape, message, lsn=lsn)) == expected
    assert found > 100
    assert raised > 100
    assert compared > 100
