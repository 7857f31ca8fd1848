"""Benchmark of the ledger: 100,000 changes read from the WAL, each received once. A script.

    python -m benchmarks.ledger

The yardstick, in the same run, is a dictionary of the receipts by sink and position in the WAL, looked up once per change.
"""

from __future__ import annotations

import time

from tests.unit.test_ledger import ADA, BEN, CY, owed, sink
from tests.unit.test_ledger_wal import change, sent
from userhooks.ledger.changes import reconcile

CHANGES = 100_000
USERS = (ADA, BEN, CY)


def main() -> None:
    history = []
    for n in range(CHANGES):
        row = n - n % 2
        user = USERS[row % 3]
        history.append(change(n + 1, "update" if n % 2 else "insert", row, user, user if n % 2 else None))
    received = [sent(entry, sink(entry.user_id or 0), entry.user_id or 0) for entry in history]
    began = time.perf_counter()
    by_position = {(receipt.message.sink_id, receipt.message.lsn, receipt.message.idx): receipt for receipt in received}
    matched = sum((sink(entry.user_id or 0), entry.lsn, entry.idx) in by_position for entry in history)
    bare = time.perf_counter() - began
    assert matched == CHANGES
    began = time.perf_counter()
    ledger = reconcile(history, received, [owed(user) for user in USERS])
    verdict = ledger.verdict()
    judged = time.perf_counter() - began
    frame = ledger.frame()
    framed = time.perf_counter() - began - judged
    print(f"ledger of {CHANGES:,} changes   verdict {judged:.2f} s, frame() of {len(frame):,} lines {framed:.2f} s more: {verdict}")
    print(f"  a dictionary alone        {bare:.2f} s, ratio {judged / bare:.1f}")


if __name__ == "__main__":
    main()
