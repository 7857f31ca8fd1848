"""A program that writes down the WAL's changes for as long as its parent lives: output plugin payloads from a slot of its own to a file.

It is a process because the kernel is busy while a notebook generates, and a slot that nobody reads holds WAL. The slot is temporary:
Postgres drops it with the connection, however this program ends. What is written is read by `wal.py`; `recording.py` is the parent's side.
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
    """Make the slot, say so, then note changes at every line of stdin, and now and then without one; each line is answered when done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Stop in a notebook means its cell
    config = read_config()
    slot = SLOT.format(os.getpid())
    try:
        with connect(config["database_url"], autocommit=True, application_name="userhooks ledger") as connection:
            row = connection.execute(_QUOTED, [config["publication"]]).fetchone()
            publication = str(row[0]) if row else ""
            connection.execute(f"set statement_timeout = {_START_MS}")
            lsn = connection.execute(_CREATE, [slot]).fetchone()
            connection.execute("set statement_timeout = 0")
            _say({"lsn": int(lsn[0]) if lsn else 0})
            _note(connection, slot, publication, config["file"])
    except psycopg.Error as error:
        _say({"error": str(error).partition("\n")[0], "sqlstate": error.sqlstate})


def _note(connection: psycopg.Connection[Any], slot: str, publication: str, file: int) -> None:
    while True:
        asked, _, _ = select.select([0], [], [], POLL_SECONDS)
        if asked and not os.read(0, 4096):
            return
        while _drain(connection, slot, publication, file):
            pass
        if asked:
            _say({})


def _drain(connection: psycopg.Connection[Any], slot: str, publication: str, file: int) -> int:
    """Write what the slot has, each payload behind its length, and return how many those were."""
    count = 0
    with connection.cursor(binary=True) as cursor:
        for (payload,) in cursor.stream(_CHANGES, [slot, publication], size=1000):
            os.write(file, struct.pack(">I", len(payload)) + payload)
            count += 1
    return count


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), file=sys.stdout, flush=True)


if __name__ == "__main__":
    main()
