"""A lesson on a real stack: what it creates, what its ledger reports, and what it removes; and the demo, which is one lesson."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any, cast

import httpx
import orjson
import pytest
from psycopg import sql

from tests.inspector.bodies import message
from tests.waiting import eventually
from userhooks import capacity, demo
from userhooks.clients import Clients
from userhooks.errors import DatabaseUnsuitable, InvalidInput, NotFound, UserhooksError
from userhooks.inspector.client import Inbox
from userhooks.ledger.recording import Recording
from userhooks.lessons import own_receiver
from userhooks.lessons.generator import Generated
from userhooks.lessons.lesson import USERS, Lesson, stack_ledger
from userhooks.lessons.lesson_run import reserve_ids
from userhooks.settings import PORT_VARIABLES, Settings
from userhooks.stack.home import Home
from userhooks.stack.stack import Stack
from userhooks.webhooks.database import Database
from userhooks.webhooks.subscriptions import FUNCTION_NAME
from userhooks.widgets import BackfillPanel, FaultDial, GeneratePanel, InboxPanel, SubscribePanel


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("lesson") / "home"
    stack = Stack.start(Settings.from_env({"USERHOOKS_HOME": str(home), **dict.fromkeys(PORT_VARIABLES.values(), "0")}))
    try:
        yield stack
    finally:
        stack.stop()
        stack.sequin.close()
        stack.inspector.close()
        Home(home).remove()


@pytest.fixture
def lesson(stack: Stack) -> Iterator[Lesson]:
    with stack.lesson("01") as lesson:
        yield lesson


def subscribe_all(lesson: Lesson) -> None:
    for user in USERS:
        lesson.subscribe(user, url=lesson.inbox(user).url)


def state_of(stack: Stack) -> dict[str, Any]:
    return {
        "users": stack.database.users(),
        "subscriptions": stack.subscriptions.list(),
        "sinks": sorted(sink.name for sink in stack.sequin.sinks()),
        "endpoints": sorted(endpoint.name for endpoint in stack.sequin.endpoints()),
        "inboxes": {inbox.name: inbox.count() for inbox in stack.inspector.inboxes()},
    }


class Accepting(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()


def reached(url: str) -> bool:
    try:
        return httpx.post(url, content=b"{}", trust_env=False).status_code == 204
    except httpx.ConnectError:
        return False


# --- the steps of a lesson -------------------------------------------------------------------------------------------------


def test_a_subscriber_gets_all_of_their_rows_and_the_ledger_says_so(lesson: Lesson) -> None:
    inbox = lesson.inbox("ada")
    subscription = lesson.subscribe("ada", url=inbox.url)
    assert subscription.user_id == lesson.user("ada") == lesson.users["ada"]
    generated = lesson.generate(rate=1000, count=500, seed=1)
    expected = generated.per_user[lesson.user("ada")]
    verdict = lesson.ledger().verdict()
    counted = f"500 committed, {expected} expected, {expected} received, 0 lost, 0 duplicated, 0 foreign, order kept"
    assert re.fullmatch(rf"{counted}, p99 \d+ ms", verdict)
    assert {message.user_id for message in inbox.wait_for(expected)} == {lesson.user("ada")}
    assert repr(lesson) == "Lesson('01', users ada 101, ben 102, cy 103)"


def test_a_receiver_that_the_reader_wrote_gets_rows_until_the_lesson_is_closed(stack: Stack) -> None:
    lesson = stack.lesson("01")
    server = lesson.serve(Accepting)
    lesson.subscribe("ada", url=server.url)
    lesson.insert("ada", "Hello")
    assert server.wait_for(1, status=204) == 1
    lesson.close()
    assert not reached(server.url)


def test_a_lesson_that_begins_again_closes_what_it_served(stack: Stack) -> None:
    server = stack.lesson("01").serve(Accepting)
    assert reached(server.url)
    with stack.lesson("01"):
        assert not reached(server.url)


def test_a_receiver_listens_where_the_inspector_does_and_is_named_as_it_is() -> None:
    settings = Settings.from_env({"USERHOOKS_INSPECTOR_BIND": "127.0.0.1", "USERHOOKS_INSPECTOR_PUBLIC_URL": "http://localhost:3334"})
    lesson = object.__new__(Lesson)
    lesson.name, lesson.clients = "01", cast("Any", SimpleNamespace(settings=settings))
    lesson._run = cast("Any", SimpleNamespace(require_current=lambda: None))
    with lesson.serve(Accepting) as server:
        assert server.url == f"http://localhost:{server.port}/"
        assert reached(server.url)
    own_receiver.leave("01")


def test_one_inserted_row_arrives_with_its_text(lesson: Lesson) -> None:
    lesson.subscribe("ben", url=lesson.inbox("ben").url)
    row = lesson.insert("ben", "Hello, Ben")
    (message,) = lesson.inbox("ben").wait_for(1)
    assert (message.record["id"], message.record["message"]) == (row, "Hello, Ben")


def test_the_same_seed_gives_the_same_users_the_same_share(lesson: Lesson) -> None:
    shares = [list(lesson.generate(rate=1000, count=100, seed=5).per_user.values()) for _ in range(2)]
    assert shares[0] == shares[1]


def test_history_is_owed_only_to_a_backfill_and_then_all_of_it(lesson: Lesson) -> None:
    generated = lesson.generate(rate=1000, count=200, seed=2)
    lesson.subscribe("cy", url=lesson.inbox("cy").url)
    before = lesson.ledger()
    assert before.verdict().startswith("200 committed, 0 expected, 0 received, 0 lost")
    lesson.backfill("cy").wait()
    history = generated.per_user[lesson.user("cy")]
    assert lesson.ledger().verdict().endswith(f"; backfill: {history} expected, {history} received, 0 lost")
    assert lesson.ledger().ok


def test_changes_of_rows_keep_the_ledger_good(lesson: Lesson) -> None:
    subscribe_all(lesson)
    generated = lesson.generate(rate=2000, count=1_000, mix={"insert": 3, "update": 2, "delete": 1}, seed=3)
    ledger = lesson.ledger()
    assert ledger.verdict().startswith(f"{generated.inserted - generated.deleted} committed")
    assert ledger.complete
    assert not ledger.foreigners


def test_the_panels_do_what_the_calls_do(lesson: Lesson) -> None:
    subscribe, generate, backfill, inbox = SubscribePanel(lesson), GeneratePanel(lesson), BackfillPanel(lesson), InboxPanel(lesson)
    subscribe.button.click()
    generate.rate.value, generate.seconds.value = 1000, 0.3
    generate.button.click()
    assert generate.progress.value == 300
    subscribe.rows[0].test.click()
    assert "Ada's receiver answered the test event with 200" in subscribe.state.value.replace("&#x27;", "'")
    assert lesson.ledger().ok, "a test event is not a row"
    inbox.button.click()
    assert "Notification" in inbox.table.value
    assert "<td" in inbox.table.value.partition(">ok<")[0], "the secret is judged"
    backfill.button.click()
    assert "is completed" in backfill.state.value
    assert backfill.progress.value == backfill.progress.max > 1
    assert "; backfill: " in lesson.ledger().verdict()
    assert lesson.ledger().ok
    inbox.close()
    lesson.inbox("ben").respond(status=500)
    backfill.user.value = "ben"
    backfill.button.click()
    assert "ben has no subscription to backfill.<br>Run lesson.subscribe(" in backfill.state.value


# --- problems --------------------------------------------------------------------------------------------------------------


def test_a_receiver_that_refuses_everything_shows_as_lost(lesson: Lesson) -> None:
    lesson.inbox("ada").respond(status=500)
    lesson.subscribe("ada", url=lesson.inbox("ada").url)
    row = lesson.insert("ada", "never taken")
    ledger = lesson.ledger(wait=0.3)
    assert ledger.verdict() == "1 committed, 1 expected, 0 received, 1 lost, 0 duplicated, 0 foreign, order kept"
    assert ledger.lost()["row"].to_list() == [row]


def test_what_nobody_waited_for_has_not_yet_arrived(stack: Stack, lesson: Lesson) -> None:
    lesson.inbox("ada").respond(status=500)
    lesson.subscribe("ada", url=lesson.inbox("ada").url)
    row = lesson.insert("ada", "never taken")
    for judge in (lesson.ledger, partial(stack_ledger, stack.clients)):
        ledger = judge(wait=0)
        assert ledger.verdict().startswith("1 committed, 1 expected, 0 received, 0 lost, 1 not yet arrived, 0 duplicated")
        assert ledger.problems() == [f"not yet arrived: row {row} of user {lesson.user('ada')} has not reached {sink_of(lesson, 'ada')}"]
        assert not ledger.ok
    assert "1 lost" in stack_ledger(stack.clients, wait=0.3).verdict()
    with lesson.ledger(wal=True, wait=0) as by_wal:
        lesson.insert("ada", "never taken either")
    assert ", 0 lost, 1 not yet arrived, " in by_wal.verdict()


def test_the_stacks_ledger_waits_for_what_is_on_its_way(stack: Stack, lesson: Lesson) -> None:
    lesson.inbox("ada").respond([{"first": 1, "status": 500}])
    lesson.subscribe("ada", url=lesson.inbox("ada").url)
    lesson.insert("ada", "taken at the second attempt")
    assert stack_ledger(stack.clients).verdict().startswith("1 committed, 1 expected, 1 received, 0 lost, 0 duplicated")


def test_a_user_subscribed_to_anothers_inbox_shows_as_foreign(lesson: Lesson) -> None:
    lesson.subscribe("ben", url=lesson.inbox("ada").url)
    row = lesson.insert("ben", "for Ben only")
    lesson.inbox("ada").wait_for(1)
    ledger = lesson.ledger(wait=0)
    assert "1 foreign" in ledger.verdict()
    assert ledger.problems()[-1].startswith(f"foreign: insert of row {row} of user {lesson.user('ben')} reached the inbox of user")


def test_a_body_that_is_no_message_is_left_aside(lesson: Lesson) -> None:
    lesson.subscribe("ada", url=lesson.inbox("ada").url)
    httpx.post(lesson.inbox("ada").url, content=b"hello", trust_env=False)
    lesson.insert("ada", "one")
    assert lesson.ledger().verdict().startswith("1 committed, 1 expected, 1 received, 0 lost, 0 duplicated, 0 foreign")


def test_an_unknown_user_is_named_with_those_that_there_are(lesson: Lesson) -> None:
    for call in (
        lesson.user,
        lesson.inbox,
        lesson.backfill,
        lambda user: lesson.insert(user, "x"),
        lambda user: lesson.subscribe(user, "x"),
    ):
        with pytest.raises(NotFound, match="no user 'dee'") as caught:
            call("dee")
        assert caught.value.remedy == "Its users are ada, ben, cy."


def test_a_backfill_without_a_subscription_says_how_to_get_one(lesson: Lesson) -> None:
    with pytest.raises(NotFound, match="ada has no subscription") as caught:
        lesson.backfill("ada")
    assert 'lesson.subscribe("ada"' in caught.value.remedy


@pytest.mark.parametrize("name", ["", "a b", "x" * 41, "é", "01:"])
def test_a_name_that_no_lesson_can_have_is_refused(stack: Stack, name: str) -> None:
    with pytest.raises(InvalidInput):
        stack.lesson(name)


# --- deliberate faults -----------------------------------------------------------------------------------------------------


def test_a_sink_without_a_filter_shows_in_the_ledger_as_foreign_rows_until_it_is_removed(lesson: Lesson) -> None:
    subscribe_all(lesson)
    assert lesson.add_unfiltered_sink("cy").filter == "none"
    rows = {user: lesson.insert(user, "for one only") for user in USERS}
    lesson.inbox("cy").wait_for(4)
    ledger = lesson.ledger()
    assert "0 lost, 0 duplicated, 2 foreign" in ledger.verdict()
    assert set(ledger.foreign()["row"]) == {rows["ada"], rows["ben"]}
    assert any(f"row {rows['ada']} of user {lesson.user('ada')} reached the inbox of user" in line for line in ledger.problems())
    lesson.remove_unfiltered_sink()
    lesson.insert("ada", "for Ada only")
    lesson.inbox("ada").wait_for(2)
    assert "2 foreign" in lesson.ledger().verdict()
    assert lesson.inbox("cy").count() == 4


def unfiltered(stack: Stack) -> list[str]:
    ours = [*stack.sequin.sinks(), *stack.sequin.endpoints()]
    return [one.name for one in ours if "without-filter" in one.name or getattr(one, "filter", "") == "none"]


def test_an_unfiltered_sink_that_was_left_behind_is_gone_when_any_lesson_begins_or_ends(stack: Stack, lesson: Lesson) -> None:
    lesson.add_unfiltered_sink("cy")
    lesson.add_unfiltered_sink("ben")
    assert len(unfiltered(stack)) == 2, "one sink and its endpoint"
    with stack.lesson("02") as other:
        assert unfiltered(stack) == []
        other.add_unfiltered_sink("ada")
    assert unfiltered(stack) == []
    lesson.remove_unfiltered_sink()
    with pytest.raises(NotFound):
        lesson.add_unfiltered_sink("dee")
    assert unfiltered(stack) == []


# --- cleaning up -----------------------------------------------------------------------------------------------------------


def test_a_lesson_that_is_closed_leaves_empty_inboxes_and_nothing_else(stack: Stack) -> None:
    stack.lesson("02").close()
    before = state_of(stack)
    with stack.lesson("02") as lesson:
        url = lesson.inbox("ada").url
        subscribe_all(lesson)
        lesson.generate(rate=1000, count=30)
        assert lesson.ledger().ok
        lesson.inbox("ada").respond(status=500)
    assert state_of(stack) == before
    assert httpx.post(url, content=b"x", trust_env=False).status_code == 200


def test_the_slot_that_sequin_reads_is_named(stack: Stack) -> None:
    with stack.database.connect() as db:
        [(plugin, active)] = db.execute("SELECT plugin, active FROM pg_replication_slots WHERE slot_name = %s", [stack.sequin.slot()])
    assert (plugin, active) == ("pgoutput", True)


def test_a_lesson_begins_empty_after_an_interrupted_run_and_touches_no_other(stack: Stack) -> None:
    with stack.lesson("03") as other, stack.lesson("03-b") as similar:
        outsider = stack.database.create_user("lesson 03: dee")
        for lesson in (other, similar):
            subscribe_all(lesson)
            lesson.insert("ada", "kept")
            assert lesson.ledger().ok
        before = state_of(stack)
        stack.lesson("04").subscribe("ada", url="http://127.0.0.1:9/interrupted")
        again = stack.lesson("04")
        assert stack.database.user_exists(outsider)
        assert again.subscriptions() == []
        assert [lesson.ledger(wait=0).verdict().split(",")[2] for lesson in (other, similar)] == [" 1 received", " 1 received"]
        again.close()
        after = state_of(stack)
        for user in USERS:
            del after["inboxes"][f"lesson 04: {user}"]
        assert after == before


# --- one run after the other -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "ids"), [("01", (101, 102, 103)), ("9", (901, 902, 903)), ("10", (1001, 1002, 1003))])
def test_the_users_of_a_numbered_lesson_have_the_same_ids_and_sinks_in_every_run(stack: Stack, name: str, ids: tuple[int, ...]) -> None:
    for _ in range(2):
        lesson = stack.lesson(name)
        assert tuple(lesson.users.values()) == ids
        assert lesson.subscribe("ada", url=lesson.inbox("ada").url).sink_name == f"user-{ids[0]}-notifications"
        lesson.insert("ada", "Hello")
        assert lesson.inbox("ada").wait_for(1)[0].user_id == ids[0]
    lesson.close()


def test_other_users_have_ids_that_no_numbered_lesson_uses(stack: Stack) -> None:
    with stack.lesson("orders") as lesson:
        user = stack.database.create_user("a user of the app")
        assert min(*lesson.users.values(), user) > 9_999


def test_ids_are_kept_for_lessons_once_and_never_given_out_twice(database_url: str) -> None:
    database = Database(database_url)
    database.set_up(None)
    for expected in (4, 10_000, 10_001):
        assert database.create_user("a user of the app") == expected
        with database.connect() as connection:
            reserve_ids(connection)


def test_a_lesson_leaves_an_id_that_somebody_else_has_to_them(stack: Stack) -> None:
    run_sql(stack, "insert into users (id, name) values (502, 'a user of the app')")
    theirs = stack.subscriptions.subscribe(502, "http://127.0.0.1:9/theirs")
    for _ in range(2):
        lesson = stack.lesson("05")
        ada, ben, cy = lesson.users.values()
        assert (ada, cy) == (501, 503)
        assert ben > 9_999
    lesson.close()
    assert stack.subscriptions.list(502)[0].sink_id == theirs.sink_id
    stack.subscriptions.unsubscribe_all([502])
    run_sql(stack, "delete from users where id = 502")


def test_a_sink_whose_user_was_deleted_sends_nothing_to_the_next_run(stack: Stack) -> None:
    first = stack.lesson("01")
    subscribe_all(first)
    run_sql(stack, "delete from users where id = any(%s)", list(first.users.values()))
    with stack.lesson("01") as lesson:
        lesson.subscribe("ben", url=lesson.inbox("ben").url)
        lesson.insert("ada", "nobody subscribed")
        lesson.insert("ben", "Hello, Ben")
        lesson.inbox("ben").wait_for(1)
        assert [sink.name for sink in stack.sequin.sinks()] == ["user-102-notifications"]
        assert lesson.inbox("ada").count() == 0


@pytest.mark.parametrize("names", [["06"] * 4, ["07", "08", "09", "11"], ["1", "01", "1", "01"]], ids=" ".join)
def test_lessons_that_are_started_at_once_all_start_and_each_has_its_own_users(stack: Stack, names: list[str]) -> None:
    with ThreadPoolExecutor(len(names)) as pool:
        lessons = list(pool.map(stack.lesson, names))
    labels = [f"lesson {name}: {user}" for name in sorted(set(names)) for user in USERS]
    users = [(number, label) for number, label in stack.database.users() if label in labels]
    assert sorted(label for _, label in users) == labels
    assert len({number for number, _ in users}) == len(labels)
    for lesson in lessons:
        lesson.close()
    assert not [label for _, label in stack.database.users() if label in labels]


def start_elsewhere(stack: Stack, name: str) -> None:
    """Start a lesson as another kernel does."""
    code = f"from userhooks import Stack; Stack.attach().lesson({name!r})"
    environment = {**os.environ, "USERHOOKS_HOME": str(stack.settings.home), **dict.fromkeys(PORT_VARIABLES.values(), "0")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


USES: dict[str, Callable[[Lesson, Inbox], object]] = {
    "user": lambda lesson, inbox: lesson.user("ada"),
    "inbox": lambda lesson, inbox: lesson.inbox("ada"),
    "subscribe": lambda lesson, inbox: lesson.subscribe("ada", url=inbox.url),
    "subscriptions": lambda lesson, inbox: lesson.subscriptions(),
    "insert": lambda lesson, inbox: lesson.insert("ada", "x"),
    "generate": lambda lesson, inbox: lesson.generate(rate=10, count=1),
    "backfill": lambda lesson, inbox: lesson.backfill("ada"),
    "ledger": lambda lesson, inbox: lesson.ledger(),
    "WAL ledger": lambda lesson, inbox: lesson.ledger(wal=True),
    "unfiltered sink": lambda lesson, inbox: lesson.add_unfiltered_sink("ada"),
    "serve": lambda lesson, inbox: lesson.serve(Accepting),
    "schema": lambda lesson, inbox: lesson.schema(),
    "wait_for": lambda lesson, inbox: inbox.wait_for(1, timeout=30),
    "wait_for_attempts": lambda lesson, inbox: inbox.wait_for_attempts(1, timeout=30),
    "messages": lambda lesson, inbox: inbox.messages(),
    "requests": lambda lesson, inbox: inbox.requests(),
    "count": lambda lesson, inbox: inbox.count(),
    "respond": lambda lesson, inbox: inbox.respond(status=500),
    "clear": lambda lesson, inbox: inbox.clear(),
    "iteration": lambda lesson, inbox: iter(inbox),
}


def refusals(lesson: Lesson, inbox: Inbox) -> set[tuple[str, str]]:
    """Use the lesson and its inbox in every way, and return what the errors say."""
    said = set()
    for name, use in USES.items():
        with pytest.raises(NotFound) as caught:
            print(name, use(lesson, inbox))
        said.add((caught.value.what, caught.value.remedy))
    return said


def test_a_lesson_that_was_started_again_elsewhere_says_so_at_every_use_and_leaves_the_new_run_alone(stack: Stack) -> None:
    old = stack.lesson("02")
    inbox, ledger = old.inbox("ada"), old.ledger(wal=True)
    start_elsewhere(stack, "02")
    [(what, remedy)] = refusals(old, inbox)
    assert what == "Lesson 02 was started again in another notebook or kernel."
    assert "this notebook's first cell again" in remedy
    with pytest.raises(NotFound, match="another notebook"):
        ledger.verdict()
    with pytest.raises(NotFound, match="another notebook"):
        old.close()
    with old:
        pass
    assert {number for number, label in stack.database.users() if label.startswith("lesson 02: ")} == {201, 202, 203}
    with stack.lesson("02"):
        pass


def test_a_lesson_that_was_started_again_in_the_same_kernel_says_to_run_the_cells_above(stack: Stack) -> None:
    old = stack.lesson("02")
    inbox = old.inbox("ada")
    with stack.lesson("02") as lesson:
        server = lesson.serve(Accepting)
        eventually(lambda: refused(old), what="the old one to notice")
        [(what, remedy)] = refusals(old, inbox)
        assert what == "Lesson 02 was started again."
        assert "Run All Above" in remedy
        old.close()
        assert reached(server.url)
        assert lesson.insert("ada", "Hello") > 0


def test_panels_of_a_lesson_that_was_started_again_say_so(stack: Stack) -> None:
    old = stack.lesson("02")
    subscribe, dial = SubscribePanel(old), FaultDial(old)
    try:
        with stack.lesson("02"):
            eventually(lambda: refused(old), what="the old one to notice")
            subscribe.button.click()
            assert "Lesson 02 was started again." in subscribe.state.value
            dial.button.click()
            assert "Lesson 02 was started again." in dial.state.value
            eventually(lambda: "Lesson 02 was started again." in dial.trouble.value)
    finally:
        dial.close()


def refused(lesson: Lesson) -> bool:
    try:
        lesson.inbox("ada")
    except NotFound:
        return True
    return False


def test_a_lesson_that_was_closed_says_how_to_start_it(stack: Stack) -> None:
    lesson = stack.lesson("02")
    inbox = lesson.inbox("ada")
    lesson.close()
    eventually(lambda: refused(lesson), what="it to notice")
    [(what, remedy)] = refusals(lesson, inbox)
    assert what == "Lesson 02 was closed."
    assert "first cell again" in remedy
    lesson.close()


def test_traffic_of_an_earlier_run_ends_when_the_lesson_is_started_again(stack: Stack) -> None:
    old = stack.lesson("02")
    with ThreadPoolExecutor(1) as pool:
        traffic = pool.submit(old.generate, rate=200, seconds=60, progress=lambda rows: None)
        eventually(lambda: rows_of(stack, old.user("ada")) > 5, what="traffic")
        with stack.lesson("02"), pytest.raises(NotFound, match="started again"):
            traffic.result(timeout=10)


def rows_of(stack: Stack, user: int) -> int:
    with stack.database.connect() as connection:
        return len(connection.execute("select from notifications where user_id = %s", [user]).fetchall())


# --- the WAL ledger --------------------------------------------------------------------------------------------------------

LEDGER_SLOTS = "select count(*) from pg_replication_slots where slot_name like 'userhooks_ledger_%'"


def slots(stack: Stack) -> int:
    with stack.database.connect() as connection:
        row = connection.execute(LEDGER_SLOTS).fetchone()
    return int(row[0]) if row else -1


def run_sql(stack: Stack | Clients, statement: str, *values: object) -> None:
    with stack.database.connect() as connection:
        connection.execute(statement.encode(), values)


def test_every_kind_of_change_is_in_the_ledger_by_the_wal(stack: Stack, lesson: Lesson) -> None:
    subscribe_all(lesson)
    ada, ben = lesson.user("ada"), lesson.user("ben")
    lesson.subscribe("ada", url=f"{lesson.inbox('ada').url}/second")
    with lesson.ledger(wal=True) as ledger:
        generated = lesson.generate(rate=200, count=150, mix={"insert": 4, "update": 2, "delete": 1}, seed=5)
        first, second = lesson.insert("ada", "one"), lesson.insert("ada", "two")
        run_sql(stack, "update notifications set user_id = %s where id = %s", ben, first)
        run_sql(stack, "update notifications set id = id + 1000000 where id = %s", second)
        run_sql(stack, "delete from notifications where id = %s", first)
    assert f"{generated.changes + 5} committed" in ledger.verdict()
    assert "0 lost, 0 duplicated, 0 foreign, order kept, 3 withheld" in ledger.verdict(), ledger.problems()
    assert ledger.ok
    frame = ledger.frame()
    assert set(frame["action"]) == {"insert", "update", "delete"}
    assert frame[frame["row"] == second + 1_000_000]["action"].to_list() == ["update", "update"], "both of Ada's sinks"
    assert set(frame[frame["state"] == "withheld"]["user_id"]) == {ada, ben}
    assert slots(stack) == 0


def test_the_ledger_by_the_wal_waits_for_what_is_owed_and_names_what_does_not_come(lesson: Lesson) -> None:
    subscribe_all(lesson)
    ledger = lesson.ledger(wal=True, wait=0.3)
    row = lesson.insert("ada", "comes")
    lesson.inbox("ada").wait_for(1)
    lesson.inbox("ada").respond(status=503)
    run_sql(lesson.clients, "update notifications set message = 'does not come' where id = %s", row)
    assert ledger.problems() == [f"lost: the update of row {row} of user {lesson.user('ada')} never reached {sink_of(lesson, 'ada')}"]
    lesson.inbox("ada").respond()
    eventually(lambda: ledger.ok, within=20, what="the retry")
    ledger.close()
    assert ledger.verdict().startswith("2 committed, 2 expected, 2 received, 0 lost")


def sink_of(lesson: Lesson, user: str) -> str:
    return lesson.clients.subscriptions.list(lesson.user(user))[0].sink_name


def test_a_kernel_that_is_killed_leaves_no_slot(stack: Stack) -> None:
    code = (
        "import sys, time; from userhooks.ledger.recording import Recording\n"
        "recording = Recording(*sys.argv[1:]); print('ready', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, stack.database_url, stack.sequin.publication()]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as kernel:
        assert kernel.stdout
        assert kernel.stdout.readline() == b"ready\n"
        assert slots(stack) == 1
        kernel.kill()
    eventually(lambda: slots(stack) == 0, what="the slot to go")


def test_a_database_without_a_slot_to_spare_says_so(stack: Stack) -> None:
    with stack.database.connect() as connection:
        free = "select current_setting('max_replication_slots')::int - count(*) from pg_replication_slots"
        for n in range(connection.execute(free).fetchall()[0][0]):
            # The slots are temporary, so they are dropped with the connection.
            connection.execute("select pg_create_physical_replication_slot(%s, false, true)", [f"taken_{n}"])
        with pytest.raises(DatabaseUnsuitable, match="no replication slot left"):
            Recording(stack.database_url, stack.sequin.publication())
    assert slots(stack) == 0


def test_a_recorder_that_is_gone_is_said_and_not_taken_for_silence(lesson: Lesson) -> None:
    ledger = lesson.ledger(wal=True)
    with lesson.clients.database.connect() as connection:
        connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'userhooks ledger'")
    for _ in range(2):
        with pytest.raises(UserhooksError, match=r"recorder has stopped|cannot read the WAL"):
            ledger.verdict()
    with pytest.raises(UserhooksError, match=r"recorder has stopped"):
        ledger.close()


def test_a_ledger_whose_cell_failed_or_whose_lesson_was_closed_has_no_result_rather_than_a_wrong_one(stack: Stack) -> None:
    lesson = stack.lesson("01")
    subscribe_all(lesson)
    failed, closed = lesson.ledger(wal=True), lesson.ledger(wal=True)

    def cell() -> None:
        with failed:
            lesson.insert("ada", "committed, received, and not in the recording as it was read last")
            lesson.inbox("ada").wait_for(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cell()
    closed_before = lesson.ledger(wal=True)
    closed_before.close()
    lesson.close()
    for ledger in (failed, closed):
        assert "no result" in repr(ledger)
        assert "no result" in ledger._repr_html_()
        with pytest.raises(UserhooksError, match="ended without a result") as caught:
            ledger.verdict()
        assert "lesson.ledger(wal=True)" in caught.value.remedy
    assert closed_before.verdict().startswith("0 committed")


@pytest.mark.parametrize("seed", range(3))
def test_the_ledger_by_the_wal_agrees_with_an_independent_count_of_a_real_run_with_faults(lesson: Lesson, seed: int) -> None:
    """Compare the verdict with a count from the inboxes' requests and the generator's result, without the WAL."""
    subscribe_all(lesson)
    lesson.inbox("ada").respond([{"percent": 20, "seed": seed, "status": 500}])
    lesson.inbox("ben").respond([{"effect": "reset"}])
    with lesson.ledger(wal=True, wait=30) as ledger:
        generated = lesson.generate(rate=300, count=60, mix={"insert": 3, "update": 1, "delete": 1}, seed=seed)
        eventually(lambda: most_refusals(lesson, "ben") > 1, within=30, what="an attempt that is repeated in vain")
        for user in USERS:
            lesson.inbox(user).respond()  # otherwise, an unlucky row is retried for longer than a test should take
    assert most_refusals(lesson, "ada") > 0
    accepted = [
        (user, message.sink_id, message.idempotency_key)
        for user in USERS
        for request in lesson.inbox(user).received()
        if request.accepted
        for message in request.messages()
    ]
    all_of = generated.changes
    assert len(accepted) == len(set(accepted)) == all_of
    counted = f"{all_of} committed, {all_of} expected, {all_of} received, 0 lost, 0 duplicated, 0 foreign, order kept"
    assert ledger.verdict().startswith(counted)


def most_refusals(lesson: Lesson, user: str) -> int:
    """Return the highest number of times that the inbox refused any single message."""
    refused = [request for request in lesson.inbox(user).received() if not request.accepted]
    times = Counter((message.sink_id, message.idempotency_key) for request in refused for message in request.messages())
    return max(times.values(), default=0)


# --- the fault dial --------------------------------------------------------------------------------------------------------


def test_the_fault_dial_sets_a_receiver_shows_the_call_and_heals_again(lesson: Lesson) -> None:
    subscribe_all(lesson)
    dial = FaultDial(lesson)
    try:
        dial.user.value, dial.fails.value = "ben", 100
        assert "lesson.inbox(&quot;ben&quot;).respond([{&#x27;percent&#x27;: 100.0" in dial.call.value
        dial.button.click()
        assert "Ben: 100% answered 500." in dial.state.value
        lesson.insert("ben", "refused at first")
        eventually(lambda: dial.refresh().query("user == 'ben'")["refused"].sum() >= 1)
        assert dial.refresh()["waiting"].max() == 1
        dial.press("Clear all faults")
        assert dial.fails.value == 0
        lesson.inbox("ben").wait_for(1)
        eventually(lambda: dial.refresh().query("user == 'ben'")["waiting"].iloc[-1] == 0)
        assert [text for _, text in dial.marks] == ["Ben: 100% answered 500", "Ben: no faults"]
        assert "Ben: no faults" in dial.picture.value
    finally:
        dial.close()


def test_the_fault_dial_pauses_and_resumes_a_sink_and_kills_and_restarts_the_engine(lesson: Lesson) -> None:
    subscribe_all(lesson)
    dial = FaultDial(lesson)
    try:
        dial.press("Pause the sink")
        assert lesson.subscriptions()[0].status == "paused"
        assert f"stack.subscriptions.pause(&quot;{lesson.subscriptions()[0].sink_name}&quot;)" in dial.call.value
        lesson.insert("ada", "waits")
        dial.press("Resume the sink")
        lesson.inbox("ada").wait_for(1)
        dial.press("Kill the engine")
        assert "stack.kill(&quot;sequin&quot;)" in dial.call.value
        assert "The engine is killed. It stays down until" in dial.state.value
        lesson.insert("ben", "while nobody reads")
        dial.press("Restart the engine")
        lesson.inbox("ben").wait_for(1)
        dial.press("Restart Postgres")
        assert "Postgres is restarted." in dial.state.value
        lesson.insert("ben", "after the restart")
        lesson.inbox("ben").wait_for(2)
        assert lesson.ledger().complete
        assert [text for _, text in dial.marks] == [
            "Ada: sink paused",
            "Ada: sink resumed",
            "The engine is killed",
            "The engine is restarted",
            "Postgres is restarted",
        ]
    finally:
        dial.close()


def test_panels_of_a_stopped_stack_say_so_and_start_it_with_what_they_had(stack: Stack, lesson: Lesson) -> None:
    subscribe_all(lesson)
    subscribe, inbox, dial = SubscribePanel(lesson), InboxPanel(lesson), FaultDial(lesson)
    try:
        stack.stop()
        subscribe.button.click()
        assert "Not done." in subscribe.state.value
        assert "is not available" in subscribe.state.value
        eventually(lambda: "Not updated." in inbox.state.value and "The inspector does not answer" in inbox.state.value)
        eventually(lambda: "Cannot update the charts: The" in dial.trouble.value)
        dial.button.click()
        eventually(lambda: {panel.start.layout.display for panel in (subscribe, inbox, dial)} == {None}, what="the offers to start it")
        subscribe.start.click()
        assert "The stack is running again." in subscribe.state.value
        subscribe.button.click()
        assert "Ada was subscribed already" in subscribe.state.value
        lesson.insert("ada", "after the start")
        eventually(lambda: "after the start" in inbox.table.value)
        eventually(lambda: "Cannot update" not in dial.trouble.value)
        eventually(lambda: {panel.start.layout.display for panel in (subscribe, inbox, dial)} == {"none"}, what="the offers to be gone")
        dial.button.click()
        assert "Ada: no faults." in dial.state.value
    finally:
        inbox.close()
        dial.close()
        stack.start(stack.settings)


def test_a_fault_dial_says_what_cannot_be_done(lesson: Lesson) -> None:
    first, dial = FaultDial(lesson), FaultDial(lesson)
    try:
        assert "A newer fault dial shows this lesson" in first.state.value
        dial.press("Pause the sink")
        assert "Not done." in dial.state.value
        assert "Ada has no sink.<br>Run lesson.subscribe(&quot;ada&quot;" in dial.state.value
        dial.fails.value = dial.busy.value = 60
        assert "add up to at most 100" in dial.call.value
        dial.seed.value = -5
        assert "Seed must be between 0 and 1,000,000; -5 was changed to 0." in dial.notice.value
        dial.button.click()
        assert "Not done." in dial.state.value
        assert "The percentages are 60 + 60 + 0 + 0." in dial.state.value
        assert not dial.marks
        with pytest.raises(InvalidInput, match="no button 'Kill Postgres'") as caught:
            dial.press("Kill Postgres")
        assert "Restart Postgres" in caught.value.remedy
    finally:
        dial.close()


def test_the_stacks_ledger_covers_all_users_with_an_inbox(stack: Stack) -> None:
    with stack.lesson("05") as one, stack.lesson("06") as two:
        subscribe_all(one)
        two.subscribe("ada", url=two.inbox("ada").url)
        two.subscribe("ben", url="http://127.0.0.1:9/elsewhere")
        for lesson in (one, two):
            lesson.insert("ada", "x")
            lesson.insert("ben", "x")
            lesson.inbox("ada").wait_for(1)
        one.inbox("ben").wait_for(1)
        assert stack_ledger(stack.clients).verdict().startswith("4 committed, 3 expected, 3 received, 0 lost, 0 duplicated, 0 foreign")
        unseen = "; not checked: 1 subscription whose receiver is not an inbox, 1 expected"
        assert stack_ledger(stack.clients).verdict().endswith(unseen)
        assert two.ledger().verdict().endswith(unseen)
        assert "not checked" not in one.ledger().verdict()


# --- the demo --------------------------------------------------------------------------------------------------------------


def test_the_demo_ends_with_a_good_verdict_and_removes_what_it_made(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    users = stack.database.users()
    assert demo.run(stack, rate=200, seconds=1) is True
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"200 committed, 200 expected, 200 received, 0 lost, 0 duplicated, 0 foreign, order kept, p99 \d+ ms; "
        r"backfill: 200 expected, 200 received, 0 lost",
        lines[-1],
    )
    assert stack.database.users() == users
    assert stack.subscriptions.list() == []


class Leaky(Lesson):
    """A lesson in which one of Ada's rows is also sent to Ben."""

    def generate(self, *args: Any, **options: Any) -> Generated:
        generated = super().generate(*args, **options)
        message = self.inbox("ada").wait_for(1)[0]
        body = {"record": message.record, "changes": None, "action": message.action, "metadata": message.metadata}
        httpx.post(self.inbox("ben").url, content=orjson.dumps({"data": [body]}), trust_env=False)
        return generated


def test_a_demo_that_leaks_fails_and_names_the_row(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    leaky = cast("Stack", SimpleNamespace(lesson=lambda name: Leaky(stack, name)))
    try:
        assert demo.run(leaky, rate=100, seconds=0.5) is False
        output = capsys.readouterr().out
        ada, ben = (next(number for number, name in stack.database.users() if name == f"lesson demo: {user}") for user in ("ada", "ben"))
        assert re.search(
            rf"foreign: insert of row \d+ of user {ada} reached the inbox of user {ben} through user-{ada}-notifications", output
        )
        assert ", 1 foreign," in output.splitlines()[-1]
    finally:
        stack.lesson("demo").close()


def sink_on_orders(lesson: Lesson, user: str) -> str:
    """Create a separate table for the lesson and a sink for it, using the API directly; return the sink's name."""
    stack, table = lesson.clients, f"{lesson.schema()}.orders"
    with stack.database.connect() as connection:
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table} (id serial PRIMARY KEY, customer_id int NOT NULL)".encode())
        publication = sql.Identifier(stack.sequin.publication())
        connection.execute(sql.SQL("ALTER PUBLICATION {} ADD TABLE {}").format(publication, sql.SQL(table)))
    stack.sequin.refresh_tables()
    name = f"{user}-orders"
    stack.sequin.create_endpoint(name, f"{lesson.inbox(user).url}/orders")
    stack.sequin.create_sink(name, endpoint=name, include_tables=[table], filter_function="none")
    return name


def test_a_table_of_a_lesson_goes_with_it_and_its_sinks_before_it(stack: Stack) -> None:
    with stack.lesson("other") as other:
        other.subscribe("ada", url=other.inbox("ada").url)
        before = state_of(stack)
        with stack.lesson("orders") as lesson:
            lesson.subscribe("ada", url=lesson.inbox("ada").url)
            sink_on_orders(lesson, "ada")
            stack.sequin.create_endpoint("without-a-sink", lesson.inbox("ben").url)  # the state after a kill between the two calls
            with stack.database.connect() as connection:
                connection.execute("INSERT INTO lesson_orders.orders (customer_id) VALUES (1)")
            [message] = lesson.inbox("ada").wait_for(1)
            assert message.table == "lesson_orders.orders"
        after = state_of(stack)
        assert {name: after[name] for name in ("users", "subscriptions", "sinks", "endpoints")} == {
            name: before[name] for name in ("users", "subscriptions", "sinks", "endpoints")
        }
        assert not stack.database.has_schema("lesson_orders")


def test_a_lesson_that_was_killed_half_way_begins_without_its_table(stack: Stack) -> None:
    sink = sink_on_orders(stack.lesson("orders"), "ben")
    with stack.lesson("orders") as again:
        assert sink not in {one.name for one in stack.sequin.sinks()}
        assert not stack.database.has_schema("lesson_orders")
        assert sink_on_orders(again, "ben") == sink


@pytest.mark.parametrize("older_by", [0, 1])
def test_rows_older_than_a_subscription_to_a_sequin_elsewhere_are_left_out(
    stack: Stack, lesson: Lesson, monkeypatch: pytest.MonkeyPatch, older_by: int
) -> None:
    elsewhere = replace(stack.settings, sequin_url="http://127.0.0.1:1")
    monkeypatch.setattr(lesson, "clients", replace(lesson.clients, settings=elsewhere))
    before = stack.database.wal_position()
    sink = lesson.subscribe("ben", url=lesson.inbox("ben").url).sink_id
    body = message(lesson.user("ben"), commit_lsn=before - older_by)
    body["metadata"]["consumer"]["id"] = sink
    assert httpx.post(lesson.inbox("ben").url, json=body, trust_env=False).status_code == 200
    assert lesson.inbox("ben").count() == len(lesson.inbox("ben").messages()) == 1 - older_by


def test_a_lesson_on_a_sequin_elsewhere_takes_away_the_subscriptions_of_others(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    first = stack.lesson("01")
    first.subscribe("ada", url=first.inbox("ada").url)
    app_user = stack.database.create_user("a user of the app")
    stack.subscriptions.subscribe(app_user, first.inbox("ben").url)
    stack.lesson("02")
    assert len(first.subscriptions()) == 1, "the engine does not mind how many there are"
    monkeypatch.setattr(stack, "settings", replace(stack.settings, sequin_url="http://127.0.0.1:1"))
    stack.lesson("03")
    assert first.subscriptions() == []
    assert [one.user_id for one in stack.subscriptions.list()] == [app_user]
    stack.subscriptions.unsubscribe_all([app_user])
    first.close()


def test_a_lesson_on_a_sequin_elsewhere_takes_away_the_sinks_that_killed_lessons_left(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_users = capacity.LoadUsers(stack)
    load_users.grow(3, lambda _: None)
    load_users.counter.close()
    orders = stack.lesson("orders")
    sink_on_orders(orders, "ada")
    app_user = stack.database.create_user("a user of the app")
    kept = stack.subscriptions.subscribe(app_user, orders.inbox("ben").url)
    assert len(stack.sequin.sinks()) == 5
    monkeypatch.setattr(stack, "settings", replace(stack.settings, sequin_url="http://127.0.0.1:1"))
    with stack.lesson("03"):
        assert [sink.id for sink in stack.sequin.sinks()] == [kept.sink_id]
    monkeypatch.undo()
    stack.subscriptions.unsubscribe_all([app_user])
    capacity.LoadUsers(stack).close()
    orders.close()


def test_a_schema_that_is_somebody_elses_is_not_a_lessons(stack: Stack, lesson: Lesson) -> None:
    with stack.database.connect() as connection:
        connection.execute("CREATE SCHEMA lesson_01")
    try:
        with pytest.raises(DatabaseUnsuitable, match="did not create"):
            lesson.schema()
        stack.lesson("01").close()
        with stack.database.connect() as connection:
            assert connection.execute("SELECT to_regnamespace('lesson_01') IS NOT NULL").fetchone() == (True,)
    finally:
        with stack.database.connect() as connection:
            connection.execute("DROP SCHEMA lesson_01")


def test_what_a_lesson_removes_reaches_no_sink_of_a_user_with_the_same_id(stack: Stack) -> None:
    """A separate Sequin server may send the changes of the last seconds to the new sinks of the lesson's next run."""
    inbox = stack.inspector.inbox("observer")
    lesson = stack.lesson("07")
    try:
        lesson.subscribe("ada", url=lesson.inbox("ada").url)
        stack.sequin.create_endpoint("observer", inbox.url)
        stack.sequin.create_sink(
            "observer",
            endpoint="observer",
            include_tables=["public.notifications"],
            filter_function=FUNCTION_NAME,
            annotations={"user_id": str(lesson.user("ada"))},
        )
        lesson.insert("ada", "Removed with the lesson")
        inbox.wait_for(1)
        lesson = stack.lesson("07")
        lesson.insert("ada", "The next run's")
        inbox.wait_for(1, lambda message: message.record["message"] == "The next run's")
        assert list(inbox.messages()["action"]) == ["insert", "insert"]
    finally:
        stack.sequin.delete_sink("observer")
        lesson.close()
