"""Messages about Postgres problems, and which sinks report lost changes for how long."""

from __future__ import annotations

from dataclasses import replace

import pytest

from userhooks.engine.capture.lost_changes import LostRange, describe_lost, to_backfill
from userhooks.engine.postgres.diagnosis import (
    Names,
    gone_back,
    of_error,
    other_cluster,
    publication_missing,
    silent,
    slot_being_made,
    slot_unfit,
)
from userhooks.engine.postgres.lsn import show_lsn
from userhooks.engine.resources import BackfillResource, SinkResource, Source, Table

NAMES = Names("db.example:5432", "app", "ada", "hooks", "hooks_pub")

SAID = {
    'connection failed: FATAL:  password authentication failed for user "ada"': ("refuses the password of the role ada", "DATABASE_URL"),
    'FATAL:  role "ada" does not exist': ("no role ada", "CREATE ROLE ada"),
    'FATAL:  database "app" does not exist': ("no database app", "DATABASE_URL"),
    'FATAL:  role "ada" is not permitted to log in': ("may not log in", "ALTER ROLE ada LOGIN"),
    "FATAL:  permission denied to start WAL sender\nDETAIL:  Only roles with …": ("may not replicate", "ALTER ROLE ada REPLICATION;"),
    "permission denied to use replication slots": ("may not replicate", "ALTER ROLE ada REPLICATION;"),
    "permission denied for table notifications": ("may not read the table notifications", "GRANT SELECT ON notifications TO ada;"),
    'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "ada"': ("pg_hba.conf has no line", "pg_reload_conf"),
    "FATAL:  the database system is starting up": ("is starting up", "reconnects by itself"),
    "FATAL:  the database system is shutting down": ("is shutting down", "userhooks up"),
    "port 5432 failed: Connection refused\n\tIs the server running": ("Nothing answers at db.example:5432", "userhooks up"),
    "server closed the connection unexpectedly\n\tThis probably means": ("connection to Postgres at db.example:5432 was lost", "Start it"),
    "FATAL:  sorry, too many clients already": ("connections of Postgres at db.example:5432 are taken", "max_connections"),
    'FATAL:  number of requested standby connections exceeds "max_wal_senders" (currently 1)': ("WAL senders", "max_wal_senders"),
    "all replication slots are in use\nHINT:  Free one": ("All replication slots", "pg_drop_replication_slot"),
    'logical decoding requires "wal_level" >= "logical"': ("wal_level is not logical", "ALTER SYSTEM SET wal_level"),
    'replication slot "hooks" is active for PID 4711': ("in use by another process (PID 4711)", "pg_terminate_backend(4711)"),
    'could not write to file "pg_wal/xlogtemp.1": No space left on device': ("disk of Postgres at db.example:5432 is full", "Free some"),
    "recovery is in progress": ("is a standby", "primary"),
}


@pytest.mark.parametrize("text", SAID)
def test_an_error_is_said_in_words_with_what_to_do(text: str) -> None:
    what, remedy = SAID[text]
    found = of_error(text, NAMES)
    assert what in found.what
    assert remedy in found.remedy


def test_an_error_that_is_not_known_is_shown_as_it_is() -> None:
    assert of_error("cache lookup failed.\nDETAIL: odd", NAMES).what == "Postgres says: cache lookup failed; DETAIL: odd."
    assert of_error("", NAMES).what == "Postgres says: nothing."


def test_what_is_wrong_is_one_sentence_so_that_the_rest_is_what_to_do() -> None:
    unfit = [slot_unfit(NAMES, plugin=plugin, database=database) for plugin, database in ((None, None), ("x", "app"), ("pgoutput", "y"))]
    found = [of_error(text, NAMES) for text in SAID]
    found += [silent(NAMES, 5), publication_missing(NAMES), slot_being_made(NAMES), other_cluster("a is b"), gone_back("0/2", "0/1")]
    for one in (*found, *unfit):
        assert one is not None
        assert one.remedy
        assert str(one).partition(". ")[0] + "." == one.what


def test_a_slot_of_our_plugin_and_database_is_fit() -> None:
    assert slot_unfit(NAMES, plugin="pgoutput", database="app") is None


# --- lost changes ------------------------------------------------------------------------------------------------------

AT = "2026-01-02T03:04:05Z"
LOST = LostRange(100, 200, AT, "the slot was dropped", backfills=("running",))
TABLES = [Table("public", name, (), ("id",), "f") for name in ("a", "b")]
SINK = SinkResource("s", "s", "e")


def begun(table: str, *, at: str = AT, name: str = "b1", state: str = "active") -> BackfillResource:
    return BackfillResource(name, "s", ("public", table), state, at, at)  # type: ignore[arg-type]


def left(*backfills: BackfillResource, start: int = 50, sink: SinkResource = SINK) -> list[str]:
    return [name for _, name in to_backfill(LOST, {"s": start}, {"s": sink}, TABLES, backfills).get("s", [])]


def test_a_loss_stands_until_each_table_of_the_sink_has_a_backfill() -> None:
    assert left() == ["a", "b"]
    assert left(begun("a")) == ["b"]
    assert left(begun("a"), begun("b", at="2026-01-03T00:00:00Z")) == []
    assert left(sink=replace(SINK, source=Source(include_tables=(("public", "b"),)))) == ["b"]


def test_a_backfill_from_before_or_one_that_ended_early_does_not_count() -> None:
    assert left(begun("a", at="2026-01-02T03:04:04Z"), begun("b", name="running")) == ["a", "b"]
    assert left(begun("a", state="cancelled"), begun("b", state="failed")) == ["a", "b"]


def test_a_sink_that_began_after_the_loss_or_is_disabled_missed_nothing() -> None:
    assert left(start=200) == []
    assert left(start=199) == ["a", "b"]
    assert left(sink=replace(SINK, status="disabled")) == []


def test_a_loss_is_kept_and_said() -> None:
    assert LostRange.of_json(LOST.json()) == LOST
    said = describe_lost(LOST, [("public", "a"), ("public", "b")])
    assert said.startswith("Postgres has lost the changes committed between 0/64 and 0/C8 (the slot was dropped). Start a backfill")
    assert "public.a, public.b" in said
    assert show_lsn((2 << 32) + 255) == "2/FF"
