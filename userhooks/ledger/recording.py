"""Records WAL changes: starts the recorder, queries it, and reads its file. The program itself is `recorder.py`."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import tempfile
from contextlib import suppress
from typing import Any

from userhooks.errors import DatabaseUnavailable, DatabaseUnsuitable, UserhooksError
from userhooks.ledger.wal import PayloadReader, WalChange
from userhooks.shared import python_command

_CHUNK = 1 << 20
"""Bytes to read from the file at a time."""

_UNSUITABLE = {
    "55000": ("Postgres runs without wal_level = logical.", "Set wal_level = logical in its configuration and restart it."),
    "53400": (
        "Postgres has no replication slot left for the ledger.",
        "Raise max_replication_slots, or drop an unused one: SELECT slot_name, active FROM pg_replication_slots;",
    ),
    "42501": ("The database's role may not replicate.", "Run as a superuser: ALTER ROLE … REPLICATION;"),
    "57014": (
        "Postgres could not create a slot within 10 s because a transaction is still open.",
        "End it: SELECT pid, state, query FROM pg_stat_activity WHERE backend_xid IS NOT NULL; -- SELECT pg_terminate_backend(pid);",
    ),
}


_RECORD_AGAIN = "Start a new one: ledger = lesson.ledger(wal=True)"


class Recording:
    """A recording of every change of `notifications` that commits from its creation until `close` or the end of this process.

    Changes are stored in an unnamed temporary file, which the system deletes in any case. Raises DatabaseUnsuitable if Postgres cannot
    create a slot, and DatabaseUnavailable for its other errors.
    """

    def __init__(self, database_url: str, publication: str) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed by close()
        self._program = subprocess.Popen(  # noqa: S603 - our own program
            python_command.command("userhooks.ledger.recorder"),
            env=python_command.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[self._file.fileno()],
            start_new_session=True,
        )
        self._read = 0
        self._reader = PayloadReader()
        self._changes: list[WalChange] = []
        self.closed = False
        config = {"database_url": database_url, "publication": publication, "file": self._file.fileno()}
        try:
            self.start_lsn = int(self._ask(json.dumps(config))["lsn"])
        except BaseException:
            self.close()
            raise

    def changes(self) -> list[WalChange]:
        """Return every change committed so far, in commit order.

        Raises UserhooksError after `close`, or if the recorder has stopped unexpectedly, because later changes are then unknown.
        """
        self.require_open()
        self._ask("")
        self._take()
        return self._changes

    def require_open(self) -> None:
        """Raise UserhooksError after `close`."""
        if self.closed:
            what = "This ledger's recording ended without a result, because its cell failed or its lesson was closed."
            raise UserhooksError(what, _RECORD_AGAIN)

    def close(self) -> None:
        """Stop the recorder, which drops its slot."""
        if self.closed:
            return
        self.closed = True
        for stream in (self._program.stdin, self._program.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):  # the recorder has already exited
                    stream.close()
        try:
            self._program.wait(5)
        except subprocess.TimeoutExpired:
            self._program.kill()
            self._program.wait()
        self._file.close()

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._program.stdin  # noqa: S101
        assert self._program.stdout  # noqa: S101
        try:
            self._program.stdin.write(line.encode() + b"\n")
            self._program.stdin.flush()
            reply = self._program.stdout.readline()
        except BrokenPipeError:
            reply = b""
        answer: dict[str, Any] = json.loads(reply or b"{}")
        if "error" in answer:
            what, remedy = _UNSUITABLE.get(answer["sqlstate"] or "", (f"The ledger cannot read the WAL: {answer['error']}.", ""))
            raise (DatabaseUnsuitable if remedy else DatabaseUnavailable)(what, remedy or "Run userhooks doctor to find out why.")
        if not reply:
            what = "The ledger's recorder has stopped, so later changes are unknown."
            raise UserhooksError(what, _RECORD_AGAIN)
        return answer

    def _take(self) -> None:
        """Decode the complete payloads that were added to the file since the last call."""
        unread = b""
        while chunk := os.pread(self._file.fileno(), _CHUNK, self._read + len(unread)):
            unread += chunk
            offset = 0
            while len(unread) - offset >= 4 and len(unread) - offset - 4 >= (size := struct.unpack_from(">I", unread, offset)[0]):
                self._changes.extend(self._reader.read(unread[offset + 4 : offset + 4 + size]))
                offset += 4 + size
            self._read += offset
            unread = unread[offset:]
