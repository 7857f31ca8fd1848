"""The replication slot's stream: receives payloads and sends confirmations.

This module handles the messages of the streaming replication protocol (Postgres documentation, section 54.4): XLogData, keepalives, and
standby status updates. The payloads are decoded in `pgoutput.py` and processed in `capture/transactions.py`.
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
"""Seconds to read before yielding to deliveries, which limits the latency that reading adds to a webhook."""
_POSTGRES_EPOCH_US = 946_684_800_000_000
_XLOG_DATA = ord("w")
_KEEPALIVE = ord("k")
_KEEPALIVE_FIELDS = struct.Struct(">xQqB").unpack_from
_STATUS = struct.Struct(">cQQQqB").pack
_HEADER = 25


_PREREQUISITE_STATE = "55000"
"""SQLSTATE object_not_in_prerequisite_state."""
_UNDEFINED_OBJECT = "42704"
"""SQLSTATE undefined_object."""


class ReplicationEnded(Exception):
    """The stream ended; the text gives the reason."""


class Unpublished(ReplicationEnded):
    """The publication does not exist at this point in the WAL.

    For each transaction, Postgres looks the publication up in the catalog as it was then. If the publication is missing, versions from
    18 on skip the changes with a warning; older versions end the stream with an error.
    """


class SlotStream:
    """A running START_REPLICATION on `connection`, which was opened with replication="database".

    `on_data` receives each payload of the output plugin, and `on_keepalive` the server's WAL end. Both run in the event loop; `at_once`
    returns the number of messages to process before deliveries get a turn. `on_unpublished` is called when the server skips changes
    because the publication is missing, and returns whether to continue the stream.

    Nothing is read while the stream is paused, so a transaction of any size fits in bounded memory. After `silence` / 2 seconds without
    data, the server is asked for a reply. After `silence` seconds the stream ends with TimeoutError.
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
        self._scheduled: asyncio.Handle | None = None
        self._confirmed = 0
        self._received = 0
        self._on_unpublished = on_unpublished
        self._silence = silence
        self._last_heard = 0.0
        self._watch: asyncio.TimerHandle | None = None
        connection.add_notice_handler(self._notice)
        self.ended: asyncio.Future[None] = self._loop.create_future()

    async def start(self, command: sql.Composed, confirmed: int) -> None:
        """Send the START_REPLICATION `command` and start reading; `confirmed` is the LSN confirmed so far.

        Raises OperationalError if the server refuses the command, and TimeoutError after `silence` seconds without an answer.
        """
        self._confirmed = self._received = confirmed
        pgconn = self._pgconn
        pgconn.nonblocking = 1
        pgconn.send_query(command.as_bytes(self._connection))
        pgconn.flush()  # A one-line command always fits in the socket's buffer.
        async with asyncio.timeout(self._silence):
            while pgconn.is_busy():
                await self._readable()
                pgconn.consume_input()
        result = pgconn.get_result()
        if result is None or result.status != ExecStatus.COPY_BOTH:
            raise OperationalError(result.get_error_message() if result else "START_REPLICATION was not answered")
        self.resume()
        self._check_silence()

    async def _readable(self) -> None:
        ready = asyncio.Event()
        self._loop.add_reader(self._socket, ready.set)
        try:
            await ready.wait()
        finally:
            self._loop.remove_reader(self._socket)

    # --- reading -------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop reading until `resume` is called; data already received is kept."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._socket)
            if self._scheduled is not None:
                self._scheduled.cancel()
                self._scheduled = None

    def resume(self) -> None:
        """Continue reading after a pause."""
        if not self._reading and not self.ended.done():
            self._reading = True
            self._last_heard = self._loop.time()
            self._loop.add_reader(self._socket, self._read)
            self._scheduled = self._loop.call_soon(self._drain)

    def _read(self) -> None:
        try:
            self._pgconn.consume_input()
        except OperationalError as exc:
            self._lost(exc)
            return
        self._last_heard = self._loop.time()
        self._drain()

    def _check_silence(self) -> None:
        """End the stream if the server has been silent for too long; time spent paused does not count."""
        quiet = self._loop.time() - self._last_heard if self._reading else 0.0
        if quiet > self._silence:
            self.end(TimeoutError())
            return
        if quiet > self._silence / 2:
            self.send_status(reply=True)
        self._watch = self._loop.call_later(self._silence / 4, self._check_silence)

    def _notice(self, diagnostic: Diagnostic) -> None:
        if diagnostic.sqlstate == _PREREQUISITE_STATE and not self._on_unpublished():
            self.end(Unpublished(diagnostic.message_primary or "the publication does not exist"))

    def _drain(self) -> None:
        """Process what libpq has buffered, yielding to deliveries after a time slice."""
        self._scheduled = None
        get_copy_data = self._pgconn.get_copy_data
        deadline = time.perf_counter() + _SLICE_SECONDS
        handled, limit = 0, self._at_once()
        try:
            while self._reading:
                size, buffer = get_copy_data(1)
                if size < 0:
                    self._finished()
                if size <= 0 or not self._reading:  # A notice may have ended the stream; drop the rest.
                    return
                data = buffer.tobytes()
                if data[0] == _XLOG_DATA:
                    self._on_data(data[_HEADER:])
                elif data[0] == _KEEPALIVE:
                    self._keepalive(data)
                handled += 1
                if handled >= limit or (not handled & 63 and time.perf_counter() > deadline):
                    self._scheduled = self._loop.call_soon(self._drain)
                    return
        except OperationalError as exc:
            self._lost(exc)
        except Exception as exc:  # Any error ends the stream, which must not continue past an unprocessed change.
            self.end(exc)

    def _finished(self) -> None:
        """End the stream with the reason that the server gives."""
        result = self._pgconn.get_result()
        text = result.get_error_message() if result is not None else "Postgres ended the replication stream"
        undefined = result is not None and (result.error_field(DiagnosticField.SQLSTATE) or b"").decode() == _UNDEFINED_OBJECT
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
        """Stop reading, and make `ended` raise `reason`."""
        self.pause()
        if not self.ended.done():
            self.ended.set_exception(reason)

    # --- confirming ----------------------------------------------------------------------------------------------------

    def confirm(self, lsn: int) -> None:
        """Confirm `lsn` to Postgres, which may then discard the WAL before it; the confirmed LSN never decreases."""
        self._confirmed = max(self._confirmed, lsn)
        self._received = max(self._received, lsn)
        self.send_status()

    def send_status(self, *, reply: bool = False) -> None:
        """Send a standby status update, which the server expects within its wal_sender_timeout; `reply` requests a keepalive."""
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
