"""A Sequin server that is stuck: `doctor` and the wait for a backfill report it, and what to do."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.real_like.server import IN_SEQUIN, installation_on, real_like_server
from tests.receiver import Receiver
from userhooks.errors import DeliveriesMissing
from userhooks.stack import doctor
from userhooks.stack.stack import Stack


def test_doctor_and_a_wait_report_stuck_replication_and_a_stuck_backfill_with_a_remedy(
    database_url: str, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "OBSERVATION_SECONDS", 1.0)
    monkeypatch.setattr(doctor, "STALLED_BACKFILL_SECONDS", 0.0)
    with (
        real_like_server(database_url, tmp_path, pace=0.01) as server,
        installation_on(server, database_url, tmp_path / "home") as installation,
        psycopg.connect(database_url, autocommit=True) as connection,
    ):
        installation.succeed("up", "--detach")
        stack = Stack.attach(installation.settings)
        with stack.sequin:
            sink = stack.subscriptions.subscribe(1, receiver.url).sink_name

            def complaints() -> dict[str, str]:
                return {finding.about: str(finding) for finding in doctor.examine(installation.settings) if not finding.fine}

            assert complaints() == {}
            connection.execute("alter table notifications add column due date")
            connection.execute("insert into notifications (user_id, message, due) values (1, 'x', '-infinity')")
            receiver.wait_for(1)
            handle = stack.subscriptions.backfill(sink)
            with pytest.raises(DeliveriesMissing, match="is active") as caught:
                handle.wait(timeout=1)
            assert "-infinity" in caught.value.remedy
            assert "-infinity" in complaints()[f"{sink}, backfill"]
            handle.cancel()
            connection.execute("update notifications set due = null")
            stack.subscriptions.backfill(sink).wait(timeout=20)
            assert complaints() == {}

            connection.execute("alter table notifications add column pair int[]")
            connection.execute("insert into notifications (user_id, message, pair) values (1, 'y', '[0:1]={1,2}')")
            stuck = complaints()
            assert list(stuck) == ["replication"]
            assert f"pg_replication_slot_advance('{IN_SEQUIN['slot']['name']}', pg_current_wal_lsn())" in stuck["replication"]
