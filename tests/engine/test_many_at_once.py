"""Many endpoints and sinks in one YAML document: all are active when the call returns, or none exists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import PUBLICATION
from tests.engine_program import FILTER, EngineProgram
from tests.receiver import Receiver

Connection = psycopg.Connection[Any]


def document(receiver: Receiver, users: range) -> dict[str, str]:
    """Return a YAML document, written as JSON, with a filter function, and an endpoint and a sink for each user."""
    names = {user: f"user-{user}" for user in users}
    source = {"include_tables": ["public.notifications"]}
    return {
        "yaml": json.dumps(
            {
                "functions": [{"name": "rows-of-user", "type": "filter", "code": FILTER}],
                "http_endpoints": [{"name": name, "url": f"{receiver.url}/{user}"} for user, name in names.items()],
                "sinks": [
                    {
                        "name": name,
                        "database": "postgres",
                        "source": source,
                        "filter": "rows-of-user",
                        "annotations": {"user_id": str(user)},
                        "destination": {"type": "webhook", "http_endpoint": name},
                    }
                    for user, name in names.items()
                ],
            }
        )
    }


def test_each_of_them_is_owed_what_commits_after_the_answer_and_nothing_before(
    engine: EngineProgram, database: Connection, receiver: Receiver
) -> None:
    database.execute("insert into users (name) select 'user' from generate_series(4, 60)")
    database.execute("insert into notifications (user_id, message) select id, 'before' from users")
    engine.ask("POST", "/api/config/apply", document(receiver, range(1, 61)))
    database.execute("insert into notifications (user_id, message) select id, 'after' from users")
    receiver.wait_for(60)
    received = sorted((request.path, message["record"]["message"]) for request in receiver.requests for message in request.messages)
    assert received == sorted((f"/{user}", "after") for user in range(1, 61))


def test_none_is_there_when_the_store_has_no_room_for_all(
    database_url: str, database: Connection, receiver: Receiver, tmp_path: Path
) -> None:
    engine = EngineProgram(database_url, tmp_path, publication=PUBLICATION, store_max_pages=60).start()
    try:
        with pytest.raises(AssertionError, match=r"503 .*cannot write to its store"):
            engine.ask("POST", "/api/config/apply", document(receiver, range(1, 301)))
        assert engine.ask("GET", "/api/sinks")["data"] == []
        assert engine.ask("GET", "/api/destinations/http_endpoints")["data"] == []
        engine.ask("POST", "/api/config/apply", document(receiver, range(1, 3)))  # There is room for a few.
        database.execute("insert into notifications (user_id, message) values (2, 'hello')")
        receiver.wait_for(1)
    finally:
        engine.stop()
