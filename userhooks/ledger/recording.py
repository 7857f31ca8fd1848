"""Record the WAL's changes from now on: start the recorder, query it, and read what it wrote. The program itself is `recorder.py`."""

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

_PIECE = 1 << 20

_UNSUITABLE = {
    "55000": ("Postgres runs without wal_level = logical.", "Set wal_level = logical in its configuration and restart it."),
    "53400": (
        "Postgres has no replication slot left for the ledger.",
        "Raise max_replication_slots, or drop one that nobody uses: SELECT slot_name, active FROM pg_replication_slots;",
    ),
    "42501": ("The database's role may not replicate.", "Run as a superuser: ALTER ROLE … REPLICATION;"),
    "57014": (
        "Postgres could not begin a slot within 10 s: a transaction stays open.",
        "End it: SELECT pid, state, query FROM pg_stat_activity WHERE backend_xid IS NOT NULL; -- SELECT pg_terminate_backend(pid);",
    ),
}


class Recording:
    """Every change of `notifications` that commits after this was made. `close` ends it; so does the end of this process.

    Changes are kept in a file without a name, so nothing of them stays behind. Raises DatabaseUnavailable, or DatabaseUnsuitable when
    Postgres cannot have another slot.
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
        self._closed = False
        config = {"database_url": database_url, "publication": publication, "file": self._file.fileno()}
        try:
            self.start_lsn = int(self._ask(json.dumps(config))["lsn"])
        except BaseException:
            self.close()
            raise

    def changes(self) -> list[WalChange]:
        """Every change that has committed by now, in the order of the commits; after `close`, those up to then.

        Raises UserhooksError when the recorder has ended by itself: what committed since is not known.
        """
        if not self._closed:
            self._ask("")
            self._take()
        return self._changes

    def close(self) -> None:
        """End the recorder, and with it its slot."""
        if self._closed:
            return
        self._closed = True
        for stream in (self._program.stdin, self._program.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):  # a question that a recorder which is gone has not read
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
            said = self._program.stdout.readline()
        except BrokenPipeError:
            said = b""
        answer: dict[str, Any] = json.loads(said or b"{}")
        if "error" in answer:
            what, remedy = _UNSUITABLE.get(answer["sqlstate"] or "", (f"The ledger cannot read the WAL: {answer['error']}.", ""))
            raise (DatabaseUnsuitable if remedy else DatabaseUnavailable)(what, remedy or "See what is wrong: userhooks doctor")
        if not said:
            what = "The ledger's recorder has ended, so what has committed since is not known."
            raise UserhooksError(what, "Begin a new one: ledger = lesson.ledger(wal=True)")
        return answer

    def _take(self) -> None:
        """Read the whole payloads that the file has more."""
        left = b""
        while piece := os.pread(self._file.fileno(), _PIECE, self._read + len(left)):
            left += piece
            at = 0
            while len(left) - at >= 4 and len(left) - at - 4 >= (size := struct.unpack_from(">I", left, at)[0]):
                self._changes.extend(self._reader.read(left[at + 4 : at + 4 + size]))
                at += 4 + size
            self._read += at
            left = left[at:]
