"""The replication slot's stream: bytes in, confirmations out. What the bytes mean is in `pgoutput.py` and `capture/transactions.py`.

The messages are those of the streaming replication protocol (Postgres documentation, 54.4): XLogData, keepalives and standby status
updates.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from typing import Any

from psycopg import AsyncConnection, OperationalError, sql
from psycopg.errors import Diagnostic
from psycopg.pq import DiagnosticField, ExecStatus

_SLICE_SECONDS = 0.004
"""How long one turn may read before deliveries get theirs: it bounds what reading adds to a webhook's latency."""
_POSTGRES_EPOCH_US = 946_684_800_000_000
_XLOG_DATA = ord("w")
_KEEPALIVE = ord("k")
_KEEPALIVE_FIELDS = struct.Struct(">xQqB").unpack_from
_STATUS = struct.Struct(">cQQQqB").pack
_HEADER = 25


_STATE = "55000"  # object_not_in_prerequisite_state
_UNDEFINED = "42704"  # undefined_object


class ReplicationEnded(Exception):
    """The stream ended; the text says how."""


class Unpublished(ReplicationEnded):
    """The publication does not exist at this point of the WAL.

    Postgres decides what a transaction publishes by the catalog as of that transaction. Since Postgres 18 such changes are left out with a
    warning; before that, the stream ends with an error.
    """


class SlotStream:
    """One running START_REPLICATION on `connection` (opened with replication="database").

    `on_data` gets each payload of the output plugin, `on_keepalive` the server's WAL end; both run in the event loop, no more than
    `at_once` messages before deliveries get a turn. `on_unpublished` is called when changes are left out for want of the publication, and
    says whether the stream goes on. Reading stops while it is paused, so that a transaction of any size passes through bounded memory. The
    server is asked for a sign of life after half of `silence` seconds, and given up after all of them.
    """

    def __init__(
        self,
        connection: AsyncConnection[Any],
        *,
        on_data: Callable[[bytes], None],
        at_once: Callable[[], int],
        on_keepalive: Callable[[int], None],
        on_unpublished: Callable[[], bool],
        silence: float,
    ) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._on_data = on_data
        self._at_once = at_once
        self._on_keepalive = on_keepalive
        self._loop = asyncio.get_running_loop()
        self._socket = connection.pgconn.socket
        self._reading = False
        self._again: asyncio.Handle | None = None
        self._confirmed = 0
        self._received = 0
        self._on_unpublished = on_unpublished
        self._silence = silence
        self._heard = 0.0
        self._watch: asyncio.TimerHandle | None = None
        connection.add_notice_handler(self._notice)
        self.ended: asyncio.Future[None] = self._loop.create_future()

    async def start(self, command: sql.Composed, confirmed: int) -> None:
        """Send the START_REPLICATION command and begin to read; raises OperationalError when the server refuses it, TimeoutError."""
        self._confirmed = self._received = confirmed
        pgconn = self._pgconn
        pgconn.nonblocking = 1
        pgconn.send_query(command.as_bytes(self._connection))
        pgconn.flush()  # a command of one line fits the socket's buffer
        async with asyncio.timeout(self._silence):
            while pgconn.is_busy():
                await self._readable()
                pgconn.consume_input()
        result = pgconn.get_result()
        if result is None or result.status != ExecStatus.COPY_BOTH:
            raise OperationalError(result.get_error_message() if result else "START_REPLICATION was not answered")
        self.resume()
        self._listen()

    async def _readable(self) -> None:
        ready = asyncio.Event()
        self._loop.add_reader(self._socket, ready.set)
        try:
            await ready.wait()
        finally:
            self._loop.remove_reader(self._socket)

    # --- reading -------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Read no more until `resume`; what has been read is not lost."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._socket)
            if self._again is not None:
                self._again.cancel()
                self._again = None

    def resume(self) -> None:
        """Read on."""
        if not self._reading and not self.ended.done():
            self._reading = True
            self._heard = self._loop.time()
            self._loop.add_reader(self._socket, self._read)
            self._again = self._loop.call_soon(self._drain)

    def _read(self) -> None:
        try:
            self._pgconn.consume_input()
        except OperationalError as exc:
            self._lost(exc)
            return
        self._heard = self._loop.time()
        self._drain()

    def _listen(self) -> None:
        """Look whether the server still talks; while nothing is read, nothing can be heard."""
        quiet = self._loop.time() - self._heard if self._reading else 0.0
        if quiet > self._silence:
            self.end(TimeoutError())
            return
        if quiet > self._silence / 2:
            self.send_status(reply=True)
        self._watch = self._loop.call_later(self._silence / 4, self._listen)

    def _notice(self, diagnostic: Diagnostic) -> None:
        if diagnostic.sqlstate == _STATE and not self._on_unpublished():
            self.end(Unpublished(diagnostic.message_primary or "the publication does not exist"))

    def _drain(self) -> None:
        """Handle what libpq has buffered; after a slice of time let the deliveries have a turn."""
        self._again = None
        get_copy_data = self._pgconn.get_copy_data
        until = time.perf_counter() + _SLICE_SECONDS
        handled, most = 0, self._at_once()
        try:
            while self._reading:
                size, buffer = get_copy_data(1)
                if size < 0:
                    self._finished()
                if size <= 0 or not self._reading:  # what came with a notice that ended the stream is not handled
                    return
                data = buffer.tobytes()
                if data[0] == _XLOG_DATA:
                    self._on_data(data[_HEADER:])
                elif data[0] == _KEEPALIVE:
                    self._keepalive(data)
                handled += 1
                if handled >= most or (not handled & 63 and time.perf_counter() > until):
                    self._again = self._loop.call_soon(self._drain)
                    return
        except OperationalError as exc:
            self._lost(exc)
        except Exception as exc:  # whatever it is: the stream must not go on past a change that was not handled
            self.end(exc)

    def _finished(self) -> None:
        """The server has ended the stream, and says why."""
        result = self._pgconn.get_result()
        text = result.get_error_message() if result is not None else "Postgres ended the replication stream"
        undefined = result is not None and (result.error_field(DiagnosticField.SQLSTATE) or b"").decode() == _UNDEFINED
        self.end(Unpublished(text) if undefined else ReplicationEnded(text))

    def _keepalive(self, data: bytes) -> None:
        wal_end, _, reply = _KEEPALIVE_FIELDS(data)
        self._received = max(self._received, wal_end)
        self._on_keepalive(wal_end)
        if reply:
            self.send_status()

    def _lost(self, exc: OperationalError) -> None:
        self.end(ReplicationEnded(f"the connection to Postgres was lost: {exc}"))

    def end(self, reason: Exception) -> None:
        """Read no more; `ended` raises the reason."""
        self.pause()
        if not self.ended.done():
            self.ended.set_exception(reason)

    # --- confirming ----------------------------------------------------------------------------------------------------

    def confirm(self, lsn: int) -> None:
        """Tell Postgres that nothing before `lsn` is needed any more; it never goes back."""
        self._confirmed = max(self._confirmed, lsn)
        self._received = max(self._received, lsn)
        self.send_status()

    def send_status(self, *, reply: bool = False) -> None:
        """Send a standby status update, which the server expects within its wal_sender_timeout; `reply` asks it for one of its own."""
        if self.ended.done():
            return
        now = time.time_ns() // 1000 - _POSTGRES_EPOCH_US
        try:
            self._pgconn.put_copy_data(_STATUS(b"r", self._received, self._confirmed, self._confirmed, now, reply))
            self._pgconn.flush()
        except OperationalError as exc:
            self._lost(exc)

    async def close(self) -> None:
        """Stop reading and close the connection."""
        self.pause()
        if self._watch is not None:
            self._watch.cancel()
        if not self.ended.done():
            self.ended.cancel()
        await self._connection.close()
