"""A program that copies WAL changes, as output plugin payloads, from a separate slot to a file for as long as its parent runs.

It is a separate process because a kernel that generates traffic has no time to read the slot, which would then retain more and more WAL.
The slot is temporary, so Postgres drops it when the connection closes, however this program ends. `recording.py` starts and queries this
program, and `wal.py` decodes the file.
"""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import sys
from typing import Any

import psycopg

from userhooks.shared.child_process import read_config
from userhooks.shared.postgres_connections import connect

SLOT = "userhooks_ledger_{}"
POLL_SECONDS = 0.2
_START_MS = 10_000
_CREATE = "select lsn - '0/0'::pg_lsn from pg_create_logical_replication_slot(%s, 'pgoutput', temporary => true)"
_CHANGES = """
select data from pg_logical_slot_get_binary_changes(
    %s, null, 20000, 'proto_version', '1', 'publication_names', %s, 'messages', 'true')
"""
_QUOTED = "select quote_ident(%s)"


def main() -> None:
    """Create the slot, report its LSN on stdout, then copy changes to the file until stdin is closed.

    Changes are copied every `POLL_SECONDS`, and immediately after each line on stdin. The answer to such a line is `{}`, and means that all
    changes so far have been copied.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a notebook's Stop button is meant for its cell, not for this program
    config = read_config()
    slot = SLOT.format(os.getpid())
    try:
        with connect(config["database_url"], autocommit=True, application_name="userhooks ledger") as connection:
            row = connection.execute(_QUOTED, [config["publication"]]).fetchone()
            publication = str(row[0]) if row else ""
            connection.execute(f"set statement_timeout = {_START_MS}")
            lsn = connection.execute(_CREATE, [slot]).fetchone()
            connection.execute("set statement_timeout = 0")
            _reply({"lsn": int(lsn[0]) if lsn else 0})
            _copy(connection, slot, publication, config["file"])
    except psycopg.Error as error:
        _reply({"error": str(error).partition("\n")[0], "sqlstate": error.sqlstate})


def _copy(connection: psycopg.Connection[Any], slot: str, publication: str, file: int) -> None:
    while True:
        requests, _, _ = select.select([0], [], [], POLL_SECONDS)
        if requests and not os.read(0, 4096):
            return
        while _drain(connection, slot, publication, file):
            pass
        if requests:
            _reply({})


def _drain(connection: psycopg.Connection[Any], slot: str, publication: str, file: int) -> int:
    """Write the slot's pending payloads to the file, each preceded by its length in four bytes, and return their number."""
    count = 0
    with connection.cursor(binary=True) as cursor:
        for (payload,) in cursor.stream(_CHANGES, [slot, publication], size=1000):
            os.write(file, struct.pack(">I", len(payload)) + payload)
            count += 1
    return count


def _reply(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), file=sys.stdout, flush=True)


if __name__ == "__main__":
    main()
