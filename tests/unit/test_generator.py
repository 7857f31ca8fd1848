"""The generator: its schedule under any clock, and the rows it writes to a real database."""

from __future__ import annotations

import itertools
import logging
import random
import signal
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ports import free_port
from userhooks.errors import DatabaseUnavailable, DatabaseUnsuitable, InvalidInput, NotFound
from userhooks.lessons import generator
from userhooks.lessons.generator import MAX_RATE, Generated, Schedule, _uninterrupted, generate, parse_mix, progress_shown
from userhooks.webhooks.database import Database


class FakeTime:
    """A clock that moves only by sleeping, each time by `late()` seconds more than requested."""

    def __init__(self, late: Callable[[], float] = lambda: 0.0) -> None:
        self.now = 1000.0
        self.late = late
        self.sleeps = 0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        self.now += seconds + self.late()


# --- the schedule, pure ----------------------------------------------------------------------------------------------------

RATES = st.one_of(st.integers(1, MAX_RATE), st.floats(1, MAX_RATE))


@given(rate=RATES, row=st.integers(0, 10_000_000))
def test_row_k_is_due_k_intervals_after_the_start_and_not_half_an_interval_sooner(rate: float, row: int) -> None:
    schedule = Schedule(rate)
    assert schedule.due(row / rate) == row + 1
    assert schedule.due(max(0.0, (row - 0.5) / rate)) == max(1, row)


@given(rate=RATES, total=st.integers(1, 5_000), seed=st.integers())
def test_whatever_the_clock_does_the_run_writes_its_total_never_ahead_of_time_and_with_gaps_caught_up(
    rate: float, total: int, seed: int
) -> None:
    rng = random.Random(seed)
    schedule, elapsed, written = Schedule(rate, total), 0.0, 0
    while written < total:
        pause = schedule.pause(written, elapsed)
        assert 0 <= pause <= max(1.5 / rate, 2 / 25)
        elapsed += pause + rng.choice([0.0, 1e-4, 0.01, 3.0]) * rng.random()
        due = schedule.due(elapsed)
        assert due > written, "no tick is in vain"
        assert due == total or due <= elapsed * rate + 1 + 1e-6
        written = due
    assert written == total


@given(rate=RATES)
def test_a_second_has_at_most_some_fifty_ticks_and_a_slow_run_one_per_row(rate: float) -> None:
    schedule, elapsed, written, ticks = Schedule(rate), 0.0, 0, 0
    while elapsed < 1:
        elapsed += schedule.pause(written, elapsed)
        written = schedule.due(elapsed)
        ticks += 1
    assert ticks <= min(rate + 2, 40)


@pytest.mark.parametrize(
    ("text", "mix"),
    [("insert=1", {"insert": 1.0}), ("insert=8, update=1,delete=0.5", {"insert": 8.0, "update": 1.0, "delete": 0.5})],
)
def test_a_mix_is_read_as_weights(text: str, mix: dict[str, float]) -> None:
    assert parse_mix(text) == mix


@pytest.mark.parametrize(
    "text", ["", "insert", "insert=", "insert=x", "upsert=1", "insert=-1", "insert=0", "insert=nan", "insert=inf", "insert=1,insert=2"]
)
def test_a_mix_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_mix(text)
    assert caught.value.field == "mix"
    assert "insert=8" in caught.value.remedy


# --- the runner, on Postgres -----------------------------------------------------------------------------------------------


@pytest.fixture
def database(database_url: str) -> Database:
    database = Database(database_url)
    database.set_up(None)
    return database


def ask(database: Database, query: Any, *params: object) -> list[tuple[Any, ...]]:
    with database.connect() as connection:
        return connection.execute(query, params).fetchall()


def run(url: str, time: FakeTime | None = None, **options: Any) -> Generated:
    time = time or FakeTime()
    options.setdefault("progress", lambda rows: None)
    return generate(url, clock=time.clock, sleep=time.sleep, **options)


def test_a_progress_bar_says_what_is_being_done(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(generator, "_in_notebook", lambda: True)
    with progress_shown(None, 3, "users", "Removing users") as show:
        show(3)
    assert "Removing users: 100%" in capsys.readouterr().err


def test_a_run_writes_rate_times_seconds_rows_with_a_running_number(database: Database, database_url: str) -> None:
    time = FakeTime()
    generated = run(database_url, time, rate=100, seconds=5, seed=1)
    rows = ask(database, "SELECT id, user_id, message FROM notifications ORDER BY id")
    assert [message for _, _, message in rows] == [f"Notification {number}" for number in range(1, 501)]
    assert generated.per_user == {user: sum(1 for row in rows if row[1] == user) for user in (1, 2, 3)}
    assert (generated.inserted, generated.asked, generated.first_id, generated.last_id) == (500, 500, rows[0][0], rows[-1][0])
    assert generated.seconds == pytest.approx(4.99)
    assert generated.rate_reached == pytest.approx(100)
    assert generated.timeline[-1] == (pytest.approx(4.99), 500)
    assert repr(generated) == "Generated(500 inserted)"
    assert generated.summary() == "500 inserted for 3 users in 5.0 s, 100 rows/s"


def test_every_tick_is_one_statement_in_one_transaction(database: Database, database_url: str) -> None:
    time = FakeTime()
    run(database_url, time, rate=10_000, count=4_000)
    assert ask(database, "SELECT count(DISTINCT xmin::text) FROM notifications") == [(time.sleeps,)] == [(10,)]


def test_the_same_seed_makes_the_same_choices_and_another_one_does_not(database: Database, database_url: str) -> None:
    def choices(seed: int) -> list[tuple[Any, ...]]:
        first = run(database_url, count=50, seed=seed).first_id
        return ask(database, "SELECT user_id, message FROM notifications WHERE id >= %s ORDER BY id", first)

    assert choices(7) == choices(7) != choices(8)


def test_a_stall_is_caught_up_in_ticks_of_bounded_size(database: Database, database_url: str) -> None:
    delays = iter([0.0, 2.0])
    time = FakeTime(late=lambda: next(delays, 0.0))
    seen: list[int] = []
    generated = run(database_url, time, rate=10_000, seconds=3, progress=seen.append)
    assert generated.inserted == 30_000
    assert max(later - sooner for sooner, later in itertools.pairwise(seen)) == 5_000
    assert generated.seconds == pytest.approx(3, abs=0.01)


def test_what_was_not_reached_is_said_and_the_run_ends_all_the_same(database: Database, database_url: str) -> None:
    generated = run(database_url, FakeTime(late=lambda: 1.0), rate=50_000, seconds=2)
    assert generated.inserted == 5_000 * 6
    assert (
        generated.summary().splitlines()[1] == "70,000 of 100,000 rows were not written, because the rate of 50,000 rows/s was not reached."
    )


def test_a_count_is_always_written_and_a_slow_run_says_so(database: Database, database_url: str) -> None:
    generated = run(database_url, FakeTime(late=lambda: 1.0), rate=50_000, count=20_000)
    assert generated.inserted == 20_000
    assert generated.summary().endswith("\nThe requested rate of 50,000 rows/s was not reached.")


def test_a_mix_changes_rows_of_the_given_users_only(database: Database, database_url: str) -> None:
    others = database.insert_notifications([(3, f"of user three {number}") for number in range(200)])
    database.insert_notifications([(1, "old")] * 20)
    generated = run(database_url, rate=1000, count=3_000, users=[1, 2], mix={"insert": 2, "update": 2, "delete": 1}, seed=3)
    assert generated.changes == 3_000
    assert generated.updated > generated.deleted > 400
    assert ask(database, "SELECT count(*) FROM notifications WHERE user_id < 3") == [(20 + generated.inserted - generated.deleted,)]
    assert ask(database, "SELECT id FROM notifications WHERE user_id = 3 AND message LIKE 'of user three%%' ORDER BY id") == [
        (row,) for row in others
    ]
    assert set(generated.per_user) == {1, 2}
    assert "updated" in generated.summary()
    assert repr(generated).startswith(f"Generated({generated.inserted} inserted, {generated.updated} updated")


def test_deletes_without_rows_to_delete_become_inserts(database: Database, database_url: str) -> None:
    generated = run(database_url, rate=10, count=10, mix={"delete": 1})
    assert (generated.inserted, generated.deleted) == (5, 5)


def test_ctrl_c_ends_a_run_cleanly_with_what_was_committed(database: Database, database_url: str) -> None:
    def press(rows: int) -> None:
        if rows >= 40:
            signal.raise_signal(signal.SIGINT)

    generated = run(database_url, rate=100, progress=press)
    assert generated.interrupted
    assert generated.asked is None
    assert ask(database, "SELECT count(*) FROM notifications") == [(generated.inserted,)] == [(40,)]
    assert generated.summary().endswith("\nStopped early.")
    assert repr(generated) == "Generated(40 inserted, interrupted)"


def test_ctrl_c_during_a_tick_waits_for_its_end_and_a_second_one_does_not() -> None:
    done = []

    def tick(presses: int) -> None:
        with _uninterrupted():
            for _ in range(presses):
                signal.raise_signal(signal.SIGINT)
            done.append(presses)

    with pytest.raises(KeyboardInterrupt):
        tick(presses=1)
    with pytest.raises(KeyboardInterrupt):
        tick(presses=2)
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_logs_every_thousand_rows_at_a_moderate_rate_and_every_ten_seconds_at_a_low_one(
    database: Database, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "userhooks.lessons.generator")
    run(database_url, rate=500, seconds=6)
    assert caplog.messages[:-1] == [f"{rows:,} rows written, 500 rows/s" for rows in (1_000, 2_000, 3_000)]
    caplog.clear()
    run(database_url, rate=2, seconds=25)
    assert caplog.messages[:-1] == ["20 rows written, 2 rows/s", "40 rows written, 2 rows/s"]
    caplog.clear()
    run(database_url, rate=20_000, seconds=3)
    assert len(caplog.messages) <= 4, "at a high rate a line a second is enough"


def test_without_users_it_says_how_to_make_some(database: Database, database_url: str) -> None:
    with database.connect() as connection:
        connection.execute("DELETE FROM users")
    with pytest.raises(NotFound, match="no users") as caught:
        run(database_url, count=1)
    assert "INSERT INTO users" in caught.value.remedy
    with pytest.raises(NotFound, match="no user 77"):
        run(database_url, count=1, users=[77])


def test_a_user_deleted_meanwhile_ends_the_run_with_an_error(database: Database, database_url: str) -> None:
    def delete(rows: int) -> None:
        with database.connect() as connection:
            connection.execute("DELETE FROM users WHERE id = 2")

    with pytest.raises(NotFound):
        run(database_url, rate=100, count=200, progress=delete)


def test_a_table_that_is_not_ours_is_left_alone(database: Database, database_url: str) -> None:
    with database.connect() as connection:
        connection.execute("COMMENT ON TABLE notifications IS 'mine'")
    with pytest.raises(DatabaseUnsuitable, match="was not created by userhooks"):
        run(database_url, count=5)
    assert ask(database, "SELECT count(*) FROM notifications") == [(0,)]


def test_a_database_that_goes_away_is_named_with_what_was_committed(database: Database, database_url: str) -> None:
    def cut(rows: int) -> None:
        if rows >= 20:
            ask(
                database,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()",
            )

    with pytest.raises(DatabaseUnavailable, match=r"\b20 rows had been committed"):
        run(database_url, rate=100, count=200, progress=cut)
    assert ask(database, "SELECT count(*) FROM notifications") == [(20,)]


def test_no_database_at_all_is_said_without_a_count() -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        run(f"postgresql://u:secret@127.0.0.1:{free_port()}/x", count=1)
    assert "committed" not in caught.value.what
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"rate": 0.5}, "rate"), ({"rate": MAX_RATE + 1}, "rate"), ({"rate": float("nan")}, "rate"), ({"seconds": 0}, "seconds"),
        ({"seconds": -1}, "seconds"), ({"seconds": float("nan")}, "seconds"), ({"count": 0}, "count"),
        ({"seconds": 1, "count": 1}, "count"), ({"mix": {}}, "mix"), ({"mix": {"truncate": 1}}, "mix"),
    ],
)  # fmt: skip
def test_bad_input_names_its_field_before_anything_is_opened(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        generate("postgresql://nowhere.invalid/x", **options)
    assert caught.value.field == field


def test_psycopg_is_not_left_connected(database: Database, database_url: str) -> None:
    run(database_url, count=1)
    with psycopg.connect(database_url) as connection:
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        assert connection.execute(others).fetchone() == (0,)
