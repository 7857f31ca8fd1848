"""Subscribing many users with one call creates an endpoint, a sink, and a row for each, or nothing; unsubscribing removes them all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.fake_sequin import TOKEN, FakeSequin
from tests.unit.test_subscriptions import Answer, assert_in_step
from userhooks.errors import InvalidInput, NotFound, SequinError, SequinInvalid, SequinMismatch
from userhooks.webhooks.database import Database
from userhooks.webhooks.sequin_client import SequinClient
from userhooks.webhooks.subscriptions import FUNCTION_NAME, Subscriptions

URLS = {1: "http://127.0.0.1:9/in/1", 2: "http://127.0.0.1:9/in/2", 3: "http://127.0.0.1:9/in/3"}


@pytest.fixture
def fake() -> FakeSequin:
    return FakeSequin()


@pytest.fixture
def database(database_url: str) -> Database:
    database = Database(database_url)
    database.set_up(None)
    return database


@pytest.fixture
def subscriptions(fake: FakeSequin, database: Database) -> Iterator[Subscriptions]:
    with SequinClient("http://sequin", TOKEN, transport=fake.transport) as client:
        yield Subscriptions(database, client, b"k" * 32)


def test_each_user_gets_what_subscribe_makes_with_one_call_for_all(
    subscriptions: Subscriptions, fake: FakeSequin, database: Database
) -> None:
    made = subscriptions.subscribe_all(URLS)
    assert [(one.user_id, one.url, one.sink_name, one.created) for one in made] == [
        (user, url, f"user-{user}-notifications", True) for user, url in URLS.items()
    ]
    assert [sink["annotations"] for sink in fake.sinks.values()] == [{"user_id": "1"}, {"user_id": "2"}, {"user_id": "3"}]
    assert {sink["filter"] for sink in fake.sinks.values()} == {FUNCTION_NAME}
    assert fake.calls.count("POST /api/config/apply") == 2  # the function, then all sinks
    assert subscriptions.subscribe(2, URLS[2]) == subscriptions.list(2)[0]
    assert fake.secrets["user-2-endpoint"] == {"Authorization": f"Bearer {made[1].secret}"}
    assert_in_step(fake, database)


def test_one_user_who_is_unknown_or_has_a_subscription_stops_it_for_all(
    subscriptions: Subscriptions, fake: FakeSequin, database: Database
) -> None:
    with pytest.raises(NotFound, match="There is no user 99"):
        subscriptions.subscribe_all({**URLS, 99: "http://127.0.0.1:9/in/99"})
    subscriptions.subscribe(3, "http://127.0.0.1:9/mine")
    with pytest.raises(InvalidInput, match="User 3 already has a subscription"):
        subscriptions.subscribe_all(URLS)
    assert len(fake.sinks) == 1
    assert_in_step(fake, database)


@pytest.mark.parametrize("happened", [False, True])
def test_a_call_that_breaks_leaves_nothing_behind(
    subscriptions: Subscriptions, fake: FakeSequin, database: Database, happened: bool
) -> None:
    subscriptions.subscribe(1, URLS[1])
    subscriptions.unsubscribe("user-1-notifications")  # the function already exists

    def break_off(request: httpx.Request, answer: Answer) -> httpx.Response:
        if request.url.path == "/api/config/apply":
            if happened:
                answer()
            raise httpx.ReadError("broken", request=request)
        return answer()

    fake.fault = break_off
    with pytest.raises(SequinError):
        subscriptions.subscribe_all(URLS)
    assert (fake.sinks, fake.endpoints) == ({}, {})
    assert_in_step(fake, database)


def test_a_filter_that_got_lost_on_the_way_takes_all_of_them_back(
    subscriptions: Subscriptions, fake: FakeSequin, database: Database
) -> None:
    def lose_one(request: httpx.Request, answer: Answer) -> httpx.Response:
        response = answer()
        if request.url.path == "/api/config/apply" and "user-2-notifications" in fake.sinks:
            fake.sinks["user-2-notifications"]["filter"] = "none"
        return response

    fake.fault = lose_one
    with pytest.raises(SequinMismatch, match="its filter is none"):
        subscriptions.subscribe_all(URLS)
    assert (fake.sinks, fake.endpoints) == ({}, {})
    assert_in_step(fake, database)


def foreign_sink(subscriptions: Subscriptions, fake: FakeSequin, app: Database, **changed: Any) -> None:
    """Leave only a sink and an endpoint with the names of user 2 in Sequin, as another client would have created them."""
    subscriptions.subscribe(2, URLS[2])
    with app.locked_users([2]) as users:
        users.remove()
    fake.sinks["user-2-notifications"].update(changed)
    fake.calls.clear()


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"database": "other"}, id="of another database"),
        pytest.param({"annotations": {}, "filter": "theirs"}, id="of another app"),
        pytest.param({"annotations": {"user_id": "3"}}, id="for other rows"),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_a_sink_that_somebody_else_made_is_neither_changed_nor_deleted(
    subscriptions: Subscriptions, fake: FakeSequin, database: Database, changed: dict[str, Any], together: bool
) -> None:
    foreign_sink(subscriptions, fake, database, **changed)
    before = json.dumps([fake.sinks, fake.endpoints, fake.secrets])
    with pytest.raises(SequinInvalid, match="user-2-notifications already"):
        _ = subscriptions.subscribe_all(URLS) if together else subscriptions.subscribe(2, "http://127.0.0.1:9/new")
    with pytest.raises(NotFound):
        subscriptions.unsubscribe("user-2-notifications")
    subscriptions.unsubscribe_all([2])
    assert json.dumps([fake.sinks, fake.endpoints, fake.secrets]) == before
    assert database.subscriptions() == []


def test_an_endpoint_that_a_sink_of_somebody_else_uses_keeps_its_url(
    subscriptions: Subscriptions, fake: FakeSequin, database: Database
) -> None:
    foreign_sink(subscriptions, fake, database, name="theirs", database="other")
    fake.sinks["theirs"] = fake.sinks.pop("user-2-notifications")
    fake.endpoints["user-2-endpoint"]["url"] = "http://127.0.0.1:9/theirs"
    before = json.dumps([fake.sinks, fake.endpoints, fake.secrets])
    with pytest.raises(SequinInvalid, match="in use by 1 sink"):
        subscriptions.subscribe_all(URLS)
    assert json.dumps([fake.sinks, fake.endpoints, fake.secrets]) == before


def test_a_call_that_fails_deletes_nothing_that_somebody_else_made_meanwhile(
    subscriptions: Subscriptions, fake: FakeSequin, database: Database
) -> None:
    foreign_sink(subscriptions, fake, database, database="other")
    theirs = fake.sinks.pop("user-2-notifications"), fake.endpoints.pop("user-2-endpoint")

    def make_theirs_instead(request: httpx.Request, answer: Answer) -> httpx.Response:
        if request.url.path != "/api/config/apply":
            return answer()
        fake.sinks["user-2-notifications"], fake.endpoints["user-2-endpoint"] = theirs
        return httpx.Response(422, json={"summary": "no", "validation_errors": {}})

    fake.fault = make_theirs_instead
    with pytest.raises(SequinInvalid):
        subscriptions.subscribe_all(URLS)
    assert list(fake.sinks.values()) == [theirs[0]]
    assert list(fake.endpoints.values()) == [theirs[1]]


def test_what_a_crash_left_is_made_anew(subscriptions: Subscriptions, fake: FakeSequin, database: Database) -> None:
    foreign_sink(subscriptions, fake, database)
    left = fake.sinks["user-2-notifications"]["id"]
    made = subscriptions.subscribe_all(URLS)
    assert [one.user_id for one in made] == [1, 2, 3]
    assert left not in [sink["id"] for sink in fake.sinks.values()]
    assert_in_step(fake, database)


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest", "http://0xa9fea9fe/", "http://10.0.0.7/", "http://localhost:9/"])
def test_a_forbidden_address_is_refused_before_anything_is_made(database: Database, fake: FakeSequin, url: str) -> None:
    with SequinClient("http://sequin", TOKEN, transport=fake.transport) as client:
        strict = Subscriptions(database, client, b"k" * 32, allow_private=False)
        with pytest.raises(InvalidInput, match="forbidden address"):
            strict.subscribe(1, url)
        with pytest.raises(InvalidInput, match="forbidden address"):
            strict.subscribe_all({1: "http://example.com/", 2: url})
    assert fake.calls == []


def test_they_go_with_one_call_and_so_does_what_a_crash_left_of_them(
    subscriptions: Subscriptions, fake: FakeSequin, database: Database
) -> None:
    subscriptions.subscribe_all(URLS)
    subscriptions.subscribe(1, "http://127.0.0.1:9/second")
    with database.locked_users([2]) as users:
        users.remove()  # as if the process was killed before it wrote the rows
    subscriptions.unsubscribe_all([1, 2, 99])
    assert list(fake.sinks) == ["user-3-notifications"]
    assert list(fake.endpoints) == ["user-3-endpoint"]
    assert [row.user_id for row in database.subscriptions()] == [3]
