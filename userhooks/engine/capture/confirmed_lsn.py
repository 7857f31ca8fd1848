"""Which LSN may be confirmed to Postgres. Pure; the slot is in `postgres/replication_stream.py`, the store in `state_store.py`.

Transactions come in commit order. Each is settled when all that it owes is delivered (or safely stored); the position that may be
confirmed is the end of the longest prefix of settled transactions, so nothing that is still owed can be forgotten by the slot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator


class Transaction:
    """One committed transaction: what it still owes, and which of its deliveries were acknowledged.

    `acknowledged` holds (index in the transaction, sink number) pairs; it is what a restart needs in order not to send again what lies
    above the confirmed position; whoever has written it to the store takes it away. `before` is the position that may be confirmed while
    this one is not settled.
    """

    __slots__ = ("acknowledged", "before", "commit_lsn", "owed", "xid")

    def __init__(self, commit_lsn: int, xid: int, before: int) -> None:
        self.commit_lsn = commit_lsn
        self.xid = xid
        self.before = before
        self.owed = 0
        self.acknowledged: list[tuple[int, int]] = []

    def acknowledge(self, index: int, sink_number: int) -> None:
        """One delivery of this transaction is done."""
        self.owed -= 1
        self.acknowledged.append((index, sink_number))

    def release(self) -> None:
        """One delivery of this transaction is no longer owed: its sink is gone, disabled, or does not want it any more."""
        self.owed -= 1


class Progress:
    """The confirmable position over a stream of transactions; `start` is the LSN up to which everything was settled before."""

    def __init__(self, start: int) -> None:
        self._end = start
        self._open: Transaction | None = None
        self._unsettled: deque[Transaction] = deque()

    def begin(self, commit_lsn: int, xid: int) -> Transaction:
        """A transaction starts in the stream; it ends with `commit`."""
        self._open = Transaction(commit_lsn, xid, self._end)
        return self._open

    def commit(self, end_lsn: int) -> None:
        """The open transaction has been read to its end, which is `end_lsn`."""
        transaction = self._open
        if transaction is None:
            raise ValueError("commit without begin")
        self._open = None
        self._end = end_lsn
        if transaction.owed:
            self._unsettled.append(transaction)

    def keepalive(self, wal_end: int) -> None:
        """Postgres has read its WAL up to `wal_end` and found nothing more for us; inside a transaction this says nothing."""
        if self._open is None and wal_end > self._end:
            self._end = wal_end

    @property
    def read(self) -> int:
        """The end of what has been read; the stream goes on there after the connection was lost."""
        return self._end

    def confirmable(self) -> int:
        """Return the LSN that may be confirmed now; it never goes back."""
        unsettled = self._unsettled
        while unsettled and not unsettled[0].owed:
            unsettled.popleft()
        return unsettled[0].before if unsettled else self._end

    def unsettled(self) -> Iterator[Transaction]:
        """Every transaction read so far whose end lies above the confirmable position, the open one included."""
        yield from self._unsettled
        if self._open is not None:
            yield self._open
