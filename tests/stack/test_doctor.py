"""`userhooks doctor`: every problem is reported with a remedy, and a healthy stack has no problems."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.engine_program import EngineProgram
from tests.ports import free_port
from tests.stack.conftest import Installation
from tests.waiting import eventually
from userhooks import Stack
from userhooks.stack.doctor import (
    DISK_NEEDED,
    WAL_ALLOWED,
    Finding,
    judge_disk,
    judge_error,
    judge_path,
    judge_reach,
    judge_slot,
)
from userhooks.webhooks.database import Database
from userhooks.webhooks.subscriptions import FUNCTION_CODE, FUNCTION_NAME


def complaints(installation: Installation) -> dict[str, str]:
    """Return the doctor's failed checks, as a mapping from subject to finding and remedy. Also check the exit code."""
    done = installation.run("doctor")
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    failed = [(line, lines[number + 1]) for number, line in enumerate(lines) if line.startswith("WRONG")]
    assert done.returncode == (1 if failed else 0)
    assert all(remedy.strip() for _, remedy in failed)
    return {line.removeprefix("WRONG").strip().split(": ", 1)[0]: f"{line}\n{remedy}" for line, remedy in failed}


def test_before_the_first_start_it_says_what_to_run(installation: Installation) -> None:
    found = complaints(installation)
    assert list(found) == ["stack"]
    assert "not running: postgres, sequin, server, inspector" in found["stack"]
    assert "userhooks up --detach" in found["stack"]
    assert not installation.home.path.exists()


def test_a_stack_that_runs_is_fine_and_each_thing_that_breaks_in_it_is_named(installation: Installation) -> None:
    stack = Stack.start(installation.settings)
    with stack.inspector as inspector, stack.sequin as sequin:
        good = stack.subscriptions.subscribe(1, inspector.inbox("ada").url)
        assert complaints(installation) == {}

        nobody = f"http://127.0.0.1:{free_port()}/hook"
        dead = stack.subscriptions.subscribe(2, nobody)
        assert "does not accept connections" in complaints(installation)[f"{dead.sink_name}, URL"]
        stack.database.insert_notifications([(2, "x")])
        waiting = eventually(lambda: complaints(installation).get(dead.sink_name), what="the engine's complaint")
        assert "Sequin says" in waiting
        assert len(complaints(installation)) == 1, "a dead receiver is one thing"
        stack.subscriptions.unsubscribe(dead.sink_name)

        stack.subscriptions.pause(good.sink_name)
        assert f"PATCH /subscriptions/{good.sink_name}" in complaints(installation)[good.sink_name]
        sequin.delete_sink(good.sink_name)
        (gone,) = complaints(installation).values()
        assert "its sink no longer exists in Sequin" in gone
        assert f"userhooks subscribe 1 {good.url}" in gone

        again = stack.subscriptions.subscribe(1, good.url)
        with psycopg.connect(stack.database_url, autocommit=True) as connection:
            connection.execute("DELETE FROM users")
            connection.execute("ALTER TABLE notifications REPLICA IDENTITY DEFAULT")
            connection.execute(f"ALTER PUBLICATION {installation.home.publication} DROP TABLE notifications".encode())
        found = complaints(installation)
        assert "INSERT INTO users" in found["users"]
        assert "deletes carry no user_id" in found["replica identity"]
        assert "not in" in found["publication"]
        assert f"userhooks unsubscribe {again.sink_name}" in found[again.sink_name]
        installation.succeed("unsubscribe", again.sink_name)
        installation.succeed("up", "--detach")
        assert complaints(installation) == {}


def test_trouble_with_postgres_is_named_with_what_to_run(installation: Installation) -> None:
    stack = Stack.start(installation.settings)
    home = installation.home
    with stack.inspector as inspector, stack.sequin, psycopg.connect(stack.database_url, autocommit=True) as connection:
        sink = stack.subscriptions.subscribe(1, inspector.inbox("ada").url).sink_name
        connection.execute("select pg_terminate_backend(active_pid) from pg_replication_slots")

        def dropped() -> bool:
            query = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s and not active"
            return bool(connection.execute(query, [home.slot]).fetchall())

        eventually(dropped, every=0.005, what="the slot to be dropped")

        def reported_loss() -> str | None:
            """Return the finding about lost changes. Until the engine has reconnected, it reports the closed connection instead."""
            complaint = complaints(installation).get(sink, "")
            return complaint if "Postgres has lost the changes committed between" in complaint else None

        lost = eventually(reported_loss, what="the doctor to report the loss")
        assert f"Run userhooks backfill {sink}" in lost
        installation.succeed("backfill", sink, "--wait")
        assert complaints(installation) == {}

        connection.execute(f"DROP PUBLICATION {home.publication}".encode())
        connection.execute("INSERT INTO notifications (user_id, message) VALUES (1, 'unpublished')")
        assert f"{home.publication} is missing" in complaints(installation)["publication"]
        assert "Run userhooks up" in eventually(lambda: complaints(installation).get(sink), what="the engine's complaint")


def test_rows_that_row_level_security_hides_are_named_at_the_database_and_at_the_subscription(
    install: Callable[..., Installation], database_url: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("create role reader login replication password 'reader'")
        admin.execute(sql.SQL("grant create on database {} to reader").format(sql.Identifier(admin.info.dbname)))
        admin.execute("grant create on schema public to reader")
        try:
            own = install(DATABASE_URL=psycopg.conninfo.make_conninfo(database_url, user="reader", password="reader"))
            stack = Stack.start(own.settings)
            with stack.inspector as inspector, stack.sequin:
                subscription = stack.subscriptions.subscribe(1, inspector.inbox("ada").url)
                admin.execute("alter table notifications enable row level security, force row level security")
                stack.subscriptions.backfill(subscription.sink_name)
                remedy = "Run ALTER ROLE reader BYPASSRLS;"
                found = eventually(
                    lambda: (c := complaints(own)).keys() >= {"row-level security", subscription.sink_name} and c, what="both complaints"
                )
            assert remedy in found["row-level security"]
            assert remedy in found[subscription.sink_name]
        finally:
            own.succeed("down")
            admin.execute("drop owned by reader cascade")
            admin.execute("drop role reader")


@pytest.mark.parametrize("part", ["postgres", "sequin", "server", "inspector"])
def test_a_part_that_died_is_named_with_its_log(running: Installation, part: str) -> None:
    Stack.attach(running.settings).kill(part)
    assert str(running.home.log(part)) in complaints(running)[part]


def test_an_inspector_that_died_is_one_finding_whatever_is_subscribed_to_its_inboxes(running: Installation) -> None:
    stack = Stack.attach(running.settings)
    with stack.inspector as inspector, stack.sequin:
        sinks = [stack.subscriptions.subscribe(user, inspector.inbox(f"user {user}").url).sink_name for user in (1, 2)]
        stack.kill("inspector")
        assert list(complaints(running)) == ["inspector"]
        stack.database.insert_notifications([(1, "x"), (2, "x")])
        eventually(lambda: all(stack.sequin.sink(sink).error for sink in sinks), what="the sinks' complaints")
        assert list(complaints(running)) == ["inspector"]
        for sink in sinks:
            stack.subscriptions.unsubscribe(sink)


def test_a_filter_function_that_somebody_changed_is_said_everywhere_until_up_puts_it_back(running: Installation) -> None:
    stack = Stack.attach(running.settings)
    with stack.inspector as inspector, stack.sequin as sequin:
        stack.subscriptions.subscribe(1, inspector.inbox("ada").url)
        assert "filter function" not in running.succeed("up", "--detach")
        assert "filter_function" not in running.status()["sequin"]
        sequin.ensure_function(FUNCTION_NAME, "filter", "def filter(_action, _record, _changes, _metadata) do\n  true\nend\n")
        assert "Run userhooks up" in complaints(running)["filter function"]
        assert "filter function in Sequin was changed" in running.succeed("status")
        assert running.status()["sequin"]["filter_function"] == "different"
        judged = running.run("ledger")
        assert judged.returncode == 1
        assert judged.stdout.splitlines()[-1].endswith("; filter function changed")
        assert "has been restored" in running.succeed("up", "--detach")
        assert sequin.function_state(FUNCTION_NAME, "filter", FUNCTION_CODE) == "same"
        assert complaints(running) == {}
        assert "filter function changed" not in running.run("ledger").stdout
        stack.subscriptions.unsubscribe("user-1-notifications")


def test_a_home_that_others_may_read_is_named(installation: Installation) -> None:
    installation.succeed("up", "--detach")
    installation.home.secrets_file.chmod(0o644)
    assert f"chmod go-rwx {installation.home.secrets_file}" in complaints(installation)["home"]


def test_a_wrong_token_of_a_real_server_is_named(install: Callable[..., Installation], database_url: str, tmp_path: Path) -> None:
    Database(database_url).set_up("own_pub")
    engine = EngineProgram(database_url, tmp_path, publication="own_pub").start()
    try:
        installation = install(DATABASE_URL=database_url, SEQUIN_URL=engine.url, SEQUIN_API_TOKEN="wrong")
        assert "token" in complaints(installation)["API token"]
        installation.environment.update(SEQUIN_API_TOKEN=engine.token, SEQUIN_DATABASE="other")
        assert "other" in complaints(installation)["Sequin's database"]
    finally:
        engine.stop()
    assert engine.url in complaints(installation)["Sequin"]


def test_a_database_that_was_never_set_up_is_a_finding_like_any_other(
    install: Callable[..., Installation], database_url: str, tmp_path: Path
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE PUBLICATION own_pub FOR TABLES IN SCHEMA public")
    engine = EngineProgram(database_url, tmp_path, publication="own_pub").start()
    try:
        found = complaints(install(DATABASE_URL=database_url, SEQUIN_URL=engine.url, SEQUIN_API_TOKEN=engine.token))
        assert list(found) == ["stack", "tables"]
        assert "Run userhooks up" in found["tables"]
    finally:
        engine.stop()


def test_how_postgres_runs_is_looked_at_for_our_own_only(install: Callable[..., Installation], database_url: str) -> None:
    own, elsewhere = install("own"), install("elsewhere", DATABASE_URL=database_url)
    about = re.compile(r"^ok +(path to the database|user): ", re.MULTILINE)
    assert about.search(own.run("doctor").stdout)
    assert not about.search(elsewhere.run("doctor").stdout)


def test_a_database_that_does_not_answer_is_named(install: Callable[..., Installation]) -> None:
    port = free_port()
    installation = install(DATABASE_URL=f"postgresql://postgres:x@127.0.0.1:{port}/app")
    assert str(port) in complaints(installation)["database"]


def test_a_database_that_went_down_under_a_running_stack_is_one_finding(running: Installation) -> None:
    stack = Stack.attach(running.settings)
    with stack.inspector as inspector, stack.sequin:
        stack.subscriptions.subscribe(1, inspector.inbox("ada").url)
        stack.kill("postgres")
        assert list(complaints(running)) == ["postgres"]
        stack.restart("postgres")
        stack.subscriptions.unsubscribe("user-1-notifications")


# --- single checks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "fine"),
    [
        ((True, "reserved", 0), True),
        ((True, "extended", WAL_ALLOWED), True),
        ((True, "reserved", WAL_ALLOWED + 1), False),
        ((True, "unreserved", 0), False),
        ((False, "reserved", 0), False),
        ((False, "lost", 0), False),
        (None, False),
    ],
)
def test_a_slot_is_judged_by_being_read_intact_and_near(row: tuple[bool, str, int] | None, fine: bool) -> None:
    assert judge_slot("userhooks_x", row).fine is fine


@pytest.mark.parametrize(
    ("error", "what", "remedy"),
    [
        ("[http_endpoint]: Unexpected status code: 500", "status code: 500", "what the receiver answers"),
        ("The role ada may not replicate. Run ALTER ROLE ada REPLICATION;", "may not replicate", "Run ALTER ROLE ada REPLICATION;"),
        (
            "Postgres has lost the changes between 0/1 and 0/2. Start a backfill of a.b to bring it.",
            "has lost",
            "userhooks backfill sink-1",
        ),
        ("[filter]: argument error (line: 2)", "argument error (line: 2)", "Correct the function in Sequin"),
        ("[sink_pipeline]: [function]: bad argument (line: 2)", "bad argument (line: 2)", "Correct the function in Sequin"),
    ],
)
def test_what_a_sinks_health_says_comes_with_what_to_do(error: str, what: str, remedy: str) -> None:
    finding = judge_error("sink-1", error)
    assert what in finding.text
    assert remedy in finding.remedy


def test_a_full_disk_is_named() -> None:
    assert judge_disk(Path("/home"), DISK_NEEDED).fine
    assert "0.5 GB free" in str(judge_disk(Path("/home"), DISK_NEEDED // 2))


def test_the_folder_that_keeps_nobody_from_the_database_is_named(tmp_path: Path) -> None:
    below = tmp_path / "closed" / "below"
    below.mkdir(parents=True)
    below.parent.chmod(0o700)
    assert not judge_path(below).fine
    assert judge_path(Path("/")).fine


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_loopback_is_wrong_for_a_sequin_elsewhere_unless_webhooks_arrive_there(host: str) -> None:
    def never(_host: str, _port: int) -> str:
        raise AssertionError("tried from here, though it is sent from there")

    def judge(host: str, delivers: bool | None) -> Finding:
        return judge_reach("sink", f"http://{host}:3334/in/x", own_engine=False, delivers=delivers, connect=never)

    assert "USERHOOKS_INSPECTOR_PUBLIC_URL" in judge(host, False).remedy
    assert not judge(host, False).fine
    assert judge(host, True).fine
    assert "webhooks arrive" in judge(host, True).text
    assert judge(host, None).fine
    assert "first webhook" in judge(host, None).text
    assert judge("example.com", None).fine


def test_the_local_engines_urls_are_tried_at_their_port() -> None:
    tried: list[tuple[str, int]] = []

    def connect(host: str, port: int) -> str:
        tried.append((host, port))
        return ""

    for url in ("https://example.com/a", "http://example.com/a", "http://[::1]:8080/"):
        assert judge_reach("sink", url, own_engine=True, delivers=None, connect=connect).fine
    assert tried == [("example.com", 443), ("example.com", 80), ("::1", 8080)]
