"""Tracks the LSN that may be confirmed to Postgres. No I/O.

Transactions arrive in commit order. A transaction is settled when all of its messages are delivered or stored on disk. The LSN that may be
confirmed is the end of the longest prefix of settled transactions, so the slot always keeps the changes that pending
messages come from.

`flusher.py` stores the LSN and then confirms it to the slot, through `postgres/replication_stream.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator


class Transaction:
    """One transaction: the number of its pending messages (`owed`), and the deliveries that were acknowledged.

    `acknowledged` contains (index in the transaction, sink number) pairs. Once stored, they prevent acknowledged messages above the
    confirmed LSN from being sent again after a restart. The flusher removes the pairs that it has stored. `before` is the highest LSN that
    may be confirmed while this transaction is pending.
    """

    __slots__ = ("acknowledged", "before", "commit_lsn", "owed", "xid")

    def __init__(self, commit_lsn: int, xid: int, before: int) -> None:
        self.commit_lsn = commit_lsn
        self.xid = xid
        self.before = before
        self.owed = 0
        self.acknowledged: list[tuple[int, int]] = []

    def acknowledge(self, index: int, sink_number: int) -> None:
        """Record that a message of this transaction was delivered."""
        self.owed -= 1
        self.acknowledged.append((index, sink_number))

    def release(self) -> None:
        """Record that a message was stored on disk or dropped, so that it no longer needs this transaction."""
        self.owed -= 1


class Progress:
    """The confirmable LSN of a stream of transactions; everything before `start` is already settled."""

    def __init__(self, start: int) -> None:
        self._end = start
        self._open: Transaction | None = None
        self._unsettled: deque[Transaction] = deque()

    def begin(self, commit_lsn: int, xid: int) -> Transaction:
        """Start a transaction, which ends with `commit`."""
        self._open = Transaction(commit_lsn, xid, self._end)
        return self._open

    def commit(self, end_lsn: int) -> None:
        """End the open transaction; `end_lsn` is the first LSN after it.

        Raises ValueError if no transaction is open.
        """
        transaction = self._open
        if transaction is None:
            raise ValueError("commit without begin")
        self._open = None
        self._end = end_lsn
        if transaction.owed:
            self._unsettled.append(transaction)

    def keepalive(self, wal_end: int) -> None:
        """Advance to `wal_end`, up to which Postgres has no further changes to send; has no effect inside a transaction."""
        if self._open is None and wal_end > self._end:
            self._end = wal_end

    @property
    def read(self) -> int:
        """The LSN up to which the stream has been read, where it resumes after a reconnect."""
        return self._end

    def confirmable(self) -> int:
        """Return the LSN that may be confirmed now; it never decreases."""
        unsettled = self._unsettled
        while unsettled and not unsettled[0].owed:
            unsettled.popleft()
        return unsettled[0].before if unsettled else self._end

    def unsettled(self) -> Iterator[Transaction]:
        """Yield every transaction that ends above the confirmable LSN, including the open one."""
        yield from self._unsettled
        if self._open is not None:
            yield self._open
