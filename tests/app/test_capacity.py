"""The measurements of lesson 08 and the benchmarks on a real stack: users in bulk, consistent figures, and nothing left behind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from userhooks import Stack, capacity
from userhooks.capacity.measure import insert
from userhooks.errors import DeliveriesMissing, InvalidInput
from userhooks.settings import PORT_VARIABLES, Settings
from userhooks.stack.home import Home


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("home")
    stack = Stack.start(Settings.from_env({"USERHOOKS_HOME": str(folder), **dict.fromkeys(PORT_VARIABLES.values(), "0")}))
    yield stack
    stack.sequin.close()
    stack.stop()
    Home(folder).remove()


def test_a_crowd_is_measured_and_leaves_nothing_behind(stack: Stack) -> None:
    users = stack.database.users()
    told: list[int] = []
    with capacity.LoadUsers(stack) as load_users:
        load_users.grow(30, told.append)
        assert len(stack.subscriptions.list()) == 30
        one = capacity.throughput(load_users, 300)
        assert (one.messages, one.requests) == (300, 300)
        many = capacity.throughput(load_users, 3000, batch_size=100)
        assert many.messages == 3000
        assert many.requests < 1000
        delay = capacity.latency(load_users, rate=100, seconds=0.5)
        assert delay.count == 50
        assert 0 < delay.p50_ms <= delay.p99_ms <= delay.max_ms
        receiver = psutil.Process(load_users.counter.pid)
    assert told == [30]
    assert stack.database.users() == users
    assert stack.subscriptions.list() == []
    assert stack.sequin.sinks() == []
    assert stack.sequin.endpoints() == []
    assert not receiver.is_running()


def test_what_a_crowd_that_was_killed_has_left_is_removed_by_the_next(stack: Stack) -> None:
    killed = capacity.LoadUsers(stack)
    killed.grow(3)
    killed.counter.close()
    with capacity.LoadUsers(stack) as load_users:
        assert load_users.users == []
        assert stack.subscriptions.list() == []


def test_growing_can_be_stopped_and_goes_on_where_it_was(stack: Stack) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with capacity.LoadUsers(stack) as load_users:
        with pytest.raises(KeyboardInterrupt):
            load_users.grow(260, stop)
        assert len(load_users.users) == 250
        load_users.grow(260)
        assert len(stack.subscriptions.list()) == 260


def test_a_crowd_is_as_large_as_who_delivers_stands(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    with capacity.LoadUsers(stack) as load_users:
        assert load_users.sizes() == [10, 100, 1_000, 3_000]
        monkeypatch.setattr(capacity.LoadUsers, "engine_pid", None)  # its value with a separate Sequin server
        assert load_users.sizes() == [10]
        with pytest.raises(InvalidInput, match="11 filtered sinks would bring this Sequin server down"):
            load_users.grow(11)
        assert stack.subscriptions.list() == []
        load_users.grow(10, lambda _: None)
        assert len(stack.subscriptions.list()) == 10


def test_without_an_engine_of_ours_its_figures_are_missing_numbers() -> None:
    frame = capacity.frame([capacity.Point(10, 1.0, 500.0, None, 15.0, 25.0, 100, None)])
    assert frame["engine_us"].isna().all()
    assert frame["engine_mb"].dtype == "float64"
    assert list(capacity.frame([]).columns) == list(frame.columns)


def test_points_and_card_show_themselves(stack: Stack) -> None:
    with capacity.LoadUsers(stack) as load_users:
        points = list(capacity.scale(load_users, [2, 5], rows=3_000, rate=100, seconds=0.2))
        card = capacity.capacity_card(load_users, rows=100, seconds=0.2)
    frame = capacity.frame(points)
    assert list(frame["users"]) == [2, 5]
    assert frame["engine_us"].gt(0).all()
    assert frame["engine_mb"].between(20, 500).all()
    assert "100 per request" in repr(card)
    assert "<th" in card._repr_html_()
    assert math.isfinite(card.p99_ms)


def test_webhooks_that_do_not_come_are_said_to_be_missing(stack: Stack) -> None:
    with capacity.LoadUsers(stack) as load_users:
        load_users.grow(1)
        stack.subscriptions.pause(stack.subscriptions.list()[0].sink_name)
        with stack.database.connect() as connection:
            insert(connection, load_users.users, 0, 1)
        with pytest.raises(DeliveriesMissing, match="0 of 1 messages have arrived"):
            load_users.counter.wait_for(1, 0.2)
