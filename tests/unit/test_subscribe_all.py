"""Subscribing many users with one call: one endpoint, one sink and one row for each, or nothing, and all of it taken back again."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.fake_sequin import TOKEN, FakeSequin
from tests.unit.test_subscriptions import Answer, assert_in_step
from userhooks.database import Database
from userhooks.errors import InvalidInput, NotFound, SequinError, SequinMismatch
from userhooks.sequin import SequinClient
from userhooks.subscriptions import FUNCTION_NAME, Subscriptions

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
    assert fake.calls.count("POST /api/config/apply") == 2  # the function, and all of them
    assert subscriptions.subscribe(2, URLS[2]) == subscriptions.list(2)[0]
    assert fake.secrets["user-2-endpoint"] == {"Authorization": f"Bearer {made[1].secret}"}
    assert_in_step(fake, database)


def test_one_user_who_is_unknown_or_has_a_subscription_stops_it_for_all(
    subscriptions: Subscriptions, fake: FakeSequin, database: Database
) -> None:
    with pytest.raises(NotFound, match="There is no user 99"):
        subscriptions.subscribe_all({**URLS, 99: "http://127.0.0.1:9/in/99"})
    subscriptions.subscribe(3, "http://127.0.0.1:9/mine")
    with pytest.raises(InvalidInput, match="User 3 has a subscription already"):
        subscriptions.subscribe_all(URLS)
    assert len(fake.sinks) == 1
    assert_in_step(fake, database)


@pytest.mark.parametrize("happened", [False, True])
def test_a_call_that_breaks_leaves_nothing_behind(
    subscriptions: Subscriptions, fake: FakeSequin, database: Database, happened: bool
) -> None:
    subscriptions.subscribe(1, URLS[1])
    subscriptions.unsubscribe("user-1-notifications")  # the function is there

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
        if request.url.path != "/api/config/apply" or "user-2-notifications" not in fake.sinks:
            return response
        fake.sinks["user-2-notifications"]["filter"] = "none"
        return httpx.Response(200, json={"resources": list(fake.sinks.values())})

    fake.fault = lose_one
    with pytest.raises(SequinMismatch, match="its filter is none"):
        subscriptions.subscribe_all(URLS)
    assert (fake.sinks, fake.endpoints) == ({}, {})
    assert_in_step(fake, database)


def test_they_go_with_one_call_and_so_does_what_a_crash_left_of_them(
    subscriptions: Subscriptions, fake: FakeSequin, database: Database
) -> None:
    subscriptions.subscribe_all(URLS)
    subscriptions.subscribe(1, "http://127.0.0.1:9/second")
    with database.locked_users([2]) as users:
        users.remove()  # as if the process had been killed before it wrote the rows
    subscriptions.unsubscribe_all([1, 2, 99])
    assert list(fake.sinks) == ["user-3-notifications"]
    assert list(fake.endpoints) == ["user-3-endpoint"]
    assert [row.user_id for row in database.subscriptions()] == [3]
