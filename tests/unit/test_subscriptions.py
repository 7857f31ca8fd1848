"""Subscribing creates an endpoint, a sink, and a row, or nothing, whichever step fails and whatever runs concurrently."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest

from tests.fake_sequin import TOKEN, FakeSequin
from tests.http_sequin import serving
from tests.receiver import Receiver
from userhooks.errors import (
    DatabaseUnavailable,
    DatabaseUnsuitable,
    DeliveriesMissing,
    Forbidden,
    InvalidInput,
    NotFound,
    SequinError,
    SequinFailed,
    SequinInvalid,
    SequinMismatch,
    SequinUnauthorized,
    SequinUnreachable,
)
from userhooks.webhooks.database import Database
from userhooks.webhooks.sequin_client import SequinClient
from userhooks.webhooks.subscription_secret import subscription_secret
from userhooks.webhooks.subscriptions import FUNCTION_CODE, FUNCTION_NAME, MISSING, BackfillHandle, Subscriptions

KEY = b"k" * 32
URL = "https://webhook.site/your-unique-url"
OTHER_URL = "http://127.0.0.1:3334/in/ada"
SUFFIX = hashlib.sha256(OTHER_URL.encode()).hexdigest()[:8]

Answer = Callable[[], httpx.Response]


class Clock:
    """A clock that moves only during sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def fake() -> FakeSequin:
    return FakeSequin()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(database_url: str) -> Database:
    database = Database(database_url)
    database.set_up(None)
    return database


@pytest.fixture
def connect(fake: FakeSequin, database: Database, clock: Clock) -> Iterator[Callable[[], Subscriptions]]:
    """Yield a function that creates subscriptions with a separate client, as separate programs would."""
    opened: list[SequinClient] = []

    def make() -> Subscriptions:
        opened.append(SequinClient("http://sequin.example", TOKEN, transport=fake.transport, sleep=clock.sleep))
        return Subscriptions(database, opened[-1], KEY, clock=clock, sleep=clock.sleep)

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def subscriptions(connect: Callable[[], Subscriptions]) -> Subscriptions:
    return connect()


def ask(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


def assert_nothing_is_left(fake: FakeSequin, database: Database) -> None:
    assert (fake.sinks, fake.endpoints, database.subscriptions()) == ({}, {}, [])


def assert_in_step(fake: FakeSequin, database: Database) -> None:
    """Check that rows and sinks match one to one, and that each sink has a separate endpoint with the row's URL."""
    rows = {row.sink_id: row for row in database.subscriptions()}
    assert set(rows) == {sink["id"] for sink in fake.sinks.values()}
    for sink in fake.sinks.values():
        assert fake.endpoints[sink["destination"]["http_endpoint"]]["url"] == rows[sink["id"]].url
        assert sink["annotations"] == {"user_id": str(rows[sink["id"]].user_id)}
    assert len(fake.endpoints) == len(fake.sinks)


# --- what works ------------------------------------------------------------------------------------------------------------


def test_subscribing_makes_endpoint_sink_and_row(subscriptions: Subscriptions, fake: FakeSequin, database: Database) -> None:
    made = subscriptions.subscribe(1, URL)
    assert (made.user_id, made.sink_name, made.url, made.status, made.created) == (1, "user-1-notifications", URL, "active", True)
    assert made.secret == subscription_secret(KEY, 1, URL)
    sink = fake.sinks["user-1-notifications"]
    assert sink["id"] == made.sink_id
    assert sink["filter"] == FUNCTION_NAME
    assert sink["annotations"] == {"user_id": "1"}
    assert sink["source"]["include_tables"] == ["public.notifications"]
    assert sink["actions"] == ["insert", "update", "delete"]
    assert sink["destination"] == {"type": "webhook", "http_endpoint": "user-1-endpoint", "http_endpoint_path": "", "batch": True}
    assert (sink["batch_size"], sink["max_retry_count"], sink["status"]) == (1, None, "active")
    assert fake.endpoints["user-1-endpoint"]["url"] == URL
    assert fake.secrets["user-1-endpoint"] == {"Authorization": f"Bearer {made.secret}"}
    assert fake.functions[FUNCTION_NAME]["code"].strip() == FUNCTION_CODE.strip()
    assert_in_step(fake, database)


def test_the_same_call_again_finds_the_same_subscription(
    subscriptions: Subscriptions, connect: Callable[[], Subscriptions], fake: FakeSequin, database: Database
) -> None:
    first = subscriptions.subscribe(1, URL)
    for again in (subscriptions.subscribe(1, URL), connect().subscribe(1, URL)):
        assert (again.sink_id, again.sink_name, again.created, again.secret) == (first.sink_id, first.sink_name, False, None)
    assert_in_step(fake, database)
    assert len(fake.sinks) == 1


def test_further_urls_get_a_suffix_and_the_plain_name_is_used_again(
    subscriptions: Subscriptions, fake: FakeSequin, database: Database
) -> None:
    subscriptions.subscribe(1, URL)
    second = subscriptions.subscribe(1, OTHER_URL)
    assert second.sink_name == f"user-1-notifications-{SUFFIX}"
    assert fake.sinks[second.sink_name]["destination"]["http_endpoint"] == f"user-1-endpoint-{SUFFIX}"
    assert subscriptions.subscribe(1, OTHER_URL).sink_id == second.sink_id
    assert subscriptions.subscribe(2, URL).sink_name == "user-2-notifications"
    assert_in_step(fake, database)
    subscriptions.unsubscribe("user-1-notifications")
    assert subscriptions.subscribe(1, OTHER_URL).sink_name == second.sink_name
    assert subscriptions.subscribe(1, "http://x/").sink_name == "user-1-notifications"
    assert_in_step(fake, database)


def test_pause_resume_look_and_unsubscribe(subscriptions: Subscriptions, fake: FakeSequin, database: Database) -> None:
    name = subscriptions.subscribe(1, URL).sink_name
    subscriptions.subscribe(2, URL)
    assert subscriptions.pause(name).status == "paused"
    assert fake.sinks[name]["status"] == "paused"
    assert subscriptions.get(name) == subscriptions.list(1)[0]
    assert subscriptions.get(name).status == "paused"
    assert subscriptions.subscribe(1, URL).status == "paused", "subscribing again is no resume"
    assert subscriptions.resume(name).status == "active"
    assert [(found.user_id, found.sink_name, found.status) for found in subscriptions.list()] == [
        (1, "user-1-notifications", "active"),
        (2, "user-2-notifications", "active"),
    ]
    assert subscriptions.list(3) == []
    subscriptions.unsubscribe(name)
    assert_in_step(fake, database)
    assert [row.user_id for row in database.subscriptions()] == [2]
    for call in (subscriptions.unsubscribe, subscriptions.get, subscriptions.pause, subscriptions.resume, subscriptions.backfill):
        with pytest.raises(NotFound, match="user-1-notifications"):
            call(name)


def test_the_ids_are_logged_and_the_secret_is_not(subscriptions: Subscriptions, fake: FakeSequin, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made = subscriptions.subscribe(1, URL)
    assert f"Created HTTP endpoint user-1-endpoint (id {fake.endpoints['user-1-endpoint']['id']})" in caplog.text
    assert f"Created sink user-1-notifications (id {made.sink_id})" in caplog.text
    assert made.secret
    assert made.secret not in caplog.text + repr(made)
    assert TOKEN not in caplog.text


def test_a_second_subscribe_compares_the_function_and_applies_nothing(subscriptions: Subscriptions, fake: FakeSequin) -> None:
    subscriptions.subscribe(1, URL)
    fake.calls.clear()
    subscriptions.subscribe(2, URL)
    assert fake.calls == [
        "POST /api/config/plan",
        "GET /api/sinks/user-2-notifications",
        "POST /api/destinations/http_endpoints",
        "POST /api/sinks",
        "GET /api/sinks/user-2-notifications",
    ]


def test_subscribe_returns_when_sequin_has_taken_up_the_sink(subscriptions: Subscriptions, fake: FakeSequin, clock: Clock) -> None:
    fake.initializing_for = 7
    subscriptions.subscribe(1, URL)
    assert fake.calls.count("GET /api/sinks/user-1-notifications") == 1 + 7 + 1
    assert clock.now > 0.7


def test_a_sink_that_sequin_never_takes_up_is_removed(subscriptions: Subscriptions, fake: FakeSequin, database: Database) -> None:
    fake.initializing_for = 10**6
    with pytest.raises(SequinFailed, match="did not take up the sink user-1-notifications within 30 s"):
        subscriptions.subscribe(1, URL)
    assert_nothing_is_left(fake, database)


# --- test events -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


def test_a_test_event_carries_the_secret_of_the_subscription(subscriptions: Subscriptions, receiver: Receiver) -> None:
    made = subscriptions.subscribe(1, f"{receiver.url}/hooks/1")
    receiver.script = lambda path, messages: 202
    assert subscriptions.send_test_event(made.sink_name).status == 202
    [request] = receiver.requests
    assert (request.path, request.messages) == ("/hooks/1", [])
    assert dict(request.headers)["Authorization"] == f"Bearer {made.secret}"


def test_a_test_event_needs_a_subscription(subscriptions: Subscriptions) -> None:
    with pytest.raises(NotFound):
        subscriptions.send_test_event("user-1-notifications")
    with pytest.raises(InvalidInput):
        subscriptions.send_test_event("")


def test_a_test_event_is_not_sent_to_an_address_that_was_forbidden_since(
    subscriptions: Subscriptions, database: Database, fake: FakeSequin, receiver: Receiver
) -> None:
    made = subscriptions.subscribe(1, receiver.url)
    with SequinClient("http://sequin.example", TOKEN, transport=fake.transport) as client:
        answer = Subscriptions(database, client, KEY, allow_private=False).send_test_event(made.sink_name)
    assert "forbidden address" in answer.problem
    assert receiver.arrived == 0


# --- bad input -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user_id", [0, -1, True, "1", 1.0, None])
def test_a_user_id_that_is_none(subscriptions: Subscriptions, fake: FakeSequin, user_id: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        subscriptions.subscribe(user_id, URL)
    assert caught.value.field == "userId"
    assert fake.calls == []


def test_an_unknown_user_makes_nothing(subscriptions: Subscriptions, fake: FakeSequin, database: Database) -> None:
    for call in (lambda: subscriptions.subscribe(99, URL), lambda: subscriptions.list(99), lambda: subscriptions.subscribe(10**30, URL)):
        with pytest.raises(NotFound, match="There is no user"):
            call()
    assert fake.calls == []
    assert_nothing_is_left(fake, database)


def test_a_malformed_url_makes_nothing(subscriptions: Subscriptions, fake: FakeSequin) -> None:
    with pytest.raises(InvalidInput) as caught:
        subscriptions.subscribe(1, "not-a-url")
    assert caught.value.field == "webhookUrl"
    assert fake.calls == []


@pytest.mark.parametrize(
    "name", ["nope", "user-0-notifications", "user-1-notifications-XYZ", "../config", "user-99-notifications", "." * 5000]
)
def test_a_sink_name_that_is_unknown(subscriptions: Subscriptions, name: str) -> None:
    for call in (subscriptions.unsubscribe, subscriptions.get, subscriptions.pause, subscriptions.backfill):
        with pytest.raises(NotFound) as caught:
            call(name)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", [None, "", 7])
def test_a_sink_name_that_is_none(subscriptions: Subscriptions, name: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        subscriptions.backfill(name)
    assert caught.value.field == "sinkName"


def test_a_sink_of_another_database_with_our_name_is_left_alone(subscriptions: Subscriptions, fake: FakeSequin, database: Database) -> None:
    theirs = subscriptions.subscribe(1, URL)
    with database.locked_user(1) as user:
        user.remove(theirs.sink_id)
    fake.sinks["user-1-notifications"]["database"] = "other"
    before = json.dumps(fake.sinks)
    with pytest.raises(SequinInvalid, match="for its database other"):
        subscriptions.subscribe(1, OTHER_URL)
    with pytest.raises(NotFound):
        subscriptions.backfill("user-1-notifications")
    assert json.dumps(fake.sinks) == before


# --- failures at every step ------------------------------------------------------------------------------------------------


def steps_of_a_first_subscribe() -> list[str]:
    return [
        "POST /api/postgres_databases/postgres/refresh_tables",
        "POST /api/config/plan",
        "POST /api/config/plan",
        "POST /api/config/apply",
        "POST /api/config/plan",
        "GET /api/sinks/user-1-notifications",
        "POST /api/destinations/http_endpoints",
        "POST /api/sinks",
        "GET /api/sinks/user-1-notifications",
    ]


def test_these_are_the_steps(subscriptions: Subscriptions, fake: FakeSequin) -> None:
    subscriptions.subscribe(1, URL)
    assert fake.calls == steps_of_a_first_subscribe()


def refuse(_request: httpx.Request, _answer: Answer) -> httpx.Response:
    return httpx.Response(500, json={"errors": {"detail": "Internal Server Error"}})


def invalid(_request: httpx.Request, _answer: Answer) -> httpx.Response:
    return httpx.Response(422, json={"summary": "Validation failed", "validation_errors": {"x": ["is invalid"]}})


def unauthorized(_request: httpx.Request, _answer: Answer) -> httpx.Response:
    return httpx.Response(401, json={"summary": "no"})


def not_reached(request: httpx.Request, _answer: Answer) -> httpx.Response:
    raise httpx.ConnectError("Connection refused", request=request)


def answer_lost(request: httpx.Request, answer: Answer) -> httpx.Response:
    answer()
    raise httpx.ReadTimeout("timed out", request=request)


def garbled(_request: httpx.Request, answer: Answer) -> httpx.Response:
    answer()
    return httpx.Response(200, text="<html>")


def interrupted(_request: httpx.Request, answer: Answer) -> httpx.Response:
    answer()
    raise KeyboardInterrupt


@pytest.mark.parametrize("fault", [refuse, invalid, unauthorized, not_reached, answer_lost, garbled, interrupted])
@pytest.mark.parametrize("step", range(len(steps_of_a_first_subscribe())))
def test_a_failure_at_any_step_leaves_nothing_and_the_next_call_works(
    subscriptions: Subscriptions, fake: FakeSequin, database: Database, step: int, fault: Callable[..., httpx.Response]
) -> None:
    # Reads are retried, so a failing read must fail every time; a write fails once.
    failing = steps_of_a_first_subscribe()[step]

    def at_the_step(request: httpx.Request, answer: Answer) -> httpx.Response:
        this = fake.calls[-1] == failing and len(fake.calls) > step
        return fault(request, answer) if this else answer()

    fake.fault = at_the_step
    with pytest.raises((SequinError, KeyboardInterrupt)):
        subscriptions.subscribe(1, URL)
    fake.fault = None
    assert_nothing_is_left(fake, database)
    assert subscriptions.subscribe(1, URL).created
    assert_in_step(fake, database)


@pytest.mark.parametrize("user_and_url", [(1, OTHER_URL), (2, URL)])
def test_a_failure_leaves_other_subscriptions_alone(
    subscriptions: Subscriptions, fake: FakeSequin, database: Database, user_and_url: tuple[int, str]
) -> None:
    kept = subscriptions.subscribe(1, URL)

    def lose_the_sink(request: httpx.Request, answer: Answer) -> httpx.Response:
        return answer_lost(request, answer) if fake.calls[-1] == "POST /api/sinks" else answer()

    fake.fault = lose_the_sink
    with pytest.raises(SequinUnreachable):
        subscriptions.subscribe(*user_and_url)
    fake.fault = None
    assert [found.sink_id for found in subscriptions.list()] == [kept.sink_id]
    assert_in_step(fake, database)


def test_a_database_that_breaks_off_in_the_middle_leaves_nothing(
    subscriptions: Subscriptions, fake: FakeSequin, database: Database, database_url: str
) -> None:
    def cut(_request: httpx.Request, answer: Answer) -> httpx.Response:
        if fake.calls[-1] == "POST /api/sinks":
            ask(database_url, "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'userhooks'")
        return answer()

    fake.fault = cut
    with pytest.raises(DatabaseUnavailable):
        subscriptions.subscribe(1, URL)
    fake.fault = None
    assert_nothing_is_left(fake, database)


def test_a_commit_that_fails_leaves_nothing(subscriptions: Subscriptions, fake: FakeSequin, database: Database, database_url: str) -> None:
    ask(
        database_url,
        """
        create function no() returns trigger language plpgsql as $$ begin raise 'not today'; end $$;
        create constraint trigger no after insert on webhook_subscriptions deferrable initially deferred for each row execute function no();
        """,
    )
    with pytest.raises(DatabaseUnsuitable, match="not today"):
        subscriptions.subscribe(1, URL)
    assert_nothing_is_left(fake, database)


def test_a_database_that_is_down_makes_nothing(fake: FakeSequin, subscriptions: Subscriptions) -> None:
    with SequinClient("http://sequin.example", TOKEN, transport=fake.transport) as sequin:
        down = Subscriptions(Database("postgresql://postgres@127.0.0.1:1/x"), sequin, KEY)
        with pytest.raises(DatabaseUnavailable):
            down.subscribe(1, URL)
    assert fake.calls == []


def test_what_could_not_be_undone_is_repaired_by_the_next_call(subscriptions: Subscriptions, fake: FakeSequin, database: Database) -> None:
    def go_down(request: httpx.Request, answer: Answer) -> httpx.Response:
        if "POST /api/sinks" in fake.calls:
            if fake.calls[-1] == "POST /api/sinks":
                answer()
            raise httpx.ConnectError("Connection refused", request=request)
        return answer()

    fake.fault = go_down
    with pytest.raises(SequinUnreachable):
        subscriptions.subscribe(1, URL)
    assert len(fake.sinks) == len(fake.endpoints) == 1
    left_sink = fake.sinks["user-1-notifications"]["id"]
    fake.fault = None
    made = subscriptions.subscribe(1, URL)
    assert made.created
    assert made.sink_id != left_sink
    assert_in_step(fake, database)


# --- repairs ---------------------------------------------------------------------------------------------------------------


def test_a_row_whose_sink_is_gone(subscriptions: Subscriptions, fake: FakeSequin, database: Database) -> None:
    first = subscriptions.subscribe(1, URL)
    fake.sinks.clear()
    for found in (subscriptions.list(), subscriptions.list(1)):
        assert [(sub.status, sub.url) for sub in found] == [(MISSING, URL)]
    assert subscriptions.get(found[0].sink_name).status == MISSING
    with pytest.raises(NotFound):
        subscriptions.pause(found[0].sink_name)
    again = subscriptions.subscribe(1, URL)
    assert again.created
    assert again.sink_id != first.sink_id
    assert_in_step(fake, database)


@pytest.mark.parametrize("by", ["first name", "listed name"])
def test_a_row_whose_sink_is_gone_can_be_unsubscribed(subscriptions: Subscriptions, fake: FakeSequin, database: Database, by: str) -> None:
    name = subscriptions.subscribe(1, URL).sink_name
    fake.sinks.clear()
    subscriptions.unsubscribe(name if by == "first name" else subscriptions.list()[0].sink_name)
    assert database.subscriptions() == []


def test_an_endpoint_without_sink(subscriptions: Subscriptions, fake: FakeSequin, database: Database) -> None:
    subscriptions.subscribe(1, OTHER_URL)
    fake.sinks.clear()
    ask_rows = database.subscriptions()
    with database.locked_user(1) as user:
        user.remove(ask_rows[0].sink_id)
    made = subscriptions.subscribe(1, URL)
    assert made.sink_name == "user-1-notifications"
    assert fake.secrets["user-1-endpoint"] == {"Authorization": f"Bearer {made.secret}"}
    assert_in_step(fake, database)


def test_a_sink_without_row_is_made_anew_so_that_its_secret_is_told(
    subscriptions: Subscriptions, fake: FakeSequin, database: Database
) -> None:
    left = subscriptions.subscribe(1, URL)
    with database.locked_user(1) as user:
        user.remove(left.sink_id)
    made = subscriptions.subscribe(1, URL)
    assert made.created
    assert made.secret
    assert made.sink_id != left.sink_id
    assert_in_step(fake, database)


def test_a_sink_without_row_can_be_unsubscribed(
    subscriptions: Subscriptions, fake: FakeSequin, database_url: str, database: Database
) -> None:
    name = subscriptions.subscribe(1, URL).sink_name
    ask(database_url, "delete from users where id = 1")
    subscriptions.unsubscribe(name)
    assert_nothing_is_left(fake, database)


def test_an_endpoint_that_was_pointed_elsewhere_is_pointed_back(subscriptions: Subscriptions, fake: FakeSequin) -> None:
    subscriptions.subscribe(1, URL)
    fake.endpoints["user-1-endpoint"]["url"] = "https://elsewhere.example/"
    assert not subscriptions.subscribe(1, URL).created
    assert fake.endpoints["user-1-endpoint"]["url"] == URL


def test_an_endpoint_that_sequin_writes_in_its_own_way_is_left_alone(subscriptions: Subscriptions, fake: FakeSequin) -> None:
    subscriptions.subscribe(1, "HTTP://Example.com:80/x")
    fake.endpoints["user-1-endpoint"]["url"] = "http://example.com/x"
    fake.calls.clear()
    assert not subscriptions.subscribe(1, "HTTP://Example.com:80/x").created
    assert not any(call.startswith("PATCH") for call in fake.calls)


# --- filters fail closed ---------------------------------------------------------------------------------------------------


CHANGES: list[dict[str, Any]] = [
    {"filter": "none"},
    {"annotations": {"user_id": "2"}},
    {"annotations": {}},
    {"source": {"include_tables": None}},
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("call", ["subscribe", "pause", "resume", "backfill"])
def test_a_sink_that_was_changed_is_removed_at_the_next_use(
    subscriptions: Subscriptions, fake: FakeSequin, database: Database, change: dict[str, Any], call: str
) -> None:
    name = subscriptions.subscribe(1, URL).sink_name
    fake.sinks[name].update(change)
    fake.calls.clear()
    with pytest.raises(SequinMismatch):
        subscriptions.subscribe(1, URL) if call == "subscribe" else getattr(subscriptions, call)(name)
    assert fake.sinks == {}
    changing = [sent for sent in fake.calls if sent.startswith(("PATCH", "POST")) and sent != "POST /api/config/plan"]
    assert changing == [], "nothing is done with such a sink"
    assert subscriptions.subscribe(1, URL).created
    assert_in_step(fake, database)


@pytest.mark.parametrize("change", CHANGES)
def test_a_sink_that_comes_out_wrong_is_removed(
    subscriptions: Subscriptions, fake: FakeSequin, database: Database, change: dict[str, Any]
) -> None:
    def drop(request: httpx.Request, answer: Answer) -> httpx.Response:
        response = answer()
        if fake.calls[-1] == "POST /api/sinks":
            fake.sinks["user-1-notifications"].update(change)
            return httpx.Response(200, json=fake.sinks["user-1-notifications"])
        return response

    fake.fault = drop
    with pytest.raises(SequinMismatch):
        subscriptions.subscribe(1, URL)
    assert_nothing_is_left(fake, database)


@pytest.mark.parametrize("call", ["subscribe", "again", "all", "pause", "backfill"])
def test_a_function_that_somebody_changed_stops_everything_that_would_send(
    subscriptions: Subscriptions, fake: FakeSequin, database: Database, call: str
) -> None:
    name = subscriptions.subscribe(1, URL).sink_name
    fake.functions[FUNCTION_NAME]["code"] = "def filter(_action, _record, _changes, _metadata) do\n  true\nend"
    calls: dict[str, Callable[[], object]] = {
        "subscribe": lambda: subscriptions.subscribe(2, URL),
        "again": lambda: subscriptions.subscribe(1, URL),
        "all": lambda: subscriptions.subscribe_all({2: URL}),
        "pause": lambda: subscriptions.resume(name),
        "backfill": lambda: subscriptions.backfill(name),
    }
    with pytest.raises(SequinMismatch, match="is not the one that userhooks created") as caught:
        calls[call]()
    assert "userhooks up" in caught.value.remedy
    assert [row.user_id for row in database.subscriptions()] == [1]
    assert subscriptions.restore_function()
    assert fake.functions[FUNCTION_NAME]["code"].strip() == FUNCTION_CODE.strip()
    calls[call]()


def test_a_function_that_went_away_comes_back(subscriptions: Subscriptions, fake: FakeSequin, database: Database) -> None:
    subscriptions.subscribe(1, URL)
    fake.functions.clear()
    assert subscriptions.subscribe(2, URL).created
    assert_in_step(fake, database)


def test_a_wrong_token_makes_nothing(fake: FakeSequin, database: Database) -> None:
    with SequinClient("http://sequin.example", "wrong", transport=fake.transport) as sequin:
        stranger = Subscriptions(database, sequin, KEY)
        with pytest.raises(SequinUnauthorized, match="token"):
            stranger.subscribe(1, URL)
    assert_nothing_is_left(fake, database)


# --- backfills -------------------------------------------------------------------------------------------------------------


def finish(fake: FakeSequin, handle: BackfillHandle, **fields: Any) -> None:
    fake.backfills[handle.id].update(rows_initial_count=303, rows_processed_count=303, rows_ingested_count=303, state="completed")
    fake.backfills[handle.id].update(fields)


def test_a_backfill_is_waited_for(subscriptions: Subscriptions, fake: FakeSequin, clock: Clock) -> None:
    name = subscriptions.subscribe(1, URL).sink_name
    handle = subscriptions.backfill(name, user_id=1)
    assert (handle.sink_name, handle.state) == (name, "active")

    def progress(_request: httpx.Request, answer: Answer) -> httpx.Response:
        if clock.now > 5:
            finish(fake, handle)
        return answer()

    fake.fault = progress
    assert handle.wait(timeout=10) is handle
    assert (handle.state, handle.rows_initial_count, handle.rows_processed_count) == ("completed", 303, 303)
    assert clock.now == pytest.approx(5.1, abs=0.2)
    assert subscriptions.find_backfill(name, handle.id).state == "completed"


def test_a_wait_that_ends_says_what_is_missing(subscriptions: Subscriptions, fake: FakeSequin) -> None:
    handle = subscriptions.backfill(subscriptions.subscribe(1, URL).sink_name)
    finish(fake, handle, state="active", rows_processed_count=120)
    with pytest.raises(DeliveriesMissing, match="is active and has not ended within 3 s: 120 of 303 rows"):
        handle.wait(timeout=3)
    finish(fake, handle, state="failed", rows_processed_count=7)
    with pytest.raises(DeliveriesMissing, match="was failed: 7 of 303"):
        handle.wait()


def test_a_wait_for_a_backfill_that_reads_nothing_says_what_stops_it(subscriptions: Subscriptions) -> None:
    handle = subscriptions.backfill(subscriptions.subscribe(1, URL).sink_name)
    with pytest.raises(DeliveriesMissing, match=r"is active and has not ended within 3 s: 0 of \? rows") as caught:
        handle.wait(timeout=3)
    for words in ("-infinity", "24:00", "Cancel the backfill", "20 s"):
        assert words in caught.value.remedy


def test_a_backfill_is_cancelled(subscriptions: Subscriptions) -> None:
    handle = subscriptions.backfill(subscriptions.subscribe(1, URL).sink_name)
    assert handle.cancel().state == "cancelled"
    with pytest.raises(SequinInvalid, match="Invalid state transition"):
        handle.cancel()


def test_a_second_backfill_while_one_runs(subscriptions: Subscriptions) -> None:
    name = subscriptions.subscribe(1, URL).sink_name
    subscriptions.backfill(name)
    with pytest.raises(SequinInvalid, match="is running already") as caught:
        subscriptions.backfill(name)
    assert caught.value.remedy


def test_a_backfill_of_another_users_sink_is_forbidden(subscriptions: Subscriptions, fake: FakeSequin) -> None:
    name = subscriptions.subscribe(1, URL).sink_name
    with pytest.raises(Forbidden):
        subscriptions.backfill(name, user_id=2)
    assert fake.backfills == {}


@pytest.mark.parametrize("backfill_id", ["nope", "0b7f2c1e-8f0a-4d0e-9a61-5f0d2c7b9e11"])
def test_an_unknown_backfill(subscriptions: Subscriptions, backfill_id: str) -> None:
    name = subscriptions.subscribe(1, URL).sink_name
    with pytest.raises(NotFound, match="no backfill"):
        subscriptions.find_backfill(name, backfill_id)


# --- several processes -----------------------------------------------------------------------------------------------------

SUBSCRIBE = """
import sys
from userhooks.webhooks.database import Database
from userhooks.webhooks.sequin_client import SequinClient
from userhooks.webhooks.subscriptions import Subscriptions
database_url, sequin_url, token, user_id, url = sys.argv[1:]
with SequinClient(sequin_url, token) as sequin:
    made = Subscriptions(Database(database_url), sequin, b"k" * 32).subscribe(int(user_id), url)
print(made.sink_id, made.sink_name, made.created)
"""


def start_subscribe(database_url: str, sequin_url: str, user_id: int, url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SUBSCRIBE, database_url, sequin_url, TOKEN, str(user_id), url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_that_subscribe_the_same_at_once_get_the_same_sink(fake: FakeSequin, database: Database, database_url: str) -> None:
    with serving(fake) as url:
        running = [start_subscribe(database_url, url, 1, URL) for _ in range(4)]
        outputs = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0] * 4, outputs
    answers = [out.split() for out, _ in outputs]
    assert len({sink_id for sink_id, _, _ in answers}) == 1
    assert {name for _, name, _ in answers} == {"user-1-notifications"}
    assert sorted(created for _, _, created in answers) == ["False", "False", "False", "True"]
    assert_in_step(fake, database)


def test_processes_that_subscribe_one_user_to_different_urls_at_once(fake: FakeSequin, database: Database, database_url: str) -> None:
    with serving(fake) as url:
        running = [start_subscribe(database_url, url, 1, f"http://127.0.0.1:9/{number}") for number in range(4)]
        outputs = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0] * 4, outputs
    assert len(fake.sinks) == 4
    assert "user-1-notifications" in fake.sinks
    assert_in_step(fake, database)


@pytest.mark.parametrize("happened", [False, True])
@pytest.mark.parametrize("step", ["POST /api/config/apply", "POST /api/destinations/http_endpoints", "POST /api/sinks"])
def test_what_a_killed_process_left_is_repaired_by_the_next_call(
    subscriptions: Subscriptions, fake: FakeSequin, database: Database, database_url: str, step: str, happened: bool
) -> None:
    reached, gone = threading.Event(), threading.Event()

    def hold(_request: httpx.Request, answer: Answer) -> httpx.Response:
        if fake.calls[-1] == step and not reached.is_set():
            response = answer() if happened else httpx.Response(500)
            reached.set()
            gone.wait(30)
            return response
        return answer()

    fake.fault = hold
    with serving(fake) as url:
        process = start_subscribe(database_url, url, 1, URL)
        try:
            assert reached.wait(30), process.communicate(timeout=5)
        finally:
            process.kill()
            process.communicate(timeout=10)
            gone.set()
        fake.fault = None
        assert subscriptions.subscribe(1, URL).created
    assert_in_step(fake, database)
